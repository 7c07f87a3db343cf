//! What blocks compute again in the backward pass, so that the forward pass need not keep it; and how much it keeps.
//!
//! Each half of a block says beside its node what it keeps; here is their sum. The result of a step is the same, bit for
//! bit, with every policy.

use crate::{
    Param, Transformer, config,
    head::{CHUNK_ELEMENTS, CHUNK_ELEMENTS_CUDA},
};
use serde::{Deserialize, Serialize};
use std::rc::Rc;
use tch::Kind;

/// What is computed again, from the policy that is fastest to the one that keeps least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Recompute {
    /// Nothing.
    #[default]
    None,
    /// Gate and up of every MLP: two of its three products, for most of what a block keeps.
    Mlp,
    /// All but the input of each half of a block: its attention, too.
    Blocks,
}

impl Recompute {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::None, Self::Mlp, Self::Blocks];

    /// Its name, as recipes write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mlp => "mlp",
            Self::Blocks => "blocks",
        }
    }
}

impl Transformer {
    /// Bytes that a forward pass keeps for the backward pass, per token of the batch, all of them trained; `None` where
    /// blocks have no fused form, so that autograd keeps what it likes.
    pub fn kept_per_token(&self, recompute: Recompute) -> Option<u64> {
        let fused = matches!(self.config.norm, config::Norm::Rms { .. });
        let stream = &self.params().first()?.tensor;
        if !fused || !tunesmith_kernels::attends(stream, self.config.head_dim) {
            return None;
        }
        let bytes = self.kind().elt_size_in_bytes() as u64;
        let (c, head_dim) = (self.config.hidden_size as u64, self.config.head_dim as u64);
        let halves = self.blocks().map(|(attention, mlp)| {
            Some(
                attention.kept_per_token(bytes, recompute)?
                    + mlp.kept_per_token(bytes, recompute)?,
            )
        });
        let blocks = halves.sum::<Option<u64>>()?;
        let last_norm = c * bytes + RSTD;
        // Its rows or, where its gradient is made on the way, theirs; and per row three numbers.
        let head = c * bytes + 3 * Kind::Float.elt_size_in_bytes() as u64;
        let ids = 3 * Kind::Int64.elt_size_in_bytes() as u64; // tokens, positions, labels
        let rotation = 2 * head_dim * bytes;
        Some(blocks + last_norm + head + ids + rotation)
    }

    /// Bytes at the widest moment of a backward pass over `n_tokens`, beside what was kept and the gradients: two tensors of
    /// an MLP's inner width (four, where gate and up are made again) and a few of the stream's, or a chunk of logits; and
    /// the product that becomes a weight's gradient, where that is not written in place.
    pub fn working_bytes(&self, n_tokens: u64, recompute: Recompute) -> u64 {
        let bytes = self.kind().elt_size_in_bytes() as u64;
        let config = &self.config;
        let (c, inner) = (config.hidden_size as u64, config.intermediate_size as u64);
        let n_inner = if recompute > Recompute::None { 4 } else { 2 };
        let block = n_tokens * (n_inner * inner + 4 * c) * bytes;
        let trained = |param: &&Rc<Param>| param.trainable() && param.tensor.size().len() == 2;
        let weights = self.params().iter().filter(trained);
        let largest = weights.map(|param| param.tensor.numel() as u64).max().unwrap_or(0);
        let product = if self.kind() == Kind::Float { 0 } else { largest * bytes };
        let chunk = if self.device().is_cuda() { CHUNK_ELEMENTS_CUDA } else { CHUNK_ELEMENTS };
        block.max(chunk as u64 * bytes) + product
    }
}

/// Bytes of a norm's 1/rms of a row.
pub(crate) const RSTD: u64 = 4;
