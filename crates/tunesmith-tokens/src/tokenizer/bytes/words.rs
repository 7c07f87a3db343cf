//! The tokens of words, remembered by each thread.
//!
//! # Why
//! Nine words in ten of a text are among a few thousand. A word of up to 15 bytes and three tokens takes one slot of 32
//! bytes in a table of fixed size, so that looking it up costs one cache line; where two slots are taken the older word
//! makes room. Longer words go to an ordinary map that is emptied when it is full. Nothing grows with the data.

use super::merge::{Merges, Scratch};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// Slots of a table, a power of two: 2 MB.
const SLOTS: usize = 1 << 16;
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
    slots: Box<[Slot]>,
    long: LongWords,
    scratch: Scratch,
}

type LongWords = HashMap<Box<[u8]>, Box<[(u32, u32)]>, BuildHasherDefault<Fold>>;

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
        let slots = vec![Slot::default(); SLOTS].into_boxed_slice();
        Self { slots, long: LongWords::default(), scratch: Scratch::default() }
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
        let home = (fold(key as u64, (key >> 64) as u64) >> 48) as usize & (SLOTS - 1);
        for place in [home, home ^ 1] {
            let slot = &self.slots[place];
            if slot.key == key {
                if slot.n == 1 {
                    return Word::One(slot.ids[0]);
                }
                return self.several(place);
            }
        }
        self.short(key, home, &text[start..end], merges)
    }

    fn several(&mut self, place: usize) -> Word<'_> {
        let slot = self.slots[place];
        self.scratch.tokens.clear();
        let tokens = slot.ids.iter().zip(slot.lengths).take(usize::from(slot.n));
        self.scratch.tokens.extend(tokens.map(|(&id, length)| (id, u32::from(length))));
        Word::Many(&self.scratch.tokens)
    }

    #[cold]
    fn short(&mut self, key: u128, home: usize, word: &[u8], merges: &Merges) -> Word<'_> {
        if !merges.merge(word, &mut self.scratch) {
            return Word::Unknown;
        }
        let tokens = &self.scratch.tokens;
        if tokens.len() > 3 {
            return Word::Many(&self.scratch.tokens);
        }
        let mut slot = Slot { key, n: tokens.len() as u8, ..Slot::default() };
        for (index, &(id, length)) in tokens.iter().enumerate() {
            (slot.ids[index], slot.lengths[index]) = (id, length as u8);
        }
        self.slots[home ^ 1] = self.slots[home];
        self.slots[home] = slot;
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
            if self.long.len() == LONG {
                self.long.clear();
            }
            self.long.insert(word.into(), self.scratch.tokens.as_slice().into());
        }
        Word::Many(&self.scratch.tokens)
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

/// Two words as one: the halves of their product.
#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product =
        u128::from(left ^ 0x9E37_79B9_7F4A_7C15) * u128::from(right ^ 0xD1B5_4A32_D192_ED03);
    (product >> 64) as u64 ^ product as u64
}

/// [`fold`] over eight bytes at a time.
#[derive(Debug, Default)]
struct Fold(u64);

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.0 = fold(self.0, u64::from_le_bytes(word));
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
