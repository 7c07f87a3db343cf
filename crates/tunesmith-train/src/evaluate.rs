//! Evaluation on held-out rows: the objective without gradients, and without a logits tensor of the whole batch.

use crate::{
    Confusion, Objective, TrainError,
    objective::{Metric, PerUnit, Unit, averages, merge},
    step::forward,
};
use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};
use tunesmith_model::{Pass, Transformer};
use tunesmith_tokens::{BatchSource, Cursor};

/// The objective over all held-out rows.
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluation {
    /// The loss, as if all held-out rows were one step.
    pub loss: f64,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
    /// How often each class was taken for which, where there are classes.
    pub confusion: Option<Confusion>,
    /// How many the share of right ones is of: pairs, or documents with a class.
    pub judged: Option<Judged>,
    /// Seconds it took.
    pub seconds: f64,
}

/// A share of right ones.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Judged {
    /// The metric that holds it.
    pub name: &'static str,
    /// The share.
    pub share: f64,
    /// How many were judged; where rows have weights, (Σ w)² / Σ w².
    pub n: u64,
}

/// Metrics that count who was right, pair by pair or document by document.
const SHARES: [&str; 2] = ["rewards/accuracies", "accuracy"];

/// Reads `source` from its start to its end; `None` where `stop` was set before that.
///
/// A statistic that an objective needs of a whole step is taken of each batch here.
///
/// # Errors
/// What the source or the model says; held-out rows that hold nothing the objective counts.
pub fn evaluate(
    model: &Transformer,
    source: &mut dyn BatchSource,
    objective: &dyn Objective,
    stop: &AtomicBool,
) -> Result<Option<Evaluation>, TrainError> {
    let _no_grad = tch::no_grad_guard();
    let started = Instant::now();
    source.seek(Cursor::default()).map_err(TrainError::Source)?;
    let (mut sums, mut counts) = (PerUnit::default(), PerUnit::default());
    let (mut n_tokens, mut metrics, mut predictions) = (0, Vec::new(), Vec::new());
    let (mut weight, mut square) = (0.0, 0.0); // sums over the groups
    while let Some(batch) = source.next().map_err(TrainError::Source)? {
        if stop.load(Ordering::Relaxed) {
            return Ok(None);
        }
        n_tokens += batch.len();
        for group in batch.docs.chunk_by(|a, b| a.group == b.group) {
            let w = f64::from(group[0].weight);
            (weight, square) = (weight + w, square + w * w);
        }
        Unit::ALL.into_iter().for_each(|unit| counts.add(unit, unit.count(&batch)));
        let statistic = objective.statistic(model, std::slice::from_ref(&batch))?;
        let terms = forward(model, objective, &batch, Pass::default(), (statistic, None))?;
        for term in terms.terms {
            sums.add(term.unit, term.weight * term.sum.double_value(&[]));
        }
        merge(&mut metrics, terms.metrics);
        predictions.extend(terms.predictions);
    }
    if counts.lacks(objective.units()) {
        return Err(TrainError::NothingHeldOut { n_tokens });
    }
    let counted = Unit::ALL.into_iter().filter(|&unit| counts.get(unit) != 0.0);
    let loss = counted.map(|unit| sums.get(unit) / counts.get(unit)).sum();
    let judged = metrics.iter().find(|metric| SHARES.contains(&metric.name));
    let judged = judged.map(|Metric { name, sum, count }| Judged {
        name,
        share: sum / count,
        n: alike(*count, weight, square),
    });
    let mut metrics = averages(&metrics);
    let confusion = (!predictions.is_empty()).then(|| Confusion::new(&predictions));
    metrics.extend(confusion.iter().map(|confusion| ("macro_f1", confusion.macro_f1())));
    let seconds = started.elapsed().as_secs_f64();
    Ok(Some(Evaluation { loss, metrics, confusion, judged, seconds }))
}

/// As how many rows of one weight those tell whose weights sum to `weight`, and their squares to `square`; `counted` is the
/// part of `weight` that was judged (Kish 1965, the effective sample size).
fn alike(counted: f64, weight: f64, square: f64) -> u64 {
    (counted * weight / square).round() as u64
}

#[cfg(test)]
mod tests {
    use super::alike;

    #[test]
    fn rows_of_one_weight_count_as_they_are() {
        for w in [1.0, 10.0, 0.005] {
            assert_eq!(alike(60.0 * w, 60.0 * w, 60.0 * w * w), 60, "weight {w}");
        }
        assert_eq!(alike(12.0, 12.0, 102.0), 1, "one of 10 and two of 1");
        assert_eq!(alike(30.0, 60.0, 60.0), 30, "half of them judged");
    }
}
