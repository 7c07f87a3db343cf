//! BPE tokenizers, byte-level ones (GPT-2, Llama 3, Qwen, SmolLM2) and those of SentencePiece (Llama 2), encoded here
//! instead of by the `tokenizers` crate.
//!
//! # Why
//! The crate encodes 5 MB/s per core: a regex engine finds the words, and every word becomes objects with text and
//! offsets. Here functions find the words ([`split`]), each thread remembers the tokens of frequent words ([`words`]),
//! and a word that it does not know is merged without allocation ([`merge`]). What is in the file decides: whatever is
//! not exactly one of the known forms leaves the whole tokenizer to the crate, and so does a single text that holds a
//! byte without a token, or that NFC would change. Tests compare ids and spans with the crate's.
//!
//! ```text
//! text ─ added tokens ─► pieces ─ split ─► words ─ words, merge ─► ids with the bytes of each
//! ```
//!
//! SentencePiece writes `▁` for a space and may put one in front of a piece; its words are what stands between spaces.

mod classes;
mod file;
mod fold;
mod merge;
mod split;
mod words;

use super::added::Added;
use classes::Classes;
use merge::Merges;
use split::Split;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use words::Word;

/// Text that the crate encodes before it is worth reading the file a second time, which costs as much as encoding this.
const WORTH: usize = 1 << 18;

/// A [`Bpe`] that is made when much text has been seen.
#[derive(Debug)]
pub(super) struct Later {
    json: Mutex<Vec<u8>>,
    n_seen: AtomicUsize,
    own: OnceLock<Option<Bpe>>,
}

impl Later {
    pub(super) fn new(json: &[u8]) -> Self {
        let (json, n_seen) = (Mutex::new(json.to_owned()), AtomicUsize::new(0));
        Self { json, n_seen, own: OnceLock::new() }
    }

    /// What encodes this text here; none where that is for the crate.
    pub(super) fn get(&self, text: &str) -> Option<&Bpe> {
        if let Some(own) = self.own.get() {
            return own.as_ref();
        }
        let n_seen = self.n_seen.fetch_add(text.len(), Ordering::Relaxed) + text.len();
        if n_seen < WORTH { None } else { self.make() }
    }

    pub(super) fn make(&self) -> Option<&Bpe> {
        let read = || {
            let json =
                std::mem::take(&mut *self.json.lock().unwrap_or_else(PoisonError::into_inner));
            Bpe::from_json(&json)
        };
        self.own.get_or_init(read).as_ref()
    }
}

/// A tokenizer that merges the bytes or characters of words.
#[derive(Debug)]
pub(super) struct Bpe {
    /// Names it in the caches of threads.
    id: u64,
    added: Added,
    split: Split,
    merges: Merges,
    normal: Normal,
}

/// What is done to a piece of text before it is split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Normal {
    /// Nothing.
    No,
    /// Unicode's NFC.
    Nfc,
    /// Spaces are characters of words, and one may be put in front.
    Spaces(Lead),
}

/// Where SentencePiece puts a space in front of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Lead {
    /// Everywhere.
    Always,
    /// Where none is there.
    Missing,
    /// The same at the start of the text alone.
    MissingAtStart,
    /// Nowhere.
    Never,
}

impl Lead {
    fn applies(self, piece: &str, start: usize) -> bool {
        match self {
            Self::Always => true,
            Self::Missing => !piece.starts_with(' '),
            Self::MissingAtStart => start == 0 && !piece.starts_with(' '),
            Self::Never => false,
        }
    }
}

impl Bpe {
    /// Reads a `tokenizer.json`; `None` where it is anything else than a BPE of a known form.
    fn from_json(json: &[u8]) -> Option<Self> {
        static IDS: AtomicU64 = AtomicU64::new(0);
        let file::Parts { added, split, merges, normal } = file::read(json)?;
        Some(Self { id: IDS.fetch_add(1, Ordering::Relaxed), added, split, merges, normal })
    }

    /// Calls `token` with the id and the byte range of each token of `text`. False where this text is for the crate;
    /// `token` may have been called then.
    pub(super) fn encode(&self, text: &str, mut token: impl FnMut(u32, usize, usize)) -> bool {
        words::with(self.id, |words| {
            let mut from = 0;
            for (range, id) in self.added.iter(text) {
                if !self.piece(words, text, from..range.start, &mut token) {
                    return false;
                }
                from = range.end;
                token(id, range.start, range.end);
            }
            self.piece(words, text, from..text.len(), &mut token)
        })
    }

    /// The part of `text` between two added tokens.
    fn piece(
        &self,
        words: &mut words::Words,
        text: &str,
        range: Range<usize>,
        token: &mut impl FnMut(u32, usize, usize),
    ) -> bool {
        match self.normal {
            Normal::Nfc if !Classes::get().is_nfc(&text[range.clone()]) => false,
            Normal::No | Normal::Nfc => self.words(words, text, range, token),
            // It could not be told from a space.
            Normal::Spaces(_) if text[range.clone()].contains(merge::SPACE) => false,
            Normal::Spaces(lead) if lead.applies(&text[range.clone()], range.start) => {
                self.after_space(words, text, range, token)
            }
            Normal::Spaces(_) => self.words(words, text, range, token),
        }
    }

    /// The words of a part of `text`.
    fn words(
        &self,
        words: &mut words::Words,
        text: &str,
        range: Range<usize>,
        token: &mut impl FnMut(u32, usize, usize),
    ) -> bool {
        let (base, piece) = (range.start, &text[range]);
        let text = text.as_bytes();
        let mut known = true;
        self.split.each(piece, |start, end| {
            let (start, end) = (base + start, base + end);
            match words.get(text, start, end, &self.merges) {
                Word::One(id) => token(id, start, end),
                Word::Many(tokens) => {
                    let mut at = start;
                    for &(id, length) in tokens {
                        let next = at + length as usize;
                        token(id, floor(text, at), ceil(text, next));
                        at = next;
                    }
                }
                Word::Unknown => known = false,
            }
        });
        known
    }

    /// The same with a space in front of the part, which belongs to its first character.
    fn after_space(
        &self,
        words: &mut words::Words,
        text: &str,
        range: Range<usize>,
        token: &mut impl FnMut(u32, usize, usize),
    ) -> bool {
        let piece = &text[range.clone()];
        let Some(first) = piece.chars().next() else { return true };
        let mut spaced = std::mem::take(&mut words.spaced);
        spaced.clear();
        spaced.push(' ');
        spaced.push_str(piece);
        let known = self.words(words, &spaced, 0..spaced.len(), &mut |id, start, end| {
            let start = range.start + start.saturating_sub(1);
            let end = if end == 1 { first.len_utf8() } else { end - 1 };
            token(id, start, range.start + end);
        });
        words.spaced = spaced;
        known
    }
}

/// The start of the character that byte `at` belongs to: a token of half a character stands for the whole of it.
#[inline(always)]
fn floor(text: &[u8], mut at: usize) -> usize {
    while at > 0 && is_continuation(text, at) {
        at -= 1;
    }
    at
}

/// The end of the character whose bytes end at `at` or behind it.
#[inline(always)]
fn ceil(text: &[u8], mut at: usize) -> usize {
    while is_continuation(text, at) {
        at += 1;
    }
    at
}

#[inline(always)]
fn is_continuation(text: &[u8], at: usize) -> bool {
    text.get(at).is_some_and(|byte| byte & 0xC0 == 0x80)
}
