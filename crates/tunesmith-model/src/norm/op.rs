//! A norm of one pass, for coarse nodes: `Send`, without autograd.

use super::Norm;
use crate::{Pass, config, linear::Leaf, node};
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

impl Norm {
    /// Whether kernels can be its handle.
    pub(crate) fn is_rms(&self) -> bool {
        matches!(self.kind, config::Norm::Rms { .. })
    }

    /// As [`Norm::forward`], by one node; `None` where there is no fused form.
    pub(crate) fn forward_fused(&self, x: &Tensor, pass: &Pass) -> Option<Tensor> {
        if !node::fits(x, pass) {
            return None;
        }
        let op = self.op(pass)?;
        let input = x.detach().contiguous();
        let (y, rstd) = tch::no_grad(|| op.forward(&input));
        let leaves: Vec<Tensor> = op.leaf().iter().map(|leaf| leaf.shallow_clone()).collect();
        node::attach(c"norm", x, &leaves, &y, move |dy, want_dx| {
            let dx = input.zeros_like();
            op.backward(dy, &input, &rstd, &dx);
            want_dx.then_some(dx)
        });
        Some(y)
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
