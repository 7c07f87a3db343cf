//! A norm of one pass, for coarse nodes: `Send`, without autograd.

use super::Norm;
use crate::{Pass, config, linear::Leaf};
use tch::Tensor;
use tunesmith_kernels as kernels;

/// An RMSNorm by kernels.
#[derive(Debug)]
pub(crate) struct NormOp {
    weight: Leaf,
    eps: f64,
}

impl Norm {
    /// The handle; `None` where the norm is another one.
    pub(crate) fn op(&self, pass: &Pass) -> Option<NormOp> {
        match self.kind {
            config::Norm::Rms { eps } => {
                Some(NormOp { weight: Leaf::of(self.weight.at(pass)), eps })
            }
            config::Norm::Layer { .. } => None,
        }
    }
}

impl NormOp {
    /// x (.., C) → the normalised x, and 1/rms of each row.
    pub(crate) fn forward(&self, x: &Tensor) -> (Tensor, Tensor) {
        kernels::rms_norm(x, &self.weight.tensor, self.eps)
    }

    /// Adds the gradient of x to `dx`, and that of the weight to its parameter's.
    pub(crate) fn backward(&self, dy: &Tensor, x: &Tensor, rstd: &Tensor, dx: &Tensor) {
        let weight = &self.weight;
        let dw = kernels::rms_norm_backward(dy, x, &weight.tensor, rstd, dx, weight.grad.is_some());
        if let (Some(grad), Some(dw)) = (&weight.grad, dw) {
            grad.accumulate(&dw);
        }
    }

    /// The weight, where it is trained.
    pub(crate) fn leaf(&self) -> Option<&Tensor> {
        self.weight.grad.is_some().then_some(&self.weight.tensor)
    }
}
