//! Words and runs of them, and the search for an evaluation's own text in the training data.
//!
//! A run of thirteen words that both have is taken for the same text, as in GPT-3's filter (Brown et al. 2020, appendix
//! C); an evaluation row of eight to twelve words counts as one run. Words are compared without regard to case and
//! punctuation; a character of a script without spaces is a word of its own.

use crate::rng::mix;
use std::collections::{HashMap, HashSet};

const RUN: usize = 13;
const MIN_RUN: usize = 8;

/// The runs of evaluation rows.
#[derive(Debug, Default)]
pub(super) struct Index {
    /// A run → the first row that has it.
    runs: HashMap<u64, u64>,
    /// Whole rows that are shorter than a run, by their number of words.
    short: [HashMap<u64, u64>; RUN - MIN_RUN],
    /// How many runs each row has.
    n_runs: HashMap<u64, usize>,
}

impl Index {
    pub(super) fn add(&mut self, row: u64, text: &str) {
        let words: Vec<u64> = words(text).collect();
        if words.len() < MIN_RUN {
            return; // so few words occur anywhere
        }
        if words.len() < RUN {
            self.short[words.len() - MIN_RUN].entry(run(&words)).or_insert(row);
            self.n_runs.entry(row).or_insert(1);
            return;
        }
        for window in words.windows(RUN) {
            self.runs.entry(run(window)).or_insert(row);
        }
        self.n_runs.entry(row).or_insert(words.len() - RUN + 1);
    }

    /// The evaluation row of which a text holds the most runs, and the part of that row's runs it holds.
    pub(super) fn find(&self, text: &str) -> Option<(u64, f64)> {
        if self.n_runs.is_empty() {
            return None;
        }
        let words: Vec<u64> = words(text).collect();
        let mut hits: HashMap<u64, HashSet<u64>> = HashMap::new();
        let mut search = |runs: &HashMap<u64, u64>, n: usize| {
            for window in words.windows(n).filter(|_| !runs.is_empty()) {
                let name = run(window);
                if let Some(&row) = runs.get(&name) {
                    hits.entry(row).or_default().insert(name);
                }
            }
        };
        search(&self.runs, RUN);
        for (i, runs) in self.short.iter().enumerate() {
            search(runs, MIN_RUN + i);
        }
        let best = hits.into_iter().max_by_key(|(row, found)| (found.len(), u64::MAX - row))?;
        let n = self.n_runs.get(&best.0).copied().unwrap_or(1);
        Some((best.0, (best.1.len() as f64 / n as f64).min(1.0)))
    }
}

/// The words of a text as numbers, in small letters and without what stands between them.
pub(super) fn words(text: &str) -> impl Iterator<Item = u64> {
    let mut chars = text.chars().peekable();
    std::iter::from_fn(move || {
        while chars.next_if(|c| !c.is_alphanumeric()).is_some() {}
        let first = chars.next()?;
        let mut word = feed(SEED, first);
        if !stands_alone(first) {
            while let Some(c) = chars.next_if(|c| c.is_alphanumeric() && !stands_alone(*c)) {
                word = feed(word, c);
            }
        }
        Some(word)
    })
}

const SEED: u64 = 0x243f_6a88_85a3_08d3;

fn feed(word: u64, c: char) -> u64 {
    c.to_lowercase().fold(word, |word, c| mix(word ^ u64::from(c)))
}

/// Scripts that write no spaces: kana, Han, Thai, Lao, Khmer, Burmese.
fn stands_alone(c: char) -> bool {
    matches!(u32::from(c), 0x0e00..=0x0eff | 0x1000..=0x109f | 0x1780..=0x17ff | 0x3040..=0x30ff
        | 0x3400..=0x4dbf | 0x4e00..=0x9fff | 0xf900..=0xfaff | 0x2_0000..=0x3_ffff)
}

/// A number for a run of words.
pub(super) fn run(words: &[u64]) -> u64 {
    words.iter().fold(words.len() as u64, |run, &word| mix(run.rotate_left(23) ^ word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_do_not_depend_on_case_and_punctuation() {
        let of = |text| words(text).collect::<Vec<_>>();
        assert_eq!(of("Hello, World!"), of("hello world"));
        assert_ne!(of("hello world"), of("world hello"));
        assert_eq!(of("漢字かな").len(), 4);
        assert_eq!(of("…").len(), 0);
    }

    #[test]
    fn a_question_is_found_in_a_longer_text() {
        let question = "How many sheep does the farmer have when he sells three of his twelve and buys nine more?";
        let mut index = Index::default();
        index.add(4, question);
        index.add(5, "the capital of a country that nobody has heard of");
        let found = index.find(&format!("Here is one: {} Let us see.", question.to_uppercase()));
        assert_eq!(found.unwrap(), (4, 1.0));
        let part = question.split(' ').take(14).collect::<Vec<_>>().join(" ");
        let (row, share) = index.find(&part).unwrap();
        assert!(row == 4 && share < 0.5);
        let short = index.find("Name the capital of a country that nobody has heard of.").unwrap();
        assert_eq!(short.0, 5);
        assert_eq!(index.find("How many sheep does the farmer have?"), None);
    }
}
