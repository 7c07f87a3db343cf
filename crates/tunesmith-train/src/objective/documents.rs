//! Sums over documents, and the rows of hidden states that a document's score is read from.
//!
//! Shapes: N tokens, D documents, R trained rows.

use super::pairs_of;
use crate::{Reading, TrainError};
use std::ops::Range;
use tch::{Device, Kind, Tensor};
use tunesmith_tokens::{Batch, Doc, IGNORE};

/// ln p of each document's trained tokens, summed, (D), fp32.
pub(crate) fn doc_logps(reading: &Reading<'_>) -> Tensor {
    sum_by_doc(&reading.token_scores().logprobs, reading.batch)
}

/// Sums numbers of the trained rows (R) by document, (D).
pub(crate) fn sum_by_doc(rows: &Tensor, batch: &Batch) -> Tensor {
    let docs = batch.doc_ranges().zip(0i64..);
    let of_row: Vec<i64> = docs
        .flat_map(|(range, doc)| {
            let n = batch.labels[range].iter().filter(|&&label| label != IGNORE).count();
            std::iter::repeat_n(doc, n)
        })
        .collect();
    let of_row = Tensor::from_slice(&of_row).to_device(rows.device());
    Tensor::zeros([batch.docs.len() as i64], (Kind::Float, rows.device()))
        .index_add(0, &of_row, rows)
}

/// How many tokens of each document are trained.
pub(crate) fn n_trained(batch: &Batch) -> Vec<f32> {
    let count =
        |range: Range<usize>| batch.labels[range].iter().filter(|&&l| l != IGNORE).count() as f32;
    batch.doc_ranges().map(count).collect()
}

/// Hidden states of the last token of each document, (D, C).
pub(crate) fn last_rows(reading: &Reading<'_>) -> Tensor {
    let ends: Vec<i64> = reading.batch.doc_ranges().map(|range| range.end as i64 - 1).collect();
    reading.hidden.index_select(0, &Tensor::from_slice(&ends).to_device(reading.hidden.device()))
}

/// What the head over labels says of each document, (D, labels), fp32.
pub(crate) fn doc_scores(reading: &Reading<'_>) -> Result<Tensor, TrainError> {
    let scores = reading.model.label_scores(&last_rows(reading), reading.pass);
    scores.ok_or(TrainError::NoLabelHead)
}

/// Document numbers of the chosen and of the rejected answers, and the rows they came from.
#[derive(Debug)]
pub(crate) struct PairIndex {
    pub(crate) chosen: Vec<i64>,
    pub(crate) rejected: Vec<i64>,
    weights: Vec<f32>,
}

impl PairIndex {
    /// The pairs of a batch that count anything, each checked: two answers that differ, to one prompt.
    pub(crate) fn new(batch: &Batch) -> Result<Self, TrainError> {
        let mut index = Self { chosen: Vec::new(), rejected: Vec::new(), weights: Vec::new() };
        for pair in pairs_of(batch) {
            let [chosen, rejected] = [pair.start, pair.start + 1];
            let Doc { row, weight, .. } = batch.docs[chosen];
            if weight == 0.0 {
                continue; // as if it were not there
            }
            let bad = |reason: String| Err(TrainError::BadPair { row, reason });
            if pair.len() != 2 {
                return bad(format!(
                    "expected one chosen and one rejected answer, found {}",
                    pair.len()
                ));
            }
            let [a, b] = [chosen, rejected].map(|doc| batch.doc_tokens(doc));
            if a == b {
                return bad("chosen and rejected are the same".into());
            }
            // The first token of an answer may swallow the prompt's last letter; more than that is another prompt.
            let [m, n] = [chosen, rejected].map(|doc| prompt_len(batch, doc));
            let shared = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
            if shared + 1 < m.min(n) {
                return bad(format!(
                    "the prompts of chosen and rejected differ from token {shared} on (they have {m} and {n})"
                ));
            }
            index.chosen.push(chosen as i64);
            index.rejected.push(rejected as i64);
            index.weights.push(weight);
        }
        Ok(index)
    }

    /// What each pair counts, (P).
    pub(crate) fn weights(&self, device: Device) -> Tensor {
        Tensor::from_slice(&self.weights).to_device(device)
    }

    /// Numbers of documents (D) as those of chosen and of rejected ones, (P) each.
    pub(crate) fn split(&self, docs: &Tensor) -> [Tensor; 2] {
        [&self.chosen, &self.rejected]
            .map(|index| docs.index_select(0, &Tensor::from_slice(index).to_device(docs.device())))
    }
}

/// How many tokens of a document stand before the first trained one; all, where none is.
pub(crate) fn prompt_len(batch: &Batch, doc: usize) -> usize {
    let end = batch.docs.get(doc + 1).map_or(batch.len(), |next| next.start);
    let labels = &batch.labels[batch.docs[doc].start..end];
    let own = labels.iter().position(|&label| label != IGNORE).map_or(labels.len(), |at| at + 1);
    batch.docs[doc].shared + own
}
