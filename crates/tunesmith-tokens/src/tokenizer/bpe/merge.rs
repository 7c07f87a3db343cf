//! Byte pair encoding of one word (Sennrich et al. 2016, arXiv:1508.07909): of all neighbours that a merge exists for,
//! the pair of the lowest rank becomes one token, the leftmost first, until no merge is left.
//!
//! Ranks: `h+e` 0, `l+l` 1, `he+ll` 2. `h e l l o` → `he l l o` → `he ll o` → `hell o`.

use super::file::Merge;
use super::fold::Folded;
use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// No token, or no merge.
const NONE: u32 = u32::MAX;

/// Words of up to this many symbols are merged by looking for the lowest rank again and again, longer ones with a heap.
const SHORT: usize = 48;

/// How SentencePiece writes a space.
pub(super) const SPACE: char = '▁';

/// The vocabulary as merging needs it.
#[derive(Debug)]
pub(super) struct Merges {
    symbols: Symbols,
    /// Open addressing with a power of two of slots, at most two thirds of them full.
    pairs: Vec<Pair>,
    shift: u32,
    /// Whole words that are tokens whatever their merges say; only where the file asks for it.
    whole: Option<Folded<Box<[u8]>, u32>>,
}

/// What a word consists of before anything is merged.
#[derive(Debug)]
pub(super) struct Symbols {
    /// The token of each byte, or [`NONE`].
    bytes: [u32; 256],
    /// The tokens of characters; those without one are written as bytes. Without the map, all are.
    characters: Option<Folded<char, u32>>,
}

#[derive(Debug, Clone, Copy)]
struct Pair {
    left: u32,
    right: u32,
    rank: u32,
    id: u32,
}

/// What merging a word needs of memory, kept from word to word.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    /// The tokens of the word and their lengths in bytes.
    pub(super) tokens: Vec<(u32, u32)>,
    /// The merge of each token with the one behind it: rank and id.
    merges: Vec<(u32, u32)>,
    links: Vec<Link>,
    heap: BinaryHeap<Reverse<(u32, u32, u32)>>,
}

/// A token in a list, by the index of its first byte.
#[derive(Debug, Clone, Copy)]
struct Link {
    id: u32,
    length: u32,
    previous: u32,
    next: u32,
}

impl Merges {
    /// `None` where a vocabulary is contradictory, or spells tokens otherwise than byte by byte.
    pub(super) fn new(
        vocab: &Folded<Cow<'_, str>, u32>,
        merges: &[Merge<'_>],
        symbols: Symbols,
        ignore_merges: bool,
    ) -> Option<Self> {
        let mut ids: Vec<u32> = vocab.values().copied().collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) || ids.last() == Some(&NONE) {
            return None; // two spellings of one id could not be told apart
        }
        let slots = (merges.len() + merges.len() / 2).next_power_of_two().max(2);
        let empty = Pair { left: NONE, right: NONE, rank: NONE, id: NONE };
        let mut table =
            Self { symbols, pairs: vec![empty; slots], shift: 64 - slots.ilog2(), whole: None };
        let mut joined = String::new();
        for (rank, Merge(left, right)) in merges.iter().enumerate() {
            joined.clear();
            joined.push_str(left);
            joined.push_str(right);
            let (left, right) = (*vocab.get(left)?, *vocab.get(right)?);
            let slot = table.slot(left, right);
            table.pairs[slot] = Pair { left, right, rank: rank as u32, id: *vocab.get(&*joined)? };
        }
        if ignore_merges {
            let byte_of: HashMap<char, u8> = alphabet().into_iter().zip(0..=255).collect();
            let spelled = |token: &str| -> Option<Box<[u8]>> {
                token.chars().map(|c| byte_of.get(&c).copied()).collect()
            };
            let words =
                vocab.iter().filter_map(|(token, &id)| Some((spelled(token)?, id))).collect();
            table.whole = Some(words);
        }
        Some(table)
    }

    /// Puts the tokens of `word` into `scratch.tokens`; false where a byte has no token.
    pub(super) fn merge(&self, word: &[u8], scratch: &mut Scratch) -> bool {
        scratch.tokens.clear();
        if let Some(&id) = self.whole.as_ref().and_then(|whole| whole.get(word)) {
            scratch.tokens.push((id, word.len() as u32));
            return true;
        }
        if !self.symbols.write(word, &mut scratch.tokens) {
            return false;
        }
        if scratch.tokens.len() <= SHORT {
            self.merge_short(scratch);
        } else {
            self.merge_long(scratch);
        }
        true
    }

    fn merge_short(&self, Scratch { tokens, merges, .. }: &mut Scratch) {
        merges.clear();
        merges.extend(tokens.windows(2).map(|pair| self.pair(pair[0].0, pair[1].0)));
        merges.push((NONE, NONE));
        loop {
            let mut best = 0;
            for (index, &(rank, _)) in merges.iter().enumerate() {
                if rank < merges[best].0 {
                    best = index;
                }
            }
            let (rank, id) = merges[best];
            if rank == NONE {
                return;
            }
            tokens[best] = (id, tokens[best].1 + tokens[best + 1].1);
            tokens.remove(best + 1);
            merges.remove(best + 1);
            merges[best] =
                tokens.get(best + 1).map_or((NONE, NONE), |&(right, _)| self.pair(id, right));
            if best > 0 {
                merges[best - 1] = self.pair(tokens[best - 1].0, id);
            }
        }
    }

    fn merge_long(&self, Scratch { tokens, links, heap, .. }: &mut Scratch) {
        let n = tokens.len() as u32;
        links.clear();
        links.extend(tokens.iter().zip(0..n).map(|(&(id, length), at)| Link {
            id,
            length,
            previous: at.wrapping_sub(1),
            next: at + 1,
        }));
        heap.clear();
        let candidate = |links: &[Link], at: u32| {
            let left = links.get(at as usize)?;
            let right = links.get(left.next as usize)?;
            let (rank, id) = self.pair(left.id, right.id);
            (rank != NONE).then_some(Reverse((rank, at, id)))
        };
        heap.extend((0..n).filter_map(|at| candidate(links, at)));
        while let Some(Reverse((_, at, id))) = heap.pop() {
            let left = links[at as usize];
            // What was merged meanwhile has length 0, or another neighbour, with which it makes another token.
            let Some(&right) = links.get(left.next as usize) else { continue };
            if left.length == 0 || self.pair(left.id, right.id).1 != id {
                continue;
            }
            links[left.next as usize].length = 0;
            links[at as usize] =
                Link { id, length: left.length + right.length, next: right.next, ..left };
            if let Some(next) = links.get_mut(right.next as usize) {
                next.previous = at;
            }
            heap.extend(candidate(links, left.previous));
            heap.extend(candidate(links, at));
        }
        tokens.clear();
        let kept = links.iter().filter(|link| link.length > 0);
        tokens.extend(kept.map(|link| (link.id, link.length)));
    }

    /// Rank and id of the merge of two tokens.
    #[inline]
    fn pair(&self, left: u32, right: u32) -> (u32, u32) {
        let pair = &self.pairs[self.slot(left, right)];
        (pair.rank, pair.id)
    }

    /// The slot of the pair, or the empty one where it would be.
    #[inline]
    fn slot(&self, left: u32, right: u32) -> usize {
        let key = u64::from(left) << 32 | u64::from(right);
        let mut slot = (key.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> self.shift) as usize;
        loop {
            let pair = &self.pairs[slot];
            if (pair.left, pair.right) == (left, right) || pair.id == NONE {
                return slot;
            }
            slot = (slot + 1) & (self.pairs.len() - 1);
        }
    }
}

impl Symbols {
    /// Bytes in GPT-2's spelling.
    pub(super) fn bytes(vocab: &Folded<Cow<'_, str>, u32>) -> Self {
        let token = |c: char| vocab.get(c.encode_utf8(&mut [0; 4]) as &str).copied();
        Self { bytes: alphabet().map(|c| token(c).unwrap_or(NONE)), characters: None }
    }

    /// Characters, and `<0x00>` to `<0xFF>` for what is none. `None` where a byte has no token, where bytes are merged,
    /// or where a merge joins a space to what stands before it, so that words could not be merged by themselves.
    pub(super) fn characters(
        vocab: &Folded<Cow<'_, str>, u32>,
        merges: &[Merge<'_>],
    ) -> Option<Self> {
        let mut bytes = [NONE; 256];
        for (byte, id) in bytes.iter_mut().enumerate() {
            *id = *vocab.get(format!("<0x{byte:02X}>").as_str())?;
        }
        let is_byte = |token: &str| vocab.get(token).is_some_and(|id| bytes.contains(id));
        let crosses = |left: &str, right: &str| {
            let joined = left.chars().chain(right.chars()).skip_while(|&c| c == SPACE);
            joined.skip(1).any(|c| c == SPACE)
        };
        if merges
            .iter()
            .any(|Merge(left, right)| is_byte(left) || is_byte(right) || crosses(left, right))
        {
            return None;
        }
        let single = |(token, &id): (&Cow<'_, str>, &u32)| {
            let mut chars = token.chars();
            let c = chars.next().filter(|_| chars.next().is_none())?;
            Some((if c == SPACE { ' ' } else { c }, id))
        };
        let known = vocab.iter().filter(|(token, _)| &***token != " ");
        Some(Self { bytes, characters: Some(known.filter_map(single).collect()) })
    }

    /// Whether a line break is written as a byte, so that nothing is merged across it.
    pub(super) fn breaks_lines(&self) -> bool {
        self.characters.as_ref().is_some_and(|characters| !characters.contains_key(&'\n'))
    }

    /// Puts the symbols of `word` with their lengths into `tokens`; false where a byte has no token.
    fn write(&self, word: &[u8], tokens: &mut Vec<(u32, u32)>) -> bool {
        let byte = |&byte: &u8| (self.bytes[usize::from(byte)], 1);
        let Some(characters) = &self.characters else {
            tokens.extend(word.iter().map(byte));
            return tokens.iter().all(|&(id, _)| id != NONE);
        };
        let Ok(word) = std::str::from_utf8(word) else { return false };
        for c in word.chars() {
            match characters.get(&c) {
                Some(&id) => tokens.push((id, c.len_utf8() as u32)),
                None => tokens.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(byte)),
            }
        }
        true
    }
}

/// GPT-2's spelling of bytes: printable ones as themselves, the others as characters from U+0100 on.
fn alphabet() -> [char; 256] {
    let mut next = '\u{100}'..;
    std::array::from_fn(|byte| match byte as u8 {
        b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte as u8),
        _ => next.next().unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A vocabulary of single letters and what the merges make of them.
    fn merges(list: &[(&'static str, &'static str)], ignore_merges: bool) -> (Merges, Vec<String>) {
        let mut names: Vec<String> = ('a'..='z').map(String::from).collect();
        names.extend(list.iter().map(|(left, right)| [*left, *right].concat()));
        names.dedup();
        let vocab = names.iter().zip(0..).map(|(name, id)| (name.as_str().into(), id)).collect();
        let list: Vec<Merge<'_>> =
            list.iter().map(|&(left, right)| Merge(left.into(), right.into())).collect();
        let symbols = Symbols::bytes(&vocab);
        (Merges::new(&vocab, &list, symbols, ignore_merges).unwrap(), names)
    }

    fn words(merges: &(Merges, Vec<String>), word: &str) -> String {
        let mut scratch = Scratch::default();
        assert!(merges.0.merge(word.as_bytes(), &mut scratch));
        let names: Vec<&str> =
            scratch.tokens.iter().map(|&(id, _)| merges.1[id as usize].as_str()).collect();
        names.join(" ")
    }

    #[test]
    fn lowest_rank_first_then_leftmost() {
        let known =
            merges(&[("h", "e"), ("l", "l"), ("he", "ll"), ("a", "a"), ("aa", "aa")], false);
        for (word, expected) in [
            ("hello", "hell o"),
            ("aaa", "aa a"),
            ("aaaaa", "aaaa a"),
            ("x", "x"),
            ("", ""),
            ("lll", "ll l"),
        ] {
            assert_eq!(words(&known, word), expected);
        }
        assert!(!known.0.merge(b"a\x80", &mut Scratch::default()));
    }

    #[test]
    fn a_word_that_is_a_token_needs_no_merges() {
        let list = [("a", "b"), ("b", "c"), ("bc", "d"), ("a", "bcd")];
        assert_eq!(words(&merges(&list, false), "abcd"), "ab c d");
        assert_eq!(words(&merges(&list, true), "abcd"), "abcd");
    }

    #[test]
    fn long_words_are_merged_as_short_ones() {
        let (merges, _) = merges(
            &[
                ("a", "b"),
                ("b", "a"),
                ("ab", "a"),
                ("a", "a"),
                ("aa", "b"),
                ("aab", "ba"),
                ("ab", "ab"),
            ],
            false,
        );
        let mut state = 1_u32;
        for length in 0..200 {
            let word: Vec<u8> = (0..length)
                .map(|_| {
                    state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    b'a' + (state >> 24 & 1) as u8
                })
                .collect();
            let (mut short, mut long) = (Scratch::default(), Scratch::default());
            for scratch in [&mut short, &mut long] {
                assert!(merges.symbols.write(&word, &mut scratch.tokens));
            }
            merges.merge_short(&mut short);
            merges.merge_long(&mut long);
            assert_eq!(short.tokens, long.tokens);
        }
    }
}
