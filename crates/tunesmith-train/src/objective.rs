//! What a run minimises: a function from hidden states to terms, each a sum and the unit it is counted in.
//!
//! ```text
//! loss of a step = Σₖ weightₖ · Σ sumₖ / countₖ        k: the terms; Σ sumₖ and countₖ: over all micro-batches
//! ```
//!
//! Rows may have weights w: then every mean is a weighted one, Σ w·loss / Σ w, and a count is Σ w (of tokens: Σ w·tokens).
//! A row of weight 2 counts as the row twice, one of weight 0 as none. (TRL 1.16 has no weights
//! of rows: its `use_weighting` weighs pairs by the policy's own probabilities.)
//!
//! A new objective is one file with one function. The trainer divides by the counts of the whole optimizer step, so no
//! objective ever averages by itself, and the gradient does not depend on how the step is split.

mod sft;

mod losses;
mod preference;

mod kto;
mod reward;

mod classify;

mod documents;
mod reference;

pub use classify::{Classify, Confusion};
pub use kto::Kto;
pub use losses::{LossKnobs, PAIR_LOSSES, PairLoss, Pairs};
pub use preference::Preference;
pub use reference::{DocKey, Reference};
pub use reward::Reward;
pub use sft::Sft;

use crate::{Reading, TrainError};
use std::ops::Range;
use tch::{Kind, Tensor};
use tunesmith_model::Transformer;
use tunesmith_tokens::{Batch, IGNORE};

/// A loss over batches.
pub trait Objective {
    /// The units of its terms. A micro-batch that holds none of them is not read by the model.
    fn units(&self) -> &[Unit];

    /// Whether it reads [`Batch::weights`], which may differ from token to token. Where it does not, documents count by
    /// their rows' weights ([`Doc::weight`](tunesmith_tokens::Doc)), and a trained token that counts otherwise than its
    /// document is refused.
    fn takes_weights(&self) -> bool {
        false
    }

    /// Whether it compares with a reference, which is what the model is before its first step.
    fn has_reference(&self) -> bool {
        false
    }

    /// The terms of a micro-batch that the model has read.
    ///
    /// [`Reading::token_scores`] makes log-probabilities of its hidden states; a head of its own takes the rows it needs.
    ///
    /// # Errors
    /// What the model says.
    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError>;

    /// A number that the loss needs of the whole step, such as KTO's KL term: computed once, without a gradient, before
    /// the step's first forward pass, and handed on as [`Reading::statistic`].
    ///
    /// # Errors
    /// What the model says.
    fn statistic(&self, model: &Transformer, batches: &[Batch]) -> Result<f64, TrainError> {
        let _ = (model, batches);
        Ok(0.0)
    }

    /// The derivative of the step's loss by each log-probability of [`Reading::token_scores`], where it does not depend on
    /// them; `counts` are the step's. Then the head makes its gradient on the way and no product twice.
    fn known_gradients(&self, batch: &Batch, counts: &PerUnit) -> Option<Vec<f32>> {
        let _ = (batch, counts);
        None
    }
}

/// What an objective makes of one micro-batch.
#[derive(Debug, Default)]
pub struct Terms {
    /// The summands of the loss.
    pub terms: Vec<Term>,
    /// What is worth watching, under TRL's names.
    pub metrics: Vec<Metric>,
    /// Class and prediction of each labelled document, where there are classes.
    pub predictions: Vec<(u32, u32)>,
}

/// A summand of the loss: `weight` · `sum`, to be divided by the step's count of `unit`.
#[derive(Debug)]
pub struct Term {
    /// What `sum` runs over.
    pub unit: Unit,
    /// Its share of the loss, the same in every micro-batch.
    pub weight: f64,
    /// Σ of the losses of the micro-batch, a scalar in fp32 with its graph.
    pub sum: Tensor,
}

/// What a sum of losses is divided by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Trained tokens, each as much as its weight.
    Tokens,
    /// Documents that have a label, each as much as its row.
    Docs,
    /// Groups of two documents or more, each as much as its row.
    Pairs,
    /// Trained tokens of the first document of each such group, each as much as its row.
    ChosenTokens,
    /// All predicted tokens of the first document of each such group, each as much as its row.
    ChosenText,
}

impl Unit {
    /// All of them, in order.
    pub const ALL: [Self; 5] =
        [Self::Tokens, Self::Docs, Self::Pairs, Self::ChosenTokens, Self::ChosenText];

    /// How many `batch` holds; known before any forward pass.
    pub fn count(self, batch: &Batch) -> f64 {
        match self {
            Self::Tokens => match trained_weights(batch) {
                Some(weights) => weights.iter().map(|&w| f64::from(w)).sum(),
                None => batch.n_trained() as f64,
            },
            Self::Docs => {
                let labelled = batch.docs.iter().filter(|doc| doc.label.is_some());
                labelled.map(|doc| f64::from(doc.weight)).sum()
            }
            Self::Pairs => of_chosen(batch, |_| 1),
            Self::ChosenTokens => of_chosen(batch, |range| {
                batch.labels[range].iter().filter(|&&label| label != IGNORE).count()
            }),
            Self::ChosenText => of_chosen(batch, |range| range.len().saturating_sub(1)),
        }
    }
}

/// One number per [`Unit`]: how many there are, or the sum of the losses counted in it.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct PerUnit([f64; Unit::ALL.len()]);

impl PerUnit {
    pub(crate) fn count<'a>(batches: impl IntoIterator<Item = &'a Batch>) -> Self {
        let mut counts = Self::default();
        for batch in batches {
            Unit::ALL.into_iter().for_each(|unit| counts.add(unit, unit.count(batch)));
        }
        counts
    }

    pub(crate) fn add(&mut self, unit: Unit, value: f64) {
        self.0[unit as usize] += value;
    }

    /// That of `unit`.
    pub fn get(&self, unit: Unit) -> f64 {
        self.0[unit as usize]
    }

    /// Whether there is none of `units`.
    pub(crate) fn lacks(&self, units: &[Unit]) -> bool {
        units.iter().all(|&unit| self.get(unit) == 0.0)
    }
}

/// A metric that is averaged over the step.
#[derive(Debug, Clone, PartialEq)]
pub struct Metric {
    /// TRL's name.
    pub name: &'static str,
    /// Σ over the micro-batch.
    pub sum: f64,
    /// What to divide by.
    pub count: f64,
}

impl Metric {
    /// The mean of `values` by `weights`, (n) each.
    pub(crate) fn weighted(name: &'static str, values: &Tensor, weights: &Tensor) -> Self {
        let [values, weights] = [values, weights].map(|x| x.detach().to_kind(Kind::Double));
        let sum = (values * &weights).sum(Kind::Double).double_value(&[]);
        Self { name, sum, count: weights.sum(Kind::Double).double_value(&[]) }
    }
}

/// Adds the sums of a micro-batch to those of the step.
pub(crate) fn merge(into: &mut Vec<Metric>, metrics: Vec<Metric>) {
    for metric in metrics {
        match into.iter_mut().find(|m| m.name == metric.name) {
            Some(sum) => {
                sum.sum += metric.sum;
                sum.count += metric.count;
            }
            None => into.push(metric),
        }
    }
}

/// The metrics of a step, each divided by its own count.
pub(crate) fn averages(metrics: &[Metric]) -> Vec<(&'static str, f64)> {
    metrics.iter().map(|m| (m.name, m.sum / m.count)).collect()
}

/// The documents of each group of two or more.
fn pairs_of(batch: &Batch) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    let groups = batch.docs.chunk_by(|a, b| a.group == b.group).map(move |group| {
        start += group.len();
        start - group.len()..start
    });
    groups.filter(|group| group.len() >= 2)
}

/// Σ of `count` over the tokens of the first document of each group of two or more, by the weights of their rows.
fn of_chosen(batch: &Batch, count: impl Fn(Range<usize>) -> usize) -> f64 {
    let ranges: Vec<Range<usize>> = batch.doc_ranges().collect();
    let weighed =
        |first: usize| f64::from(batch.docs[first].weight) * count(ranges[first].clone()) as f64;
    pairs_of(batch).map(|group| weighed(group.start)).sum()
}

/// Weights of the trained labels, in order; `None` where all are 1.
fn trained_weights(batch: &Batch) -> Option<Vec<f32>> {
    let weights = batch.weights.as_ref()?;
    let trained = weights.iter().zip(&batch.labels).filter(|&(_, &label)| label != IGNORE);
    Some(trained.map(|(&weight, _)| weight).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tunesmith_tokens::Doc;

    #[test]
    fn units_are_counted_as_they_are_defined() {
        let doc = |start, group, label| Doc { start, row: 0, group, label, weight: 1.0, shared: 0 };
        let mut batch = Batch {
            tokens: vec![1; 6],
            labels: vec![1, IGNORE, 1, IGNORE, 1, IGNORE],
            weights: None,
            positions: vec![0, 1, 0, 1, 0, 1],
            docs: vec![doc(0, 0, Some(0.0)), doc(2, 1, None), doc(4, 1, Some(1.0))],
        };
        let counts = |batch: &Batch| Unit::ALL.map(|unit| unit.count(batch));
        assert_eq!(counts(&batch), [3.0, 2.0, 1.0, 1.0, 1.0]);
        batch.weights = Some(vec![0.5, 9.0, 2.0, 9.0, 0.0, 9.0]);
        assert_eq!(counts(&batch), [2.5, 2.0, 1.0, 1.0, 1.0]);
        assert_eq!(PerUnit::count([&batch, &batch]), PerUnit([5.0, 4.0, 2.0, 2.0, 2.0]));
        batch.docs[0].weight = 3.0;
        batch.docs[1].weight = 0.5;
        assert_eq!(counts(&batch), [2.5, 4.0, 0.5, 0.5, 0.5], "of a pair the chosen one tells");
        assert_eq!(counts(&Batch::default()), [0.0; 5]);
        assert!(PerUnit::default().lacks(&Unit::ALL));
    }
}
