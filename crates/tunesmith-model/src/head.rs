//! From hidden states to scores over the vocabulary, a chunk of rows at a time, so that no logits tensor of the whole
//! batch exists outside autograd.
//!
//! Shapes: R rows (tokens whose label is trained), C width, V vocabulary.

mod node;

use crate::{Param, Pass, linear::Linear};
use std::rc::Rc;
use tch::{Device, Kind, Tensor};

/// Logits held at once, in elements: 128 MiB in fp32. Half of that costs products a tenth of their rate in fp32 and a
/// quarter in bf16 (256 against 512 rows of SmolLM2-135M).
pub(crate) const CHUNK_ELEMENTS: i64 = 1 << 25;
/// The same on a GPU, 1 GiB in bf16: each chunk reads the whole weight and, where it is trained, adds to its whole
/// gradient, which for 128 rows of Llama's 128,256 logits would be ten times the traffic of the product.
pub(crate) const CHUNK_ELEMENTS_CUDA: i64 = 1 << 29;

/// The output projection; tied to the embedding where the model says so.
#[derive(Debug)]
pub struct Head {
    pub(crate) linear: Linear, // (V, C)
    vocab_size: i64,
}

/// What the model thinks of given tokens.
#[derive(Debug)]
pub struct TokenScores {
    /// ln p(label), (R), fp32, differentiable.
    pub logprobs: Tensor,
    /// Whether the label is the most probable token, (R), bool.
    pub correct: Tensor,
}

impl Head {
    /// The module's name, and its weight (V, C).
    pub(crate) fn new(name: &str, weight: Rc<Param>) -> Self {
        let vocab_size = weight.tensor.size().first().copied().unwrap_or(0);
        Self { linear: Linear::around(name, weight), vocab_size }
    }

    /// Rows whose logits are held at once, of `n`: chunks of nearly one size.
    fn chunk_rows(&self, n: i64, device: Device) -> i64 {
        let elements = if device.is_cuda() { CHUNK_ELEMENTS_CUDA } else { CHUNK_ELEMENTS };
        let most = (elements / self.vocab_size / 64).max(1) * 64;
        let chunks = (n + most - 1) / most;
        (n + chunks * 64 - 1) / (chunks * 64) * 64
    }

    /// `hidden` (R, C) → logits (R, V) in fp32.
    pub fn logits(&self, hidden: &Tensor, pass: &Pass) -> Tensor {
        // A decoding step: no graph, and few rows.
        if pass.cache.is_some() && crate::node::fits(hidden, pass) {
            return self.linear.op(pass).forward(hidden).0.to_kind(Kind::Float);
        }
        self.linear.forward(hidden, pass).to_kind(Kind::Float)
    }

    /// Log-probabilities of `labels` (R), i64, given `hidden` (R, C).
    pub fn score(&self, hidden: &Tensor, labels: &Tensor, pass: &Pass) -> TokenScores {
        if let Some(scores) = self.score_fused(hidden, labels, None, pass) {
            return scores;
        }
        let rows = self.chunk_rows(hidden.size()[0].max(1), hidden.device());
        let chunks: Vec<(Tensor, Tensor)> = hidden
            .split(rows, 0)
            .iter()
            .zip(labels.split(rows, 0))
            .map(|(hidden, labels)| {
                let logits = self.logits(hidden, pass); // (rows, V)
                let picked = logits.gather(-1, &labels.unsqueeze(-1), false).squeeze_dim(-1);
                let logprobs = picked - logits.logsumexp(&[-1i64][..], false);
                (logprobs, logits.argmax(-1, false).eq_tensor(&labels))
            })
            .collect();
        let (logprobs, correct): (Vec<_>, Vec<_>) = chunks.into_iter().unzip();
        TokenScores { logprobs: Tensor::cat(&logprobs, 0), correct: Tensor::cat(&correct, 0) }
    }

    /// As [`Head::score`], where it is known what gradient each log-probability will get: `gradients` (R), fp32. Then the
    /// head's own gradient is made on the way, and no product is made twice. Backward with other gradients is an error.
    pub fn score_knowing(
        &self,
        hidden: &Tensor,
        labels: &Tensor,
        gradients: &Tensor,
        pass: &Pass,
    ) -> TokenScores {
        self.score_fused(hidden, labels, Some(gradients), pass)
            .unwrap_or_else(|| self.score(hidden, labels, pass))
    }
}
