//! Supervised fine-tuning: the negative log-likelihood of every trained token.
//!
//! loss = −Σ wᵢ ln p(yᵢ | y₍<ᵢ₎) / Σ wᵢ, over the trained tokens of the whole step; w is 1 unless a row says otherwise.

use super::{Metric, Objective, PerUnit, Term, Terms, Unit, trained_weights};
use crate::{Reading, TrainError};
use tch::{Kind, Tensor};
use tunesmith_tokens::Batch;

/// Cross-entropy on trained tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sft;

impl Objective for Sft {
    fn units(&self) -> &[Unit] {
        &[Unit::Tokens]
    }

    fn takes_weights(&self) -> bool {
        true
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let scores = reading.token_scores(); // (R)
        let nll = -&scores.logprobs;
        let nll = match trained_weights(reading.batch) {
            Some(weights) => nll * Tensor::from_slice(&weights).to_device(reading.hidden.device()),
            None => nll,
        };
        let accuracy = Metric {
            name: "mean_token_accuracy",
            sum: scores.correct.sum(Kind::Float).double_value(&[]),
            count: scores.correct.numel() as f64,
        };
        let term = Term { unit: Unit::Tokens, weight: 1.0, sum: nll.sum(Kind::Float) };
        Ok(Terms { terms: vec![term], metrics: vec![accuracy], ..Terms::default() })
    }

    fn known_gradients(&self, batch: &Batch, counts: &PerUnit) -> Option<Vec<f32>> {
        let share = (1.0 / counts.get(Unit::Tokens)) as f32;
        let weights = trained_weights(batch).unwrap_or_else(|| vec![1.0; batch.n_trained()]);
        Some(weights.iter().map(|weight| -weight * share).collect())
    }
}
