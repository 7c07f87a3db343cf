//! Rotary position embedding (Su et al. 2021), in place, in the half-split layout of Hugging Face checkpoints.
//!
//! Shapes: N tokens, D head size.
//!
//! ```text
//! (x₁, x₂) ← (x₁ c − x₂ s, x₂ c + x₁ s)      for each pair i, i + D/2 of a head
//! ```
//! The backward pass turns the other way: s becomes −s.

use crate::{
    cuda,
    element::{Element, by_kind, memory, rows},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::Tensor;

/// Tokens of one task.
const TOKENS: usize = 16;

/// Turns `x` (N, heads, D) by `cos` and `sin` (N, .., D), of which the first half of a row counts; `forward` or back.
pub fn rotate_(x: &Tensor, cos: &Tensor, sin: &Tensor, forward: bool) {
    if x.device().is_cuda() {
        return cuda::rotate_(x, cos, sin, forward);
    }
    let (_, d) = rows(x);
    let n = x.size()[0] as usize;
    let heads = x.numel() / (n * d).max(1);
    by_kind!(x.kind(), E => {
        let [x, cos, sin] = [x, cos, sin].map(|x| Shared(memory::<E>(x)));
        for_each(n.div_ceil(TOKENS), |task| {
            let tokens = task * TOKENS..((task + 1) * TOKENS).min(n);
            // SAFETY: whole tokens of tensors with n; each belongs to one task.
            unsafe {
                simd::run(Rotate {
                    x: x.get(), cos: cos.get(), sin: sin.get(), tokens, heads, d,
                    sign: if forward { 1.0 } else { -1.0 },
                });
            }
        });
    });
}

struct Rotate<E> {
    x: *mut E,
    cos: *const E,
    sin: *const E,
    tokens: std::ops::Range<usize>,
    heads: usize,
    d: usize,
    sign: f32,
}

impl<E: Element> Kernel for Rotate<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { x, cos, sin, tokens, heads, d, sign } = self;
        let half = d / 2;
        for token in tokens {
            // SAFETY: the caller's shapes.
            unsafe {
                let (cos, sin) = (cos.add(token * d), sin.add(token * d));
                for head in 0..heads {
                    let x = x.add((token * heads + head) * d);
                    let mut i = 0;
                    while i < half {
                        let left = half - i;
                        let c = E::load_some::<S>(cos.add(i), left);
                        let s = S::mul(E::load_some::<S>(sin.add(i), left), S::splat(sign));
                        let x1 = E::load_some::<S>(x.add(i), left);
                        let x2 = E::load_some::<S>(x.add(half + i), left);
                        let y1 = S::sub(S::mul(x1, c), S::mul(x2, s));
                        let y2 = S::fma(x2, c, S::mul(x1, s));
                        E::store_some::<S>(x.add(i), y1, left);
                        E::store_some::<S>(x.add(half + i), y2, left);
                        i += LANES;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, randn};
    use tch::Kind;

    #[test]
    fn agrees_with_its_twin_and_turns_back() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (n, heads, d) in [(33, 3, 64), (5, 2, 20), (1, 1, 2)] {
                let x = randn(&[n, heads, d], kind);
                let angle = randn(&[n, 1, d / 2], Kind::Float);
                let angle = Tensor::cat(&[&angle, &angle], -1);
                let (cos, sin) = (angle.cos().to_kind(kind), angle.sin().to_kind(kind));
                let halves = x.chunk(2, -1);
                let expected = &x * &cos + Tensor::cat(&[&-&halves[1], &halves[0]], -1) * &sin;
                let found = x.copy();
                rotate_(&found, &cos, &sin, true);
                assert_close("turned", &found, &expected);
                rotate_(&found, &cos, &sin, false);
                assert_close("turned back", &found, &x);
            }
        }
    }
}
