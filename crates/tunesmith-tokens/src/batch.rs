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

use crate::Example;

/// The label of a position that gives no loss (the value that PyTorch and transformers use).
pub const IGNORE: i64 = -100;

/// A micro-batch: `N` tokens of one or more documents, one after the other.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Batch {
    /// Token ids, `[N]`.
    pub tokens: Vec<u32>,
    /// The token to predict at each position, or [`IGNORE`], `[N]`. Already shifted.
    pub labels: Vec<i64>,
    /// The weight of each label, `[N]`; `None` means 1 everywhere.
    pub weights: Option<Vec<f32>>,
    /// Position within the document, `[N]`.
    pub positions: Vec<u32>,
    /// The documents in order; the first starts at 0.
    pub docs: Vec<Doc>,
}

/// A document of a [`Batch`]: it reaches from `start` to the next document's start.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doc {
    /// Index of its first token.
    pub start: usize,
    /// The row of the data set it came from.
    pub row: u64,
    /// Ties a preference pair or a group of rollouts together; equal to the document's index where nothing is tied.
    pub group: u32,
    /// A class or a score, for objectives that have one per document.
    pub label: Option<f32>,
}

impl Batch {
    /// Lays the examples out one after the other and shifts their labels by one.
    pub fn new<'a>(examples: impl IntoIterator<Item = &'a Example>) -> Self {
        let mut batch = Self::default();
        for (group, example) in examples.into_iter().enumerate() {
            batch.docs.push(Doc {
                start: batch.tokens.len(),
                row: example.row,
                group: group as u32,
                label: None,
            });
            batch.tokens.extend_from_slice(&example.ids);
            let next = example.ids.iter().zip(&example.trained).skip(1);
            batch
                .labels
                .extend(next.map(|(&id, &trained)| if trained { i64::from(id) } else { IGNORE }));
            batch.labels.resize(batch.tokens.len(), IGNORE);
            batch.positions.extend(0..example.ids.len() as u32);
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

    /// The range of each document's tokens, in order.
    pub fn doc_ranges(&self) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
        let ends = self.docs.iter().skip(1).map(|doc| doc.start).chain([self.tokens.len()]);
        self.docs.iter().zip(ends).map(|(doc, end)| doc.start..end)
    }
}
