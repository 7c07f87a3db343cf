//! Filters that know no language: length, letters, repetition (after Rae et al. 2021, *Gopher*, appendix A1.1).

use super::{CleanKnobs, ngrams};
use std::collections::HashSet;

const WORDS: usize = 5;

/// The step that takes a text.
pub(super) fn step(text: &str, knobs: &CleanKnobs) -> Option<&'static str> {
    let wants_length = knobs.min_chars.is_some() || knobs.max_chars.is_some();
    let n = if wants_length { text.chars().count() } else { 0 };
    if knobs.min_chars.is_some_and(|min| n < min) {
        return Some("too short");
    }
    if knobs.max_chars.is_some_and(|max| n > max) {
        return Some("too long");
    }
    if knobs.min_letters.is_some_and(|min| letters(text) < min) {
        return Some("few letters");
    }
    let too_much = knobs.max_repetition.filter(|&max| repetition(text) > max);
    too_much.map(|_| "repetitive")
}

/// The part of the characters, without spaces, that are letters or digits; 0 of none.
fn letters(text: &str) -> f64 {
    let (mut all, mut letters) = (0_u64, 0_u64);
    for c in text.chars().filter(|c| !c.is_whitespace()) {
        all += 1;
        letters += u64::from(c.is_alphanumeric());
    }
    letters as f64 / all.max(1) as f64
}

/// The larger part: of lines that repeat an earlier line, or of five-word runs that repeat an earlier one.
fn repetition(text: &str) -> f64 {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let words: Vec<u64> = ngrams::words(text).collect();
    let runs = words.windows(WORDS).map(ngrams::run);
    repeated(lines).max(repeated(runs))
}

fn repeated<T: std::hash::Hash + Eq>(items: impl Iterator<Item = T>) -> f64 {
    let (mut seen, mut all, mut again) = (HashSet::new(), 0_u64, 0_u64);
    for item in items {
        all += 1;
        again += u64::from(!seen.insert(item));
    }
    again as f64 / all.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_judged_by_length_letters_and_repetition() {
        let knobs = CleanKnobs {
            min_chars: Some(10),
            max_chars: Some(200),
            min_letters: Some(0.5),
            max_repetition: Some(0.3),
            ..CleanKnobs::default()
        };
        let cases = [
            ("A plain sentence about a kettle.", None),
            ("这是一个关于水壶的普通句子，没有重复。", None),
            ("short", Some("too short")),
            ("0x00 ---- ==== //// ++++ ****", Some("few letters")),
            ("same line\nsame line\nsame line\nsame line", Some("repetitive")),
            ("a b c d e f a b c d e f a b c d e f a b c d e f", Some("repetitive")),
        ];
        for (text, expected) in cases {
            assert_eq!(step(text, &knobs), expected, "{text}");
        }
        assert_eq!(step(&"word ".repeat(100), &knobs), Some("too long"));
        assert_eq!(step("", &CleanKnobs::default()), None);
    }
}
