//! Finding added tokens in text: leftmost first, and of several that begin in one place the longest.

use memchr::{memchr, memchr2};
use std::ops::Range;

/// Spellings of tokens, for finding them in text.
#[derive(Debug, Clone)]
pub(super) struct Added {
    /// By first byte: the spellings that begin with it, longest first. Most files have one such byte, `<`.
    groups: Vec<Group>,
    /// The place in `groups` of each first byte, or `NONE`.
    by_first: [u8; 256],
}

const NONE: u8 = u8::MAX;

#[derive(Debug, Clone)]
struct Group {
    first: u8,
    /// Which second bytes occur; all of them where one spelling is a single byte.
    seconds: [bool; 256],
    spellings: Vec<(Box<[u8]>, u32)>,
}

impl Added {
    /// The tokens of these spellings and ids; empty spellings are left out.
    pub(super) fn new(tokens: impl IntoIterator<Item = (String, u32)>) -> Self {
        let mut groups: Vec<Group> = Vec::new();
        for (spelling, id) in tokens {
            let Some(&first) = spelling.as_bytes().first() else { continue };
            let place = groups.iter().position(|group| group.first == first).unwrap_or_else(|| {
                groups.push(Group { first, seconds: [false; 256], spellings: Vec::new() });
                groups.len() - 1
            });
            match spelling.as_bytes().get(1) {
                Some(&second) => groups[place].seconds[usize::from(second)] = true,
                None => groups[place].seconds = [true; 256],
            }
            groups[place].spellings.push((spelling.into_bytes().into(), id));
        }
        let mut by_first = [NONE; 256];
        for (place, group) in groups.iter_mut().enumerate() {
            by_first[usize::from(group.first)] = place as u8;
            group.spellings.sort_by(|left, right| {
                right.0.len().cmp(&left.0.len()).then_with(|| left.cmp(right))
            });
        }
        Self { groups, by_first }
    }

    /// The first place at or after `from` that spells a token.
    pub(super) fn first(&self, text: &str, mut from: usize) -> Option<(Range<usize>, u32)> {
        let bytes = text.as_bytes();
        loop {
            let rest = &bytes[from..];
            let found = match self.groups.as_slice() {
                [] => None,
                [one] => memchr(one.first, rest),
                [one, two] => memchr2(one.first, two.first, rest),
                _ => rest.iter().position(|&byte| self.by_first[usize::from(byte)] != NONE),
            };
            let at = from + found?;
            if let Some(hit) = self.at(bytes, at) {
                return Some(hit);
            }
            from = at + 1;
        }
    }

    fn at(&self, bytes: &[u8], at: usize) -> Option<(Range<usize>, u32)> {
        let group = self.groups.get(usize::from(self.by_first[usize::from(bytes[at])]))?;
        if !bytes.get(at + 1).is_none_or(|&second| group.seconds[usize::from(second)]) {
            return None;
        }
        let mut fitting =
            group.spellings.iter().filter(|(spelling, _)| bytes[at..].starts_with(spelling));
        fitting.next().map(|(spelling, id)| (at..at + spelling.len(), *id))
    }

    /// All of them in order; none overlaps another.
    pub(super) fn iter(&self, text: &str) -> impl Iterator<Item = (Range<usize>, u32)> {
        let mut from = 0;
        std::iter::from_fn(move || {
            let hit = self.first(text, from)?;
            from = hit.0.end;
            Some(hit)
        })
    }

    /// The spelling of an id.
    pub(super) fn spelling(&self, id: u32) -> Option<&str> {
        let mut all = self.groups.iter().flat_map(|group| &group.spellings);
        let (spelling, _) = all.find(|(_, known)| *known == id)?;
        std::str::from_utf8(spelling).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftmost_then_longest() {
        let found = |tokens: &[&str], text: &str| -> Vec<String> {
            let added = Added::new(tokens.iter().map(|&token| token.to_owned()).zip(0..));
            added
                .iter(text)
                .map(|(range, id)| format!("{}:{}:{id}", range.start, &text[range.clone()]))
                .collect()
        };
        let few = ["<a>", "<a><b>", "<b>", ""];
        assert_eq!(found(&few, "<a><b><a> <b<b>"), ["0:<a><b>:1", "6:<a>:0", "12:<b>:2"]);
        assert_eq!(found(&few, "no < token <"), [""; 0]);
        assert_eq!(found(&[], "<a>"), [""; 0]);
        assert_eq!(found(&["<", "\n", "<<<"], "<<<<\n"), ["0:<<<:2", "3:<:0", "4:\n:1"]);
        assert_eq!(found(&["a", "éb", "€", "  "], "   éab€é"), ["0:  :3", "5:a:0", "7:€:2"]);
    }
}
