//! What a run minimises: a function from the model's token scores to a sum, and what that sum is counted in.
//!
//! A new objective is one file with one function. The trainer divides by the count of the whole optimizer step (all
//! micro-batches, all ranks), so no objective ever averages by itself.

mod sft;

pub use sft::Sft;

use tch::Tensor;
use tunesmith_model::TokenScores;
use tunesmith_tokens::Batch;

/// A loss over batches.
pub trait Objective {
    /// How many units (trained tokens, pairs, sequences) `batch` contributes; known before any forward pass.
    fn count(&self, batch: &Batch) -> f64;

    /// The sum of the losses of `batch`, a differentiable scalar, and sums of what is worth watching.
    ///
    /// `scores` holds one entry per trained label of the batch, in order.
    fn loss(&self, scores: &TokenScores, batch: &Batch) -> Terms;
}

/// What an objective makes of one micro-batch.
pub struct Terms {
    /// Σ of the losses, a scalar in fp32 with its graph.
    pub sum: Tensor,
    /// Metrics under TRL's names: each a sum and the count to divide it by over the step.
    pub metrics: Vec<Metric>,
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
