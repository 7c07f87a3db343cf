//! The tokens of words, remembered by each thread.
//!
//! # Why
//! Nine words in ten of a text are among a few thousand, and most of them are one token. A word of up to 12 bytes that is
//! one token takes 16 bytes, four of them a cache line, which is one row of a table; a word that is asked for again moves
//! to the front of its row, and the last one makes room for new words. Words of a few tokens have a table of their own,
//! long ones an ordinary map that is emptied when it is full. Nothing grows with the data.

use super::fold::{Folded, fold};
use super::merge::{Merges, Scratch};
use std::cell::RefCell;

/// Rows of the table of single tokens, a power of two: 1 MB for 65,536 words.
const ROWS: usize = 1 << 14;
/// Slots of the table of words of a few tokens, a power of two: 1 MB.
const SLOTS: usize = 1 << 15;
/// Words in the map of long ones, and their greatest length in bytes.
const LONG: usize = 1 << 14;
const LONGEST: usize = 64;
/// Tokenizers whose words a thread remembers.
const TOKENIZERS: usize = 4;

/// The tokens of one word.
pub(super) enum Word<'a> {
    /// One token, the word itself.
    One(u32),
    /// Tokens with their lengths in bytes.
    Many(&'a [(u32, u32)]),
    /// A byte of it has no token.
    Unknown,
}

/// What one thread knows of one tokenizer's words.
#[derive(Debug)]
pub(super) struct Words {
    rows: Box<[Row]>,
    slots: Box<[Slot]>,
    long: LongWords,
    scratch: Scratch,
    /// Room for a piece of text with a space in front.
    pub(super) spaced: String,
}

/// Words of one token: each the word's bytes (96 bits), its token (28 bits) and its length (4 bits); 0 where free.
#[derive(Debug, Clone, Copy, Default)]
#[repr(align(64))]
struct Row([u128; 4]);

/// Where the token lies in a word's 128 bits.
const TOKEN: u32 = 96;
const TOKEN_MASK: u128 = 0xFFF_FFFF << TOKEN;

type LongWords = Folded<Box<[u8]>, Box<[(u32, u32)]>>;

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    /// Up to 15 bytes, and in the last one how many; 0 where the slot is free.
    key: u128,
    ids: [u32; 3],
    lengths: [u8; 3],
    n: u8,
}

/// Lends the words that this thread knows of tokenizer `id`.
pub(super) fn with<T>(id: u64, work: impl FnOnce(&mut Words) -> T) -> T {
    thread_local! {
        static KNOWN: RefCell<Vec<(u64, Words)>> = const { RefCell::new(Vec::new()) };
    }
    KNOWN.with_borrow_mut(|known| {
        let place = known.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            if known.len() == TOKENIZERS {
                known.remove(0);
            }
            known.push((id, Words::new()));
            known.len() - 1
        });
        work(&mut known[place].1)
    })
}

impl Words {
    fn new() -> Self {
        let rows = vec![Row::default(); ROWS].into_boxed_slice();
        let slots = vec![Slot::default(); SLOTS].into_boxed_slice();
        let (long, scratch, spaced) = Default::default();
        Self { rows, slots, long, scratch, spaced }
    }

    /// The tokens of `text[start..end]`.
    #[inline(always)]
    pub(super) fn get(
        &mut self,
        text: &[u8],
        start: usize,
        end: usize,
        merges: &Merges,
    ) -> Word<'_> {
        let length = end - start;
        if length > 15 {
            return self.long(&text[start..end], merges);
        }
        let key = key(text, start, length);
        let hash = fold(key as u64, (key >> 64) as u64);
        if length <= 12 {
            let wanted = key & !(0xF << 120) | (length as u128) << 124;
            let row = &mut self.rows[(hash >> 32) as usize & (ROWS - 1)].0;
            for place in 0..4 {
                if row[place] & !TOKEN_MASK == wanted {
                    let token = (row[place] & TOKEN_MASK) >> TOKEN;
                    if place > 0 {
                        row.swap(place, place - 1);
                    }
                    return Word::One(token as u32);
                }
            }
        }
        self.several(key, hash, &text[start..end], merges)
    }

    /// A word that is not in the table of single tokens.
    #[inline(never)]
    fn several(&mut self, key: u128, hash: u64, word: &[u8], merges: &Merges) -> Word<'_> {
        let home = (hash >> 16) as usize & (SLOTS - 1);
        for place in [home, home ^ 1] {
            let slot = self.slots[place];
            if slot.key == key {
                let tokens = slot.ids.iter().zip(slot.lengths).take(usize::from(slot.n));
                self.scratch.tokens.clear();
                self.scratch.tokens.extend(tokens.map(|(&id, length)| (id, u32::from(length))));
                return Word::Many(&self.scratch.tokens);
            }
        }
        if self.long.contains_key(word) {
            return self.long.get(word).map_or(Word::Unknown, |tokens| Word::Many(tokens));
        }
        if !merges.merge(word, &mut self.scratch) {
            return Word::Unknown;
        }
        match self.scratch.tokens.as_slice() {
            &[(id, _)] if word.len() <= 12 && id < 1 << 28 => {
                let row = &mut self.rows[(hash >> 32) as usize & (ROWS - 1)].0;
                let word = key & !(0xF << 120) | (word.len() as u128) << 124;
                row[3] = word | u128::from(id) << TOKEN;
            }
            tokens if tokens.len() <= 3 => {
                let mut slot = Slot { key, n: tokens.len() as u8, ..Slot::default() };
                for (index, &(id, length)) in tokens.iter().enumerate() {
                    (slot.ids[index], slot.lengths[index]) = (id, length as u8);
                }
                self.slots[home ^ 1] = self.slots[home];
                self.slots[home] = slot;
            }
            _ => self.keep_long(word),
        }
        Word::Many(&self.scratch.tokens)
    }

    fn long(&mut self, word: &[u8], merges: &Merges) -> Word<'_> {
        if word.len() <= LONGEST && self.long.contains_key(word) {
            return self.long.get(word).map_or(Word::Unknown, |tokens| Word::Many(tokens));
        }
        if !merges.merge(word, &mut self.scratch) {
            return Word::Unknown;
        }
        if word.len() <= LONGEST {
            self.keep_long(word);
        }
        Word::Many(&self.scratch.tokens)
    }

    fn keep_long(&mut self, word: &[u8]) {
        if self.long.len() == LONG {
            self.long.clear();
        }
        self.long.insert(word.into(), self.scratch.tokens.as_slice().into());
    }
}

/// `length` bytes of `text` (1 to 15) and the length itself.
#[inline(always)]
fn key(text: &[u8], start: usize, length: usize) -> u128 {
    let bytes = match text.get(start..start + 16).map(<[u8; 16]>::try_from) {
        Some(Ok(bytes)) => u128::from_le_bytes(bytes) & ((1 << (8 * length)) - 1),
        _ => {
            let mut bytes = [0; 16];
            bytes[..length].copy_from_slice(&text[start..start + length]);
            u128::from_le_bytes(bytes)
        }
    };
    bytes | (length as u128) << 120
}
