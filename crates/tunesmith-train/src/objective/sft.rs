//! Supervised fine-tuning: the negative log-likelihood of every trained token.
//!
//! loss = −Σ wᵢ ln p(yᵢ | y₍<ᵢ₎) / Σ wᵢ, over the trained tokens of the whole step; w is 1 unless a row says otherwise.

use super::{Metric, Objective, Terms};
use tch::{Kind, Tensor};
use tunesmith_model::TokenScores;
use tunesmith_tokens::{Batch, IGNORE};

/// Cross-entropy on trained tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sft;

impl Objective for Sft {
    fn count(&self, batch: &Batch) -> f64 {
        match trained_weights(batch) {
            Some(weights) => weights.iter().map(|&w| f64::from(w)).sum(),
            None => batch.n_trained() as f64,
        }
    }

    fn loss(&self, scores: &TokenScores, batch: &Batch) -> Terms {
        let nll = -&scores.logprobs; // (R)
        let sum = match trained_weights(batch) {
            Some(weights) => (nll
                * Tensor::from_slice(&weights).to_device(scores.logprobs.device()))
            .sum(Kind::Float),
            None => nll.sum(Kind::Float),
        };
        let correct = scores.correct.sum(Kind::Float).double_value(&[]);
        let accuracy = Metric {
            name: "mean_token_accuracy",
            sum: correct,
            count: scores.correct.numel() as f64,
        };
        Terms { sum, metrics: vec![accuracy] }
    }
}

/// Weights of the trained labels, in order; `None` where all are 1.
fn trained_weights(batch: &Batch) -> Option<Vec<f32>> {
    let weights = batch.weights.as_ref()?;
    Some(
        weights
            .iter()
            .zip(&batch.labels)
            .filter(|&(_, &label)| label != IGNORE)
            .map(|(&w, _)| w)
            .collect(),
    )
}
