//! Which module and which rows made a step something else than a number.

use super::forward;
use crate::{AdamW, Gradients, Objective, TrainError, ragged};
use std::collections::BTreeSet;
use tch::Tensor;
use tunesmith_model::{Pass, Transformer};
use tunesmith_tokens::Batch;

/// The module where it begins, and the rows that lead to it.
pub(super) fn find(
    model: &Transformer,
    objective: &dyn Objective,
    batches: &[Batch],
    optimizer: &AdamW,
    gradients: &Gradients,
) -> Result<(String, Vec<u64>), TrainError> {
    let _no_grad = tch::no_grad_guard();
    let broken = |values: &Tensor| values.isfinite().all().int64_value(&[]) == 0;
    let of = |batch: &Batch| batch.docs.iter().map(|doc| doc.row).collect::<Vec<_>>();
    for batch in batches {
        if let Some(param) = model.params().iter().find(|p| broken(&p.tensor)) {
            return Ok((param.name.clone(), of(batch)));
        }
        let mut module = None;
        let mut watch = |name: &str, stream: &Tensor| {
            if module.is_none() && broken(stream) {
                module = Some(name.to_owned());
            }
        };
        let input = ragged(batch, model.device());
        let hidden = model.watched(&input, &mut Pass::default(), &mut watch)?;
        let docs = batch.doc_ranges().zip(&batch.docs);
        let touched = docs
            .filter(|(range, _)| broken(&hidden.narrow(0, range.start as i64, range.len() as i64)));
        let rows: BTreeSet<u64> = touched.map(|(_, doc)| doc.row).collect();
        if !rows.is_empty() {
            let module = module.unwrap_or_else(|| "the last norm".into());
            return Ok((module, rows.into_iter().collect()));
        }
        let statistic = objective.statistic(model, std::slice::from_ref(batch))?;
        let terms = forward(model, objective, batch, Pass::default(), (statistic, None))?.terms;
        if terms.iter().any(|term| !term.sum.double_value(&[]).is_finite()) {
            return Ok(("the objective".into(), of(batch)));
        }
    }
    // The backward pass goes through the parameters from the last to the first.
    let first = optimizer.named(gradients).filter(|(_, gradient)| broken(gradient)).last();
    let module =
        first.map_or("sums over the step".into(), |(name, _)| format!("the gradient of {name}"));
    Ok((module, batches.iter().flat_map(of).collect()))
}
