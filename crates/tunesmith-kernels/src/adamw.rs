//! AdamW (Loshchilov & Hutter 2019, algorithm 2) in one pass over a parameter, clipping included.
//!
//! ```text
//! g ← clip · g      m ← m + (1 − β₁)(g − m)      v ← β₂ v + (1 − β₂) g²
//! w ← w (1 − lr λ) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//! A bf16 model keeps w in fp32 beside it and is given its rounded value in the same pass.

use crate::{
    cuda,
    element::{Element, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use half::bf16;
use tch::Tensor;

/// Elements of one task: 256 KiB per tensor.
const CHUNK: usize = 1 << 16;

/// The numbers of one update.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
    /// Learning rate.
    pub lr: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// λ, the decoupled weight decay.
    pub weight_decay: f64,
    /// Multiplies the gradient.
    pub clip: f64,
    /// Updates made, this one included.
    pub t: i32,
}

/// Updates `weight` and its moments, all fp32, by `grad` (fp32); `rounded`, bf16, becomes a copy of `weight`.
pub fn adamw_(
    weight: &Tensor,
    rounded: Option<&Tensor>,
    grad: &Tensor,
    [exp_avg, exp_avg_sq]: [&Tensor; 2],
    step: &AdamWStep,
) {
    if weight.device().is_cuda() {
        return cuda::adamw_(weight, rounded, grad, [exp_avg, exp_avg_sq], step);
    }
    let n = weight.numel();
    let [w, g, m, v] = [weight, grad, exp_avg, exp_avg_sq].map(|x| Shared(memory::<f32>(x)));
    let rounded = rounded.map(|x| Shared(memory::<bf16>(x)));
    let factors = Factors::of(step);
    for_each(n.div_ceil(CHUNK), |task| {
        let start = task * CHUNK;
        // SAFETY: elements start.. of tensors of n; each belongs to one task.
        unsafe {
            simd::run(Update {
                w: w.get().add(start),
                rounded: rounded.map(|x| x.get().add(start)),
                g: g.get().add(start),
                m: m.get().add(start),
                v: v.get().add(start),
                n: CHUNK.min(n - start),
                factors,
            });
        }
    });
}

/// Σ x² over fp32 tensors. On the CPU in chunks whose sums are added in order: the same for any number of threads; on a
/// GPU in a few launches, waiting for it once.
pub fn square_sum(tensors: &[&Tensor]) -> f64 {
    match tensors.first() {
        Some(first) if first.device().is_cuda() => cuda::square_sum(tensors),
        _ => tensors.iter().map(|x| square_sum_of(x)).sum(),
    }
}

fn square_sum_of(x: &Tensor) -> f64 {
    let n = x.numel();
    let mut partial = vec![0.0f64; n.div_ceil(CHUNK)];
    let (x, sums) = (Shared(memory::<f32>(x)), Shared(partial.as_mut_ptr()));
    for_each(partial.len(), |task| {
        let start = task * CHUNK;
        // SAFETY: as above; each task has a sum of its own.
        unsafe {
            simd::run(SquareSum {
                x: x.get().add(start),
                n: CHUNK.min(n - start),
                sum: sums.get().add(task),
            });
        }
    });
    partial.iter().sum()
}

/// The numbers of the formula as kernels take them, each rounded once from f64: 1 − 0.999 in fp32 would be off by 5e-5.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Factors {
    pub(crate) clip: f32,
    pub(crate) one_minus_beta1: f32,
    pub(crate) beta2: f32,
    pub(crate) one_minus_beta2: f32,
    /// 1 / √(1 − β₂ᵗ)
    pub(crate) inv_sqrt_bias2: f32,
    pub(crate) eps: f32,
    /// 1 − lr λ
    pub(crate) keep: f32,
    /// lr / (1 − β₁ᵗ)
    pub(crate) rate: f32,
}

impl Factors {
    pub(crate) fn of(step: &AdamWStep) -> Self {
        let AdamWStep { lr, beta1, beta2, eps, weight_decay, clip, t } = *step;
        Self {
            clip: clip as f32,
            one_minus_beta1: (1.0 - beta1) as f32,
            beta2: beta2 as f32,
            one_minus_beta2: (1.0 - beta2) as f32,
            inv_sqrt_bias2: (1.0 / (1.0 - beta2.powi(t)).sqrt()) as f32,
            eps: eps as f32,
            keep: (1.0 - lr * weight_decay) as f32,
            rate: (lr / (1.0 - beta1.powi(t))) as f32,
        }
    }
}

struct Update {
    w: *mut f32,
    rounded: Option<*mut bf16>,
    g: *const f32,
    m: *mut f32,
    v: *mut f32,
    n: usize,
    factors: Factors,
}

impl Kernel for Update {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { w, rounded, g, m, v, n, factors: f } = self;
        for i in (0..n).step_by(LANES) {
            // SAFETY: the caller's: n elements.
            unsafe {
                let left = n - i;
                let grad = S::mul(f32::load_some::<S>(g.add(i), left), S::splat(f.clip));
                let old = f32::load_some::<S>(m.add(i), left);
                let first = S::fma(S::sub(grad, old), S::splat(f.one_minus_beta1), old);
                let decayed = S::mul(f32::load_some::<S>(v.add(i), left), S::splat(f.beta2));
                let second = S::fma(S::mul(grad, grad), S::splat(f.one_minus_beta2), decayed);
                let root = S::mul(S::sqrt(second), S::splat(f.inv_sqrt_bias2));
                let direction = S::div(first, S::add(root, S::splat(f.eps)));
                let kept = S::mul(f32::load_some::<S>(w.add(i), left), S::splat(f.keep));
                let new = S::sub(kept, S::mul(direction, S::splat(f.rate)));
                f32::store_some::<S>(m.add(i), first, left);
                f32::store_some::<S>(v.add(i), second, left);
                f32::store_some::<S>(w.add(i), new, left);
                if let Some(rounded) = rounded {
                    bf16::store_some::<S>(rounded.add(i), new, left);
                }
            }
        }
    }
}

struct SquareSum {
    x: *const f32,
    n: usize,
    sum: *mut f64,
}

impl Kernel for SquareSum {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { x, n, sum } = self;
        // SAFETY: the caller's: n elements and a place for the sum.
        unsafe {
            let mut total = 0.0f64;
            // 64 sums of at most 64 squares in fp32, the rest in f64.
            for block in (0..n).step_by(4096) {
                let mut sums = [S::splat(0.0); 4];
                for i in (block..(block + 4096).min(n)).step_by(LANES) {
                    let v = f32::load_some::<S>(x.add(i), n - i);
                    sums[i / LANES % 4] = S::fma(v, v, sums[i / LANES % 4]);
                }
                for part in sums {
                    total += f64::from(S::sum(part));
                }
            }
            *sum = total;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_within, randn};
    use tch::Kind;

    #[test]
    fn three_updates_agree_with_the_formula_in_f64() {
        for n in [5i64, 3 * CHUNK as i64 + 7] {
            let w = randn(&[n], Kind::Float);
            let [m, v] = [(); 2].map(|()| w.zeros_like());
            let rounded = w.to_kind(Kind::BFloat16);
            let [mut ew, mut em, mut ev] = [&w, &m, &v].map(|x| x.to_kind(Kind::Double));
            for t in 1..=3 {
                let g = randn(&[n], Kind::Float);
                let (lr, clip, decay) = (1e-2, 0.7, 0.1);
                let step = AdamWStep {
                    lr,
                    beta1: 0.9,
                    beta2: 0.99,
                    eps: 1e-8,
                    weight_decay: decay,
                    clip,
                    t,
                };
                adamw_(&w, Some(&rounded), &g, [&m, &v], &step);
                let g = g.to_kind(Kind::Double) * clip;
                em = em * 0.9 + &g * 0.1;
                ev = ev * 0.99 + g.square() * 0.01;
                let denominator = (&ev / (1.0 - 0.99f64.powi(t))).sqrt() + 1e-8;
                ew = ew * (1.0 - lr * decay) - (&em / (1.0 - 0.9f64.powi(t)) / denominator) * lr;
            }
            assert_within("weight", &w, &ew, 1e-6);
            assert_within("first moment", &m, &em, 1e-6);
            assert_within("second moment", &v, &ev, 1e-6);
            assert_eq!(rounded, w.to_kind(Kind::BFloat16));
        }
    }

    #[test]
    fn square_sum_is_that_of_f64() {
        let x = randn(&[CHUNK as i64 * 2 + 77], Kind::Float);
        let expected = x.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[]);
        assert!((square_sum(&[&x]) / expected - 1.0).abs() < 1e-6);
        let twice = [&x, &x];
        assert_eq!(square_sum(&twice), 2.0 * square_sum(&[&x]));
        let by_norms = cuda::square_sum(&twice); // libtorch's way knows no device; on the CPU it adds one by one in fp32
        assert!((by_norms / (2.0 * expected) - 1.0).abs() < 1e-3);
        assert_eq!(square_sum(&[]), 0.0);
    }
}
