//! The MLP half of a block as one node: x + down(silu(gate(norm(x))) · up(norm(x))), forward and backward by hand.
//!
//! Shapes: N tokens, C width, I width inside.
//!
//! Kept for the backward pass: gate and up; the norm and the product are made again, which costs two passes over memory
//! and saves as much as is kept. Under any [`Recompute`] nothing is kept but x. The twin is [`Mlp::forward`].

use super::Mlp;
use crate::{
    Pass, Recompute,
    config::Activation,
    linear::{Dx, LinearOp, Saved},
    node,
    norm::{Norm, NormOp},
    recompute::RSTD,
};
use tch::Tensor;
use tunesmith_kernels as kernels;

struct Half {
    norm: NormOp,
    gate: LinearOp,
    up: LinearOp,
    down: LinearOp,
}

/// What the backward pass reads.
struct Kept {
    rstd: Tensor,
    gate: Tensor,
    up: Tensor,
    saved: [Saved; 3], // gate, up, down
}

impl Mlp {
    /// x (N, C) → x + mlp(norm(x)); `None` where there is no fused form.
    pub(crate) fn half(
        &self,
        x: &Tensor,
        norm: &Norm,
        recompute: Recompute,
        pass: &Pass,
    ) -> Option<Tensor> {
        if self.activation != Activation::Silu || !node::fits(x, pass) {
            return None;
        }
        let half = Half {
            norm: norm.op(pass)?,
            gate: self.gate.as_ref()?.op(pass),
            up: self.up.op(pass),
            down: self.down.op(pass),
        };
        let input = x.detach().contiguous();
        let (y, kept) = tch::no_grad(|| half.forward(&input));
        let leaves: Vec<Tensor> = half.leaves().iter().map(|leaf| leaf.shallow_clone()).collect();
        let kept = (recompute == Recompute::None).then_some(kept);
        node::attach(c"mlp", x, &leaves, &y, move |dy, want_dx| {
            let kept = kept.unwrap_or_else(|| tch::no_grad(|| half.again(&input)));
            half.backward(&input, kept, dy, want_dx)
        });
        Some(y)
    }

    /// Bytes that [`half`](Self::half) keeps per token, in a stream of `bytes` per element; `None` where it does not apply.
    pub(crate) fn kept_per_token(&self, bytes: u64, recompute: Recompute) -> Option<u64> {
        if self.activation != Activation::Silu || self.gate.is_none() {
            return None;
        }
        let x = self.up.n_in as u64 * bytes;
        if recompute > Recompute::None {
            return Some(x);
        }
        let inner = 2 * self.up.n_out as u64 * bytes;
        let saved = self.linears().map(|linear| linear.kept_per_token(bytes)).sum::<u64>();
        Some(x + RSTD + inner + saved)
    }
}

impl Half {
    fn leaves(&self) -> Vec<&Tensor> {
        let linears = [&self.gate, &self.up, &self.down].into_iter().flat_map(LinearOp::leaves);
        self.norm.leaf().into_iter().chain(linears).collect()
    }

    fn forward(&self, x: &Tensor) -> (Tensor, Kept) {
        let mut kept = self.inner(x);
        let (mut y, saved_down) = self.down.forward(&kernels::swiglu(&kept.gate, &kept.up));
        kept.saved[2] = saved_down;
        y += x;
        (y, kept)
    }

    /// All that the forward pass kept, without its output: the last product is not made.
    fn again(&self, x: &Tensor) -> Kept {
        let mut kept = self.inner(x);
        kept.saved[2] = self.down.save(|| kernels::swiglu(&kept.gate, &kept.up));
        kept
    }

    fn inner(&self, x: &Tensor) -> Kept {
        let (normed, rstd) = self.norm.forward(x);
        let [(gate, saved_gate), (up, saved_up)] =
            LinearOp::forward_all([&self.gate, &self.up], &normed); // (N, I)
        Kept { rstd, gate, up, saved: [saved_gate, saved_up, Saved::default()] }
    }

    fn backward(&self, x: &Tensor, kept: Kept, dy: &Tensor, want_dx: bool) -> Option<Tensor> {
        let Kept { rstd, gate, up, saved: [saved_gate, saved_up, saved_down] } = kept;
        let product = kernels::swiglu(&gate, &up);
        let mut dproduct = Dx::wanted(true);
        self.down.backward(saved_down, &product, dy, &mut dproduct);
        let dproduct = dproduct.take()?;
        drop(product);
        kernels::swiglu_backward_(&dproduct, &gate, &up); // gate and up are now their gradients
        drop(dproduct);
        let (normed, _) = self.norm.forward(x);
        let mut dnormed = Dx::wanted(want_dx || self.norm.leaf().is_some());
        self.gate.backward(saved_gate, &normed, &gate, &mut dnormed);
        drop(gate);
        self.up.backward(saved_up, &normed, &up, &mut dnormed);
        let dx = dy.copy(); // what flows past this half
        self.norm.backward(&dnormed.take()?, x, &rstd, &dx);
        want_dx.then_some(dx)
    }
}
