//! One micro-batch through the model: to the device, hidden states, and the head on the rows that give a loss.

use crate::{Objective, TrainError, objective::Terms};
use tch::{Device, Tensor};
use tunesmith_model::{Ragged, Transformer};
use tunesmith_tokens::{Batch, IGNORE};

/// The terms of `batch` under `objective`; `None` where it has no trained token.
pub(crate) fn forward(
    model: &Transformer,
    batch: &Batch,
    objective: &dyn Objective,
) -> Result<Option<Terms>, TrainError> {
    let (rows, labels): (Vec<i64>, Vec<i64>) =
        (0i64..).zip(&batch.labels).filter(|&(_, &label)| label != IGNORE).unzip();
    if rows.is_empty() {
        return Ok(None);
    }
    let device = model.device();
    let to_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
    let hidden = model.hidden(&ragged(batch, device), None)?; // (N, C)
    let trained =
        if rows.len() == batch.len() { hidden } else { hidden.index_select(0, &to_device(&rows)) }; // (R, C)
    let scores = model.head().score(&trained, &to_device(&labels));
    Ok(Some(objective.loss(&scores, batch)))
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
