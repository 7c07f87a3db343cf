//! Which characters are letters, numbers and white space to the regular expressions of tokenizers, and which ones NFC
//! leaves alone.
//!
//! # Why
//! The classes belong to the Unicode version of the regex engine that a tokenizer was tested with, not to that of Rust's
//! standard library, so they are kept as data: `classes.txt`, one line of hexadecimal ranges per class. A test makes the
//! file again from that engine, over all of Unicode. The one class that tokenizers take from Rust itself is `NUMERIC`.

use std::sync::OnceLock;

/// `\p{L}`.
pub(super) const LETTER: u8 = 1;
/// `\p{N}`.
pub(super) const NUMBER: u8 = 2;
/// `\s`.
pub(super) const SPACE: u8 = 4;
/// `[\r\n]`.
pub(super) const NEWLINE: u8 = 8;
/// `char::is_numeric`.
pub(super) const NUMERIC: u8 = 16;
/// NFC may change it, or its neighbours because of it.
pub(super) const UNSTABLE: u8 = 32;

/// Ranges of code points, one line per class.
const RANGES: &str = include_str!("classes.txt");

/// The names of the lines, and their bits.
pub(super) const NAMES: [(&str, u8); 4] =
    [("letter", LETTER), ("number", NUMBER), ("space", SPACE), ("unstable", UNSTABLE)];

/// The classes of every code point.
#[derive(Debug)]
pub(super) struct Classes {
    ascii: [u8; 128],
    all: Box<[u8]>,
}

impl Classes {
    /// The table, made when it is first asked for: one byte per code point, 1.1 MB.
    pub(super) fn get() -> &'static Self {
        static CLASSES: OnceLock<Classes> = OnceLock::new();
        CLASSES.get_or_init(Self::new)
    }

    fn new() -> Self {
        let mut all = vec![0_u8; char::MAX as usize + 1].into_boxed_slice();
        for line in RANGES.lines() {
            let mut words = line.split(' ');
            let name = words.next().unwrap_or_default();
            let bit = NAMES.iter().find(|(known, _)| *known == name).map_or(0, |(_, bit)| *bit);
            for range in words {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let code = |text| usize::from_str_radix(text, 16).unwrap_or(usize::MAX);
                if let Some(classes) = all.get_mut(code(first)..=code(last)) {
                    classes.iter_mut().for_each(|class| *class |= bit);
                }
            }
        }
        for (code, class) in all.iter_mut().enumerate() {
            if char::from_u32(code as u32).is_some_and(char::is_numeric) {
                *class |= NUMERIC;
            }
        }
        all[usize::from(b'\n')] |= NEWLINE;
        all[usize::from(b'\r')] |= NEWLINE;
        let mut ascii = [0; 128];
        ascii.copy_from_slice(&all[..128]);
        Self { ascii, all }
    }

    /// The classes and the length of the character that begins at byte `at` of `text`, which is UTF-8.
    #[inline(always)]
    pub(super) fn at(&self, text: &[u8], at: usize) -> (u8, usize) {
        let first = text[at];
        if first < 128 { (self.ascii[usize::from(first)], 1) } else { self.wide(text, at) }
    }

    #[inline]
    fn wide(&self, text: &[u8], at: usize) -> (u8, usize) {
        let byte = |n: usize| text.get(at + n).map_or(0, |&byte| u32::from(byte) & 0x3F);
        let first = u32::from(text[at]);
        let (code, length) = match first {
            0..0xE0 => ((first & 0x1F) << 6 | byte(1), 2),
            0xE0..0xF0 => ((first & 0x0F) << 12 | byte(1) << 6 | byte(2), 3),
            _ => ((first & 0x07) << 18 | byte(1) << 12 | byte(2) << 6 | byte(3), 4),
        };
        (self.all.get(code as usize).copied().unwrap_or(0), length)
    }

    /// Whether NFC certainly leaves `text` as it is.
    pub(super) fn is_nfc(&self, text: &str) -> bool {
        let bytes = text.as_bytes();
        // Everything below U+0300 is stable; UTF-8 writes it without any byte from 0xCC on.
        if bytes.iter().all(|&byte| byte < 0xCC) {
            return true;
        }
        let mut at = 0;
        while at < bytes.len() {
            let (class, length) = self.at(bytes, at);
            if class & UNSTABLE != 0 {
                return false;
            }
            at += length;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect_file;
    use std::collections::HashSet;
    use tokenizers::normalizers::{NFC, NFD};
    use tokenizers::utils::SysRegex;
    use tokenizers::{NormalizedString, Normalizer};

    /// All code points, one per line.
    fn every(write: impl Fn(char) -> String) -> String {
        ('\0'..=char::MAX).filter(|&c| c != '\n').map(|c| write(c) + "\n").collect()
    }

    fn normalised(text: String, normalizer: &impl Normalizer) -> String {
        let mut text = NormalizedString::from(text);
        normalizer.normalize(&mut text).unwrap();
        text.get().to_owned()
    }

    fn ranges(name: &str, chars: impl Iterator<Item = char>) -> String {
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        for code in chars.map(u32::from) {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == code => *last = code,
                _ => ranges.push((code, code)),
            }
        }
        let text = |&(first, last): &(u32, u32)| match first == last {
            true => format!(" {first:x}"),
            false => format!(" {first:x}-{last:x}"),
        };
        [name.to_owned()].into_iter().chain(ranges.iter().map(text)).collect::<String>() + "\n"
    }

    /// The lines of the three classes of the regex engine. `UPDATE_EXPECT=1` writes the file again.
    fn from_regex() -> String {
        let text: String = ('\0'..=char::MAX).collect();
        let class = |name, pattern| {
            let found = SysRegex::new(pattern).unwrap();
            let found: Vec<char> =
                found.find_iter(&text).flat_map(|(start, end)| text[start..end].chars()).collect();
            ranges(name, found.into_iter())
        };
        class("letter", r"\p{L}") + &class("number", r"\p{N}") + &class("space", r"\s")
    }

    /// What NFC changes, what it composes with something before it, and what it may put into another order.
    fn unstable() -> HashSet<char> {
        let mut unstable = HashSet::new();
        // U+0345 has the highest combining class (240), U+0334 the lowest (1): they show whether something is sorted.
        for write in [
            (|c| String::from(c)) as fn(char) -> String,
            |c| format!("x\u{345}{c}"),
            |c| format!("x{c}\u{334}"),
        ] {
            let before = every(write);
            let after = normalised(before.clone(), &NFC);
            let changed =
                before.lines().zip(after.lines()).filter(|(before, after)| before != after);
            let own = |c: &char| !['x', '\u{345}', '\u{334}'].contains(c);
            unstable.extend(changed.flat_map(|(before, _)| before.chars().filter(own)));
        }
        unstable.extend(['\u{345}', '\u{334}']);
        let before = every(|c| c.to_string());
        let after = normalised(before.clone(), &NFD);
        let seconds = before.lines().zip(after.lines()).filter(|(before, after)| before != after);
        unstable.extend(seconds.flat_map(|(_, after)| after.chars().skip(1)));
        unstable
    }

    #[test]
    fn the_file_is_what_the_regex_engine_says() {
        let mut unstable: Vec<char> = unstable().into_iter().collect();
        unstable.sort_unstable();
        let text = from_regex() + &ranges("unstable", unstable.into_iter());
        expect_file!["classes.txt"].assert_eq(&text);
    }

    #[test]
    fn characters() {
        let classes = Classes::get();
        for (text, class) in [
            ("a", LETTER),
            ("é", LETTER),
            ("中", LETTER),
            ("𝒳", LETTER),
            ("7", NUMBER | NUMERIC),
            ("½", NUMBER | NUMERIC),
            (" ", SPACE),
            ("\n", SPACE | NEWLINE),
            ("\u{2028}", SPACE),
            ("'", 0),
            ("🦙", 0),
            ("\u{301}", UNSTABLE),
        ] {
            assert_eq!(classes.at(text.as_bytes(), 0), (class, text.len()), "{text:?}");
        }
        assert!(classes.is_nfc("é ½ 中") && !classes.is_nfc("中e\u{301}"));
    }
}
