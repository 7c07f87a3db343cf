//! The flat ragged batch: the one layout between text and tensors. No pad token exists anywhere.
//!
//! The shift by one happens here and nowhere else. Two documents `a b c` (trained: b c) and `d e` (trained: e):
//!
//! ```text
//! tokens     a  b  c  d  e
//! labels     b  c  -  e  -      - is IGNORE: nothing is predicted from a document's last token
//! positions  0  1  2  0  1
//! docs       start 0, start 3
//! ```
//!
//! What a document shares with the first one of its group ([`Example::shared`]) is not repeated. Of `a b c` and `a b d e`
//! (trained: c, and d e) the second shares `a`, and `b` is there twice, since it predicts two things:
//!
//! ```text
//! tokens     a  b  c  b  d  e
//! labels     -  c  -  d  e  -
//! positions  0  1  2  1  2  3
//! docs       start 0, start 3 with 1 shared
//! ```

use crate::Example;
use serde::{Deserialize, Serialize};

/// The label of a position that gives no loss (the value that PyTorch and transformers use).
pub const IGNORE: i64 = -100;

/// A micro-batch: `N` tokens of one or more documents, one after the other.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Batch {
    /// Token ids, `[N]`.
    pub tokens: Vec<u32>,
    /// The token to predict at each position, or [`IGNORE`], `[N]`. Already shifted.
    pub labels: Vec<i64>,
    /// The weight of each label, `[N]`; `None` means 1 everywhere.
    pub weights: Option<Vec<f32>>,
    /// Position within the document, `[N]`, shared tokens counted.
    pub positions: Vec<u32>,
    /// The documents in order; the first starts at 0.
    pub docs: Vec<Doc>,
}

/// A document of a [`Batch`]: its own tokens reach from `start` to the next document's start.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Doc {
    /// Index of its first own token.
    pub start: usize,
    /// The row of the data set it came from.
    pub row: u64,
    /// Ties a preference pair or a group of rollouts together: documents of one group are neighbours, and groups count
    /// from 0.
    pub group: u32,
    /// A class or a score, for objectives that have one per document; of a chosen answer, the margin.
    pub label: Option<f32>,
    /// What its row counts where objectives judge documents as a whole.
    #[serde(default = "one")]
    pub weight: f32,
    /// How many tokens stand before `start` for it: the first ones of its group's first document.
    #[serde(default)]
    pub shared: usize,
}

fn one() -> f32 {
    1.0
}

impl Batch {
    /// Lays the examples out one after the other and shifts their labels and weights by one.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut batch = Self::default();
        let mut n_groups = 0;
        let mut first: &[u32] = &[]; // the tokens of the group's first document
        for example in examples {
            let begins = !example.tied || batch.docs.is_empty();
            n_groups += u32::from(begins);
            let (start, group) = (batch.tokens.len(), n_groups - 1);
            let Example { row, label, shared, weight, .. } = *example;
            let is_there = !begins && first.get(..shared) == Some(&example.ids[..shared]);
            let shared = if is_there { shared } else { 0 };
            if begins {
                first = &example.ids;
            }
            let weight = weight.unwrap_or(1.0);
            batch.docs.push(Doc { start, row, group, label, weight, shared });
            batch.extend_weights(example, shared);
            batch.tokens.extend_from_slice(&example.ids[shared..]);
            let next = example.ids.iter().zip(&example.trained).skip(shared + 1);
            batch
                .labels
                .extend(next.map(|(&id, &trained)| if trained { i64::from(id) } else { IGNORE }));
            batch.labels.resize(batch.tokens.len(), IGNORE);
            batch.positions.extend(shared as u32..example.ids.len() as u32);
        }
        batch
    }

    /// Weights exist as soon as one example has them.
    fn extend_weights(&mut self, example: &Example, shared: usize) {
        let before = self.tokens.len();
        let after = before + example.len() - shared;
        match (&mut self.weights, &example.weights) {
            (None, None) => {}
            (Some(weights), None) => weights.resize(after, 1.0),
            (weights, Some(new)) => {
                let weights = weights.get_or_insert_with(|| vec![1.0; before]);
                weights.extend(new.iter().skip(shared + 1));
                weights.resize(after, 1.0);
            }
        }
    }

    /// The same documents with every token to be predicted but the first that each has of its own.
    #[must_use]
    pub fn all_trained(&self) -> Self {
        let mut batch = Self { weights: None, ..self.clone() };
        for range in self.doc_ranges() {
            let next = self.tokens[range.clone()].iter().skip(1).map(|&id| i64::from(id));
            for (label, next) in batch.labels[range].iter_mut().zip(next.chain([IGNORE])) {
                *label = next;
            }
        }
        batch
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// How many positions give a loss.
    pub fn n_trained(&self) -> usize {
        self.labels.iter().filter(|&&label| label != IGNORE).count()
    }

    /// All tokens of a document, those that it shares included.
    pub fn doc_tokens(&self, doc: usize) -> Vec<u32> {
        let Doc { start, shared, .. } = self.docs[doc];
        let end = self.docs.get(doc + 1).map_or(self.tokens.len(), |next| next.start);
        let before = self.docs[self.group_start(doc)].start;
        [&self.tokens[before..before + shared], &self.tokens[start..end]].concat()
    }

    /// The number of the first document in the group of `doc`.
    pub fn group_start(&self, doc: usize) -> usize {
        let before = self.docs[..doc].iter().rposition(|other| other.group != self.docs[doc].group);
        before.map_or(0, |before| before + 1)
    }

    /// The range of each document's own tokens, in order.
    pub fn doc_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let ends = self.docs.iter().skip(1).map(|doc| doc.start).chain([self.tokens.len()]);
        self.docs.iter().zip(ends).map(|(doc, end)| doc.start..end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(ids: &[u32], trained: &[bool], row: u64) -> Example {
        Example { ids: ids.to_vec(), trained: trained.to_vec(), row, ..Example::default() }
    }

    #[test]
    fn layout() {
        let first = example(&[10, 11, 12], &[false, true, true], 7);
        let second = example(&[20, 21], &[true, true], 3);
        let batch = Batch::new([&first, &second]);
        assert_eq!(batch.tokens, [10, 11, 12, 20, 21]);
        assert_eq!(batch.labels, [11, 12, IGNORE, 21, IGNORE]);
        assert_eq!(batch.positions, [0, 1, 2, 0, 1]);
        assert_eq!(
            batch.docs.iter().map(|doc| (doc.start, doc.row, doc.group)).collect::<Vec<_>>(),
            [(0, 7, 0), (3, 3, 1)]
        );
        assert_eq!(batch.doc_ranges().collect::<Vec<_>>(), [0..3, 3..5]);
        assert_eq!((batch.len(), batch.n_trained(), batch.is_empty()), (5, 3, false));
        assert_eq!(batch.n_trained(), first.n_trained() + second.n_trained());
        assert!(Batch::new([]).is_empty());
        assert_eq!(batch.all_trained().labels, [11, 12, IGNORE, 21, IGNORE]);
        let none = example(&[10, 11, 12], &[false; 3], 7);
        assert_eq!(Batch::new([&none, &second]).all_trained(), batch.all_trained());
    }

    #[test]
    fn groups_weights_and_labels_are_carried_over() {
        let plain = example(&[1, 2, 3], &[true; 3], 0);
        let chosen = Example {
            label: Some(0.5),
            weight: Some(3.0),
            weights: Some(vec![9.0, 2.0]),
            ..example(&[4, 5], &[true; 2], 1)
        };
        let rejected = Example { tied: true, ..example(&[4, 6], &[true; 2], 1) };
        let batch = Batch::new([&plain, &chosen, &rejected, &plain]);
        let docs: Vec<_> = batch.docs.iter().map(|doc| (doc.row, doc.group, doc.label)).collect();
        let of_rows: Vec<f32> = batch.docs.iter().map(|doc| doc.weight).collect();
        assert_eq!(of_rows, [1.0, 3.0, 1.0, 1.0]);
        assert_eq!(docs, [(0, 0, None), (1, 1, Some(0.5)), (1, 1, None), (0, 2, None)]);
        // The weight of a token stands where its label stands.
        let expected = [1.0, 1.0, 1.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(batch.weights.as_deref(), Some(&expected[..]));
        assert_eq!(batch.labels[3], 5);
        assert_eq!(Batch::new([&rejected]).docs[0].group, 0);
    }

    #[test]
    fn what_is_shared_is_there_once() {
        let mut pair = [
            example(&[10, 11, 12], &[false, false, true], 7),
            Example {
                tied: true,
                weights: Some(vec![1.0, 2.0, 3.0, 4.0]),
                ..example(&[10, 11, 13, 14], &[false, false, true, true], 7)
            },
        ];
        Example::share_prompts(&mut pair);
        let alone = example(&[20, 21], &[true; 2], 3);
        let batch = Batch::new([&alone, &pair[0], &pair[1], &alone]);
        assert_eq!(batch.tokens, [20, 21, 10, 11, 12, 11, 13, 14, 20, 21]);
        let none = IGNORE;
        assert_eq!(batch.labels, [21, none, none, 12, none, 13, 14, none, 21, none]);
        assert_eq!(batch.positions, [0, 1, 0, 1, 2, 1, 2, 3, 0, 1]);
        let weights = [1.0, 1.0, 1.0, 1.0, 1.0, 3.0, 4.0, 1.0, 1.0, 1.0];
        assert_eq!(batch.weights.as_deref(), Some(&weights[..]));
        assert_eq!(batch.docs.iter().map(|doc| doc.shared).collect::<Vec<_>>(), [0, 0, 1, 0]);
        assert_eq!(batch.doc_ranges().nth(2), Some(5..8));
        for (doc, example) in [&alone, &pair[0], &pair[1], &alone].into_iter().enumerate() {
            assert_eq!(batch.doc_tokens(doc), example.ids);
        }
        assert_eq!((0..4).map(|doc| batch.group_start(doc)).collect::<Vec<_>>(), [0, 1, 1, 3]);
        // A batch that begins in the middle of a group has all that it needs.
        let rest = Batch::new([&pair[1]]);
        assert_eq!((rest.doc_tokens(0), rest.docs[0].shared), (pair[1].ids.clone(), 0));
        assert_eq!(batch.n_trained(), pair.iter().map(Example::n_trained).sum::<usize>() + 2);
    }

    /// Whatever stands together in a batch: a label is the next token of the same document, or none.
    #[test]
    fn no_label_crosses_documents() {
        let mut state = 1_u64;
        let mut random = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        for _ in 0..200 {
            let examples: Vec<Example> = (0..random(6))
                .map(|row| {
                    let ids: Vec<u32> = (0..random(9)).map(|_| random(50) as u32).collect();
                    let trained = ids.iter().map(|_| random(2) == 1).collect::<Vec<_>>();
                    example(&ids, &trained, row)
                })
                .collect();
            let batch = Batch::new(&examples);
            assert_eq!(batch.n_trained(), examples.iter().map(Example::n_trained).sum::<usize>());
            for (range, example) in batch.doc_ranges().zip(&examples) {
                assert_eq!(batch.tokens[range.clone()], example.ids);
                for (at, index) in range.enumerate() {
                    let expected = match example.ids.get(at + 1) {
                        Some(&next) if example.trained[at + 1] => i64::from(next),
                        _ => IGNORE,
                    };
                    assert_eq!(
                        (batch.labels[index], batch.positions[index]),
                        (expected, at as u32)
                    );
                }
            }
        }
    }
}
