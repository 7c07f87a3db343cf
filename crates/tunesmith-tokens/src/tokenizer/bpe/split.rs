//! The regular expressions by which byte-level tokenizers cut text into words, as functions.
//!
//! # Why
//! A regex engine spends most of a tokenizer's time. There are few such expressions, so each is written out here and
//! recognised by its text, character by character; a file with any other keeps the regex engine. Every function gives the
//! end of the word that begins at `at`; all of them cover a text without gaps. `(?!\S)` makes a run of white space leave
//! its last character to the word that follows.

use super::classes::{Classes, LETTER, NEWLINE, NUMBER, NUMERIC, SPACE};
use serde_json::{Value, json};

/// GPT-2's expression, which `ByteLevel` has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// Llama 3's: at most three digits to a word.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2's: the same with one digit to a word.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A way of cutting text into words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Split {
    /// [`GPT2`].
    Gpt2,
    /// [`GPT2`] between digits, each of which is a word (SmolLM2).
    Gpt2Digits,
    /// [`LLAMA3`].
    Llama3,
    /// [`QWEN2`].
    Qwen2,
    /// Spaces and what follows up to the next space; with `lines`, every line break is a word.
    Spaces {
        /// Whether line breaks are words.
        lines: bool,
    },
}

impl Split {
    /// The one that a tokenizer's `pre_tokenizer` describes, if it is one of these to the letter.
    pub(super) fn of(pre_tokenizer: &Value) -> Option<Self> {
        let bytes = |use_regex: bool, trim: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": trim, "use_regex": use_regex});
        let sequence =
            |first: Value, last: Value| json!({"type": "Sequence", "pretokenizers": [first, last]});
        let regex = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let digits = json!({"type": "Digits", "individual_digits": true});
        // Trimming offsets is a matter of post-processing.
        [true, false].into_iter().find_map(|trim| {
            let known = [
                (bytes(true, trim), Self::Gpt2),
                (sequence(regex(GPT2), bytes(false, trim)), Self::Gpt2),
                (sequence(digits.clone(), bytes(true, trim)), Self::Gpt2Digits),
                (sequence(regex(LLAMA3), bytes(false, trim)), Self::Llama3),
                (sequence(regex(QWEN2), bytes(false, trim)), Self::Qwen2),
            ];
            known.into_iter().find(|(value, _)| value == pre_tokenizer).map(|(_, split)| split)
        })
    }

    /// Calls `word` with the range of each word of `text`.
    #[inline]
    pub(super) fn each(self, text: &str, word: impl FnMut(usize, usize)) {
        let (classes, text) = (Classes::get(), text.as_bytes());
        match self {
            Self::Gpt2 => walk(text, word, |at| gpt2::<false>(classes, text, at)),
            Self::Gpt2Digits => walk(text, word, |at| gpt2::<true>(classes, text, at)),
            Self::Llama3 => walk(text, word, |at| llama3::<3>(classes, text, at)),
            Self::Qwen2 => walk(text, word, |at| llama3::<1>(classes, text, at)),
            Self::Spaces { lines } => walk(text, word, |at| spaces(text, at, lines)),
        }
    }
}

#[inline(always)]
fn walk(text: &[u8], mut word: impl FnMut(usize, usize), end: impl Fn(usize) -> usize) {
    let mut at = 0;
    while at < text.len() {
        let next = end(at);
        word(at, next);
        at = next;
    }
}

/// What tells the kinds of words apart: letters, numbers, white space, and none of them.
const KIND: u8 = LETTER | NUMBER | SPACE;

/// The end of the run of characters whose classes under `mask` are `want`.
#[inline(always)]
fn run(classes: &Classes, text: &[u8], mut at: usize, mask: u8, want: u8) -> usize {
    while at < text.len() {
        let (class, length) = classes.at(text, at);
        if class & mask != want {
            break;
        }
        at += length;
    }
    at
}

/// A run of white space from `at`: its end, the start of its last character, and the end of its last line break.
#[inline(always)]
fn space(classes: &Classes, text: &[u8], mut at: usize) -> (usize, usize, Option<usize>) {
    let (mut last, mut newline) = (at, None);
    while at < text.len() {
        let (class, length) = classes.at(text, at);
        if class & SPACE == 0 {
            break;
        }
        last = at;
        at += length;
        if class & NEWLINE != 0 {
            newline = Some(at);
        }
    }
    (at, last, newline)
}

/// `'s|'t|'re|'ve|'m|'ll|'d` behind the apostrophe: how many bytes.
#[inline(always)]
fn contraction(text: &[u8], at: usize) -> Option<usize> {
    match (text.get(at)?, text.get(at + 1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(1),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(2),
        _ => None,
    }
}

/// The same without regard to case; the long s is an s, too.
#[inline(always)]
fn contraction_any_case(text: &[u8], at: usize) -> Option<usize> {
    let lower = |at: usize| text.get(at).map(u8::to_ascii_lowercase);
    match (lower(at)?, lower(at + 1)) {
        (b's' | b't' | b'm' | b'd', _) => Some(1),
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => Some(2),
        (0xC5, Some(0xBF)) => Some(2), // U+017F
        _ => None,
    }
}

/// With `DIGITS`, each numeric character is a word, and what lies between two of them is a text of its own.
#[inline(always)]
fn gpt2<const DIGITS: bool>(classes: &Classes, text: &[u8], at: usize) -> usize {
    let stop = if DIGITS { NUMERIC } else { 0 };
    let mask = KIND | stop;
    let (class, length) = classes.at(text, at);
    if class & stop != 0 {
        return at + length;
    }
    if class & SPACE == 0 {
        let contracted = if text[at] == b'\'' { contraction(text, at + 1) } else { None };
        return match contracted {
            Some(length) => at + 1 + length,
            None => run(classes, text, at + length, mask, class & mask),
        };
    }
    if text[at] == b' ' && at + 1 < text.len() {
        let (next, length) = classes.at(text, at + 1);
        if next & (SPACE | stop) == 0 {
            return run(classes, text, at + 1 + length, mask, next & mask);
        }
    }
    let (end, last, _) = space(classes, text, at);
    let at_end = end == text.len() || classes.at(text, end).0 & stop != 0;
    if at_end || last == at { end } else { last }
}

/// `N`: the most digits of a word.
#[inline(always)]
fn llama3<const N: usize>(classes: &Classes, text: &[u8], at: usize) -> usize {
    if text[at] == b'\''
        && let Some(length) = contraction_any_case(text, at + 1)
    {
        return at + 1 + length;
    }
    let (class, length) = classes.at(text, at);
    let behind = at + length;
    if class & LETTER != 0 {
        return run(classes, text, behind, LETTER, LETTER);
    }
    let next = if behind < text.len() { classes.at(text, behind) } else { (SPACE, 0) };
    if class & (NUMBER | NEWLINE) == 0 && next.0 & LETTER != 0 {
        return run(classes, text, behind + next.1, LETTER, LETTER);
    }
    if class & NUMBER != 0 {
        let mut end = behind;
        for _ in 1..N {
            match text.get(end).map(|_| classes.at(text, end)) {
                Some((class, length)) if class & NUMBER != 0 => end += length,
                _ => break,
            }
        }
        return end;
    }
    let symbols = if class & SPACE == 0 {
        Some(behind)
    } else if text[at] == b' ' && next.0 & KIND == 0 {
        Some(behind + next.1)
    } else {
        None
    };
    if let Some(from) = symbols {
        let end = run(classes, text, from, KIND, 0);
        return run(classes, text, end, NEWLINE, NEWLINE);
    }
    let (end, last, newline) = space(classes, text, at);
    match newline {
        Some(newline) => newline,
        None if end == text.len() || last == at => end,
        None => last,
    }
}

/// No token of SentencePiece has a space behind other characters, so words can be told by their spaces alone.
#[inline(always)]
fn spaces(text: &[u8], at: usize, lines: bool) -> usize {
    if lines && text[at] == b'\n' {
        return at + 1;
    }
    let is = |at: &usize, stop: u8| text[*at] == stop;
    let solid = (at..text.len()).find(|at| !is(at, b' ')).unwrap_or(text.len());
    let ends = |at: &usize| is(at, b' ') || (lines && is(at, b'\n'));
    (solid..text.len()).find(ends).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokenizers::pre_tokenizers::PreTokenizerWrapper;
    use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer};

    const FORMS: [&str; 4] = [
        r#"{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}"#,
        r#"{"type":"Sequence","pretokenizers":[{"type":"Digits","individual_digits":true},
            {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":true}]}"#,
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"LLAMA3"},"behavior":"Isolated","invert":false},
            {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}"#,
        r#"{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"QWEN2"},"behavior":"Isolated","invert":false},
            {"type":"ByteLevel","add_prefix_space":false,"trim_offsets":false,"use_regex":false}]}"#,
    ];

    fn forms() -> impl Iterator<Item = String> {
        let escape = |text: &str| text.replace('\\', r"\\");
        FORMS.iter().map(move |form| {
            form.replace("LLAMA3", &escape(LLAMA3)).replace("QWEN2", &escape(QWEN2))
        })
    }

    /// Each split with the library's own pre-tokenizer for it.
    fn splits() -> Vec<(Split, PreTokenizerWrapper)> {
        let read = |form: String| {
            let split = Split::of(&serde_json::from_str(&form).unwrap()).unwrap();
            (split, serde_json::from_str(&form).unwrap())
        };
        forms().map(read).collect()
    }

    fn check(split: Split, library: &PreTokenizerWrapper, text: &str) {
        let mut pieces = PreTokenizedString::from(text);
        library.pre_tokenize(&mut pieces).unwrap();
        let pieces = pieces.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let expected: Vec<(usize, usize)> = pieces
            .into_iter()
            .map(|(_, range, _)| range)
            .filter(|(start, end)| start < end)
            .collect();
        let mut found = Vec::new();
        split.each(text, |start, end| found.push((start, end)));
        if found != expected {
            let place = found.iter().zip(&expected).take_while(|(l, r)| l == r).count();
            let at = expected.get(place).map_or(text.len(), |range| range.0);
            let shown: String = text[at..].chars().take(20).collect();
            panic!(
                "{split:?}: {:?} instead of {:?} at {shown:?}",
                found.get(place),
                expected.get(place)
            );
        }
    }

    #[test]
    fn the_expressions_of_other_files_are_not_taken_for_known_ones() {
        for form in forms() {
            assert!(Split::of(&serde_json::from_str(&form).unwrap()).is_some());
            for (from, to) in [
                ("\"add_prefix_space\":false", "\"add_prefix_space\":true"),
                ("\"individual_digits\":true", "\"individual_digits\":false"),
                ("\"use_regex\":true", "\"use_regex\":false"),
                ("\"use_regex\":false", "\"use_regex\":true"),
                ("\"invert\":false", "\"invert\":true"),
                ("Isolated", "Removed"),
                ("\\\\s+", "\\\\s*"),
                ("ByteLevel", "Whitespace"),
            ] {
                let other: Value = serde_json::from_str(&form.replacen(from, to, 1)).unwrap();
                assert!(Split::of(&other).is_none() || !form.contains(from), "{other}");
            }
        }
        assert_eq!(Split::of(&Value::Null), None);
    }

    #[test]
    fn words() {
        for (split, library) in splits() {
            for text in [
                "",
                "Hello, world!  It's 2024\n\n  x",
                "I'M you'Re 'ſ 'S '' ' ''' it'd'd 'l 'll 'LL 'v",
                " \u{a0}x\u{3000}\u{3000}y \r\n\r\nz\r \n  ",
                "a1b22c333d4444 ½²٣四 5 6  7\n8",
                "--\n\n-- \n--\r\n)  ()\t()\t\t()",
                "\ta\n\tb\n\n\tc  d\u{2028}e",
                "中文，字 日本語  🦙🦙 e\u{301}",
            ] {
                check(split, &library, text);
                for end in (0..text.len()).filter(|&end| text.is_char_boundary(end)) {
                    check(split, &library, &text[end..]);
                    check(split, &library, &text[..end]);
                }
            }
        }
    }

    /// Every character of the first plane behind an apostrophe, around a space, and among digits.
    #[test]
    fn every_character() {
        let every =
            |write: fn(char) -> String| -> String { ('\0'..='\u{FFFF}').map(write).collect() };
        for (split, library) in splits() {
            check(split, &library, &every(|c| format!("'{c}a {c} \t{c}\u{3000}")));
            check(split, &library, &every(|c| format!("{c}1{c}.{c}\n")));
        }
    }
}
