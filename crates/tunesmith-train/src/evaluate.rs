//! Evaluation on held-out rows: the objective without gradients, and without a logits tensor of the whole batch.

use crate::{Objective, TrainError, forward::forward, trainer::merge};
use std::time::Instant;
use tunesmith_model::Transformer;
use tunesmith_tokens::{BatchSource, Cursor};

/// The objective over all held-out rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The loss per unit.
    pub loss: f64,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
    /// Seconds it took.
    pub seconds: f64,
}

/// Reads `source` from its start to its end.
///
/// # Errors
/// What the source or the model says; held-out rows without a single trained token.
pub fn evaluate(
    model: &Transformer,
    source: &mut dyn BatchSource,
    objective: &dyn Objective,
) -> Result<Evaluation, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let started = Instant::now();
    source.seek(Cursor::default()).map_err(TrainError::Source)?;
    let (mut loss, mut count, mut n_tokens, mut metrics) = (0.0, 0.0, 0, Vec::new());
    while let Some(batch) = source.next().map_err(TrainError::Source)? {
        n_tokens += batch.len();
        let Some(terms) = forward(model, &batch, objective)? else { continue };
        loss += terms.sum.double_value(&[]);
        count += objective.count(&batch);
        merge(&mut metrics, terms.metrics);
    }
    if count == 0.0 {
        return Err(TrainError::NothingTrained { step: 0, n_tokens });
    }
    let metrics = metrics.into_iter().map(|m| (m.name, m.sum / m.count)).collect();
    Ok(Evaluation { loss: loss / count, metrics, seconds: started.elapsed().as_secs_f64() })
}
