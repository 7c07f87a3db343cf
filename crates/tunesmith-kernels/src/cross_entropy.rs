//! ln p of one label per row, and its gradient, from a chunk of logits.
//!
//! Shapes: R rows, V vocabulary.
//!
//! ```text
//! lse = ln Σ eᶻ     ln p = z[label] − lse     ∂ ln p / ∂z = onehot(label) − e^(z − lse)
//! ```

use crate::{
    cuda,
    element::{Element, by_kind, indices, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::{Device, Kind, Tensor};

/// What a chunk of logits says of its labels, each (R).
#[derive(Debug)]
pub struct LabelScores {
    /// ln p(label), fp32.
    pub logprobs: Tensor,
    /// ln of the softmax's denominator, fp32.
    pub lse: Tensor,
    /// Whether the label is the first of the largest logits, bool.
    pub correct: Tensor,
}

/// Scores `labels` (R), i64, against `logits` (R, V).
///
/// # Panics
/// A label outside the vocabulary.
pub fn label_scores(logits: &Tensor, labels: &Tensor) -> LabelScores {
    if logits.device().is_cuda() {
        return cuda::label_scores(logits, labels);
    }
    let [n, v] = [0, 1].map(|i| logits.size()[i] as usize);
    let [logprobs, lse] = [Kind::Float; 2].map(|k| Tensor::empty([n as i64], (k, Device::Cpu)));
    let correct = Tensor::empty([n as i64], (Kind::Bool, Device::Cpu));
    let labels = checked(labels, n, v);
    let correct_at = Shared(correct.data_ptr().cast::<bool>());
    let [logprobs_at, lse_at] = [&logprobs, &lse].map(|x| Shared(memory::<f32>(x)));
    by_kind!(logits.kind(), E => {
        let z = Shared(memory::<E>(logits));
        for_each(n, |row| {
            // SAFETY: row `row` of each tensor, which belongs to one task.
            unsafe {
                simd::run(Score {
                    z: z.get().add(row * v), v, label: labels[row],
                    logprob: logprobs_at.get().add(row), lse: lse_at.get().add(row),
                    correct: correct_at.get().add(row),
                });
            }
        });
    });
    LabelScores { logprobs, lse, correct }
}

/// Replaces `logits` by their gradient, given that of the log-probabilities, `grad` (R) fp32.
pub fn label_scores_backward_(logits: &Tensor, labels: &Tensor, lse: &Tensor, grad: &Tensor) {
    if logits.device().is_cuda() {
        return cuda::label_scores_backward_(logits, labels, lse, grad);
    }
    let [n, v] = [0, 1].map(|i| logits.size()[i] as usize);
    let labels = checked(labels, n, v);
    let [lse, grad] = [lse, grad].map(|x| Shared(memory::<f32>(x)));
    by_kind!(logits.kind(), E => {
        let z = Shared(memory::<E>(logits));
        for_each(n, |row| {
            // SAFETY: as in the forward.
            unsafe {
                simd::run(Gradient {
                    z: z.get().add(row * v), v, label: labels[row],
                    lse: *lse.get().add(row), grad: *grad.get().add(row),
                });
            }
        });
    });
}

fn checked(labels: &Tensor, n: usize, v: usize) -> Vec<usize> {
    let labels: Vec<usize> = indices(labels).iter().map(|&label| label as usize).collect();
    assert_eq!(labels.len(), n, "a label per row");
    assert!(labels.iter().all(|&label| label < v), "labels within the vocabulary of {v}");
    labels
}

struct Score<E> {
    z: *const E,
    v: usize,
    label: usize,
    logprob: *mut f32,
    lse: *mut f32,
    correct: *mut bool,
}

impl<E: Element> Kernel for Score<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { z, v, label, logprob, lse, correct } = self;
        let whole = v / LANES * LANES;
        // SAFETY: the caller's: v logits.
        unsafe {
            let mut largest = S::splat(f32::NEG_INFINITY);
            for i in (0..whole).step_by(LANES) {
                largest = S::max(largest, E::load::<S>(z.add(i)));
            }
            let mut max = S::largest(largest);
            for i in whole..v {
                max = max.max((*z.add(i)).to_f32());
            }
            // Four sums side by side: one would wait for its own last addition.
            let mut sums = [S::splat(0.0); 4];
            for i in (0..whole).step_by(LANES) {
                let e = S::exp(S::sub(E::load::<S>(z.add(i)), S::splat(max)));
                sums[i / LANES % 4] = S::add(sums[i / LANES % 4], e);
            }
            let mut sum = S::sum(S::add(S::add(sums[0], sums[1]), S::add(sums[2], sums[3])));
            for i in whole..v {
                sum += ((*z.add(i)).to_f32() - max).exp();
            }
            let chosen = (*z.add(label)).to_f32();
            *lse = max + sum.ln();
            *logprob = chosen - *lse;
            *correct = chosen == max && (0..label).all(|i| (*z.add(i)).to_f32() < max);
        }
    }
}

struct Gradient<E> {
    z: *mut E,
    v: usize,
    label: usize,
    lse: f32,
    grad: f32,
}

impl<E: Element> Kernel for Gradient<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { z, v, label, lse, grad } = self;
        // SAFETY: the caller's: v logits.
        unsafe {
            let chosen = (*z.add(label)).to_f32();
            for i in (0..v).step_by(LANES) {
                let p = S::exp(S::sub(E::load_some::<S>(z.add(i), v - i), S::splat(lse)));
                E::store_some::<S>(z.add(i), S::mul(p, S::splat(-grad)), v - i);
            }
            *z.add(label) = E::from_f32(grad * (1.0 - (chosen - lse).exp()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, leaf, randn};

    #[test]
    fn agrees_with_its_twin() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (n, v) in [(1, 7), (5, 49_152), (33, 1000)] {
                let logits = leaf(&(randn(&[n, v], kind) * 3.0));
                let labels = Tensor::randint(v, [n], (Kind::Int64, Device::Cpu));
                labels.narrow(0, 0, 1).copy_(&logits.narrow(0, 0, 1).argmax(-1, false));
                let wide = logits.to_kind(Kind::Float);
                let expected = wide.gather(1, &labels.unsqueeze(1), false).squeeze_dim(1)
                    - wide.logsumexp(&[1i64][..], false);
                let found = tch::no_grad(|| label_scores(&logits, &labels));
                assert_close("logprobs", &found.logprobs, &expected);
                assert_eq!(found.correct, logits.argmax(-1, false).eq_tensor(&labels));
                let grad = randn(&[n], Kind::Float);
                let expected = Tensor::run_backward(
                    &[(&expected * &grad).sum(Kind::Float)],
                    &[&logits],
                    false,
                    false,
                );
                let z = logits.detach().copy();
                label_scores_backward_(&z, &labels, &found.lse, &grad);
                assert_close("logits", &z, &expected[0]);
            }
        }
    }

    /// A broken model must not look sound because its label's own logit is a number.
    #[test]
    fn what_is_no_number_stays_none() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for v in [7, 1000] {
                for at in [0, 5, v / 2, v - 1] {
                    let logits = randn(&[3, v], kind);
                    let _ = logits.narrow(0, 1, 1).narrow(1, at, 1).fill_(f64::NAN);
                    let labels = Tensor::from_slice(&[0i64, (at + 1) % v, 1]);
                    let found = tch::no_grad(|| label_scores(&logits, &labels));
                    let is_nan = Vec::<bool>::try_from(found.logprobs.isnan()).unwrap();
                    assert_eq!(is_nan, [false, true, false], "{kind:?}, {at} of {v}");
                }
            }
        }
    }
}
