//! The gate of an MLP (SwiGLU, Shazeer 2020): silu(gate) · up, forward and backward in one pass each.
//!
//! ```text
//! s = σ(g)     a = g s u     dg = da · u · s (1 + g (1 − s))     du = da · g s
//! ```

use crate::{
    cuda,
    element::{Element, by_kind, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::Tensor;

/// Elements of one task: 32 KiB of fp32 per tensor.
const CHUNK: usize = 8192;

/// silu(`gate`) · `up`, of any shape.
pub fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    if gate.device().is_cuda() {
        return cuda::swiglu(gate, up);
    }
    let out = gate.empty_like();
    let n = gate.numel();
    by_kind!(gate.kind(), E => {
        let [g, u, a] = [gate, up, &out].map(|x| Shared(memory::<E>(x)));
        for_each(n.div_ceil(CHUNK), |task| {
            let start = task * CHUNK;
            // SAFETY: elements start.. of tensors of n; each belongs to one task.
            unsafe {
                simd::run(Forward {
                    g: g.get().add(start), u: u.get().add(start), a: a.get().add(start),
                    n: CHUNK.min(n - start),
                });
            }
        });
    });
    out
}

/// Replaces `gate` and `up` by their gradients, given that of the product.
pub fn swiglu_backward_(da: &Tensor, gate: &Tensor, up: &Tensor) {
    if gate.device().is_cuda() {
        return cuda::swiglu_backward_(da, gate, up);
    }
    let n = gate.numel();
    by_kind!(gate.kind(), E => {
        let [g, u, a] = [gate, up, da].map(|x| Shared(memory::<E>(x)));
        for_each(n.div_ceil(CHUNK), |task| {
            let start = task * CHUNK;
            // SAFETY: as in the forward.
            unsafe {
                simd::run(Backward {
                    da: a.get().add(start), g: g.get().add(start), u: u.get().add(start),
                    n: CHUNK.min(n - start),
                });
            }
        });
    });
}

struct Forward<E> {
    g: *const E,
    u: *const E,
    a: *mut E,
    n: usize,
}

impl<E: Element> Kernel for Forward<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { g, u, a, n } = self;
        let mut i = 0;
        while i < n {
            // SAFETY: the caller's: n elements.
            unsafe {
                let gate = E::load_some::<S>(g.add(i), n - i);
                let up = E::load_some::<S>(u.add(i), n - i);
                let out = S::mul(S::mul(gate, S::sigmoid(gate)), up);
                E::store_some::<S>(a.add(i), out, n - i);
            }
            i += LANES;
        }
    }
}

struct Backward<E> {
    da: *const E,
    g: *mut E,
    u: *mut E,
    n: usize,
}

impl<E: Element> Kernel for Backward<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { da, g, u, n } = self;
        let mut i = 0;
        while i < n {
            // SAFETY: the caller's: n elements.
            unsafe {
                let da = E::load_some::<S>(da.add(i), n - i);
                let gate = E::load_some::<S>(g.add(i), n - i);
                let up = E::load_some::<S>(u.add(i), n - i);
                let s = S::sigmoid(gate);
                let silu = S::mul(gate, s);
                // s (1 + g (1 − s)) = s + silu − silu s
                let slope = S::sub(S::add(s, silu), S::mul(silu, s));
                E::store_some::<S>(g.add(i), S::mul(S::mul(da, up), slope), n - i);
                E::store_some::<S>(u.add(i), S::mul(da, silu), n - i);
            }
            i += LANES;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, leaf, randn};
    use tch::Kind;

    #[test]
    fn agrees_with_its_twin() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for n in [1, 37, 3 * CHUNK as i64 + 5] {
                let (g, u) = (leaf(&(randn(&[n], kind) * 4.0)), leaf(&randn(&[n], kind)));
                let expected = g.silu() * &u;
                assert_close("product", &tch::no_grad(|| swiglu(&g, &u)), &expected);
                let da = randn(&[n], kind);
                let grads = Tensor::run_backward(
                    &[(&expected * &da).sum(Kind::Float)],
                    &[&g, &u],
                    false,
                    false,
                );
                let (dg, du) = (g.detach().copy(), u.detach().copy());
                swiglu_backward_(&da, &dg, &du);
                assert_close("gate", &dg, &grads[0]);
                assert_close("up", &du, &grads[1]);
            }
        }
    }
}
