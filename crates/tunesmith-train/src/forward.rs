//! One micro-batch through the model: to the device, hidden states, and scores of the tokens that are trained.

use tch::{Device, Tensor};
use tunesmith_model::{Ragged, TokenScores, Transformer};
use tunesmith_tokens::{Batch, IGNORE};

/// Scores of the trained labels of `batch`, in order, given the hidden states (N, C) of all its tokens.
///
/// Only rows whose label is trained meet the head.
pub fn token_scores(model: &Transformer, hidden: &Tensor, batch: &Batch) -> TokenScores {
    let (rows, labels): (Vec<i64>, Vec<i64>) =
        (0i64..).zip(&batch.labels).filter(|&(_, &label)| label != IGNORE).unzip();
    let to_device = |values: &[i64]| Tensor::from_slice(values).to_device(hidden.device());
    let labels = to_device(&labels); // (R)
    if rows.len() == batch.len() {
        return model.head().score(hidden, &labels);
    }
    model.head().score(&hidden.index_select(0, &to_device(&rows)), &labels)
}

/// A batch as the model's input.
pub fn ragged(batch: &Batch, device: Device) -> Ragged {
    let wide = |ids: &[u32]| {
        let ids: Vec<i64> = ids.iter().map(|&id| i64::from(id)).collect();
        Tensor::from_slice(&ids).to_device(device)
    };
    Ragged {
        tokens: wide(&batch.tokens),
        positions: wide(&batch.positions),
        lens: batch.doc_ranges().map(|range| range.len() as i64).collect(),
    }
}
