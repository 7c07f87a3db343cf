//! One optimizer step: count, forward and backward of every micro-batch, clip, update.

mod blame;

use crate::{
    AdamW, Gradients, Objective, TrainError,
    forward::Reading,
    objective::{Metric, PerUnit, Terms, averages, merge},
};
use std::sync::atomic::{AtomicBool, Ordering};
use tch::Tensor;
use tunesmith_model::{DropoutKey, Pass, Transformer};
use tunesmith_tokens::{Batch, IGNORE};

/// What a step has seen.
#[derive(Debug, Clone, PartialEq)]
pub struct StepOutcome {
    /// The objective, over the whole step.
    pub loss: f64,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
}

/// The loss and its gradient, before anything is changed.
pub struct Measured {
    /// The objective, over the whole step.
    pub loss: f64,
    /// Its gradient, and the norm of that before clipping.
    pub gradients: Gradients,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
}

/// Makes one update of `optimizer`'s parameters, those of `model`, from `batches` at learning rate `lr`. `seed` names the
/// dropout masks of adapters, if they have any.
///
/// # Errors
/// Batches that hold nothing the objective counts; a loss or gradient norm that is not finite. Neither changes a
/// weight. What the model says.
pub fn step(
    model: &Transformer,
    optimizer: &mut AdamW,
    objective: &dyn Objective,
    batches: &[Batch],
    lr: f64,
    seed: u64,
) -> Result<StepOutcome, TrainError> {
    let never = AtomicBool::new(false);
    let Some(measured) = measure(model, optimizer, objective, batches, Some(seed), &never)? else {
        return Ok(StepOutcome { loss: 0.0, grad_norm: 0.0, metrics: Vec::new() }); // never asked to stop
    };
    let Measured { loss, gradients, metrics } = measured;
    let grad_norm = gradients.norm;
    optimizer.step(gradients, lr);
    Ok(StepOutcome { loss, grad_norm, metrics })
}

/// Loss and gradient of `batches`; `None` where `stop` was set before the last of them was through. `seed`: as for [`step`];
/// `None`: nothing is dropped.
///
/// # Errors
/// As [`step`].
pub fn measure(
    model: &Transformer,
    optimizer: &AdamW,
    objective: &dyn Objective,
    batches: &[Batch],
    seed: Option<u64>,
    stop: &AtomicBool,
) -> Result<Option<Measured>, TrainError> {
    let step = optimizer.n_steps() + 1;
    // The whole step's counts, before the first forward: the gradient does not depend on how the step is split.
    let counts = PerUnit::count(batches);
    if counts.lacks(objective.units()) {
        return Err(TrainError::NothingTrained {
            step,
            n_tokens: batches.iter().map(Batch::len).sum(),
        });
    }
    let through = backward(
        model,
        objective,
        batches,
        &counts,
        seed.map(|seed| DropoutKey { seed, step, micro_batch: 0 }),
        stop,
    );
    let gradients = optimizer.take_gradients(); // of a step that failed or was broken off, too: nothing is left behind
    let Some((loss, metrics)) = through? else { return Ok(None) };
    for (what, value) in [("loss", loss), ("grad_norm", gradients.norm)] {
        if !value.is_finite() {
            let (module, rows) = blame::find(model, objective, batches, optimizer, &gradients)?;
            return Err(TrainError::NonFinite { step, what, value, module, rows });
        }
    }
    Ok(Some(Measured { loss, gradients, metrics: averages(&metrics) }))
}

/// The terms of `batch`; none where it holds nothing that `objective` counts. `statistic` and `known`: see
/// [`Reading`].
pub(crate) fn forward(
    model: &Transformer,
    objective: &dyn Objective,
    batch: &Batch,
    mut pass: Pass<'_>,
    (statistic, known): (f64, Option<Vec<f32>>),
) -> Result<Terms, TrainError> {
    if PerUnit::count([batch]).lacks(objective.units()) {
        return Ok(Terms::default());
    }
    if let (Some(weights), false) = (&batch.weights, objective.takes_weights())
        && let Some((_, doc)) = batch.doc_ranges().zip(&batch.docs).find(|(range, doc)| {
            let trained = range.clone().filter(|&at| batch.labels[at] != IGNORE);
            trained.into_iter().any(|at| weights[at] != doc.weight)
        })
    {
        return Err(TrainError::Weights { row: doc.row });
    }
    let reading = Reading::new(model, batch, &mut pass)?;
    objective.terms(&Reading { statistic, known, ..reading })
}

/// Leaves the gradient of the loss in the parameters; returns that loss, and the metrics' sums. `None`: broken off.
fn backward(
    model: &Transformer,
    objective: &dyn Objective,
    batches: &[Batch],
    counts: &PerUnit,
    dropout: Option<DropoutKey>,
    stop: &AtomicBool,
) -> Result<Option<(f64, Vec<Metric>)>, TrainError> {
    let trained: Vec<_> = model.params().iter().filter(|p| p.trainable()).collect();
    let leaves: Vec<&Tensor> = trained.iter().map(|p| &p.tensor).collect();
    let statistic = objective.statistic(model, batches)?;
    let (mut loss, mut metrics) = (0.0, Vec::new());
    for (micro_batch, batch) in (0..).zip(batches) {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let dropout = dropout.map(|key| DropoutKey { micro_batch, ..key });
        let pass = Pass { dropout, ..Pass::default() };
        let known = objective.known_gradients(batch, counts);
        let Terms { terms, metrics: of_batch, .. } =
            forward(model, objective, batch, pass, (statistic, known))?;
        merge(&mut metrics, of_batch);
        // A unit of which the step has none gives an empty sum, which nothing divides.
        let parts = terms.iter().filter(|term| counts.get(term.unit) != 0.0);
        let Some(part) = parts
            .map(|term| &term.sum * (term.weight / counts.get(term.unit)))
            .reduce(|sum, part| sum + part)
        else {
            continue;
        };
        for (param, grad) in
            trained.iter().zip(Tensor::f_run_backward(&[&part], &leaves, false, false)?)
        {
            if grad.defined() {
                param.main_grad().accumulate(&grad);
            }
        }
        loss += part.double_value(&[]);
    }
    Ok(Some((loss, metrics)))
}
