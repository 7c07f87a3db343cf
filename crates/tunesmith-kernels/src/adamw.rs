//! AdamW (Loshchilov & Hutter 2019, algorithm 2) in one pass over a parameter, clipping included.
//!
//! ```text
//! g ← clip · g      m ← m + (1 − β₁)(g − m)      v ← β₂ v + (1 − β₂) g²
//! w ← w (1 − lr λ) − lr / (1 − β₁ᵗ) · m / (√v / √(1 − β₂ᵗ) + ε)
//! ```
//! A bf16 model keeps w in fp32 beside it and is given its rounded value in the same pass, or has no other w than its own,
//! rounded by chance ([`stochastic`]). The moments are fp32 or 8 bits ([`blockwise`]), which are widened for the update and
//! narrowed after it. Bytes per weight, gradient aside:
//!
//! | | fp32 moments | 8 bits |
//! |---|---|---|
//! | fp32 | 4 + 8 = 12 | 6.03 |
//! | bf16 with an fp32 master | 2 + 4 + 8 = 14 | 8.03 |
//! | bf16 alone | 2 + 8 = 10 | 4.03 |

use crate::{
    blockwise::{self, BLOCK, Blockwise, SIGNED, UNSIGNED},
    cuda,
    element::{Element, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
    stochastic::{self, CHUNK, Key},
};
use half::bf16;
use tch::Tensor;

/// The numbers of one update that all parameters share.
#[derive(Debug, Clone, Copy)]
pub struct AdamWStep {
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

/// A weight, and how exactly it is kept.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// In fp32.
    Fp32(&'a Tensor),
    /// In fp32, and a bf16 copy that gets its nearest value.
    Master(&'a Tensor, &'a Tensor),
    /// In bf16 alone: rounded by chance, up or down, so that small updates arrive on the average. The random bits are a
    /// pure function of the number beside it and the element's index.
    Bf16(&'a Tensor, u64),
}

/// Mean and mean square of past gradients.
#[derive(Debug)]
pub enum Moments {
    /// In fp32, 8 bytes per weight.
    Fp32([Tensor; 2]),
    /// In 8 bits each, 2.03 bytes per weight.
    Blockwise([Blockwise; 2]),
}

/// A parameter, with what it is updated by.
#[derive(Debug, Clone, Copy)]
pub struct AdamWParam<'a> {
    /// The weight.
    pub weight: Weight<'a>,
    /// Its gradient, fp32.
    pub grad: &'a Tensor,
    /// Its moments.
    pub moments: &'a Moments,
    /// Its learning rate.
    pub lr: f64,
}

/// Updates weights and their moments by their gradients; those on a GPU together.
pub fn adamw_(params: &[AdamWParam], step: &AdamWStep) {
    let (there, here): (Vec<&AdamWParam>, Vec<&AdamWParam>) =
        params.iter().partition(|param| param.grad.device().is_cuda());
    cuda::adamw_(&there, step);
    here.into_iter().for_each(|param| update(param, step));
}

fn update(param: &AdamWParam, step: &AdamWStep) {
    let AdamWParam { weight, grad, moments, lr } = *param;
    let n = grad.numel();
    let g = Shared(memory::<f32>(grad));
    let place = match weight {
        Weight::Fp32(w) => Place::Fp32(Shared(memory(w)), None),
        Weight::Master(w, copy) => Place::Fp32(Shared(memory(w)), Some(Shared(memory(copy)))),
        Weight::Bf16(w, stream) => Place::Bf16(Shared(memory(w)), stream),
    };
    let fp32 = |x: &Tensor| Shared(memory::<f32>(x));
    let kept = match moments {
        Moments::Fp32(both) => Kept::Fp32(both.each_ref().map(fp32)),
        Moments::Blockwise(both) => Kept::Blockwise(
            both.each_ref().map(|x| (Shared(x.codes.data_ptr().cast()), fp32(&x.scales))),
        ),
    };
    let factors = Factors::of(step, lr);
    for_each(n.div_ceil(CHUNK), |chunk| {
        let start = chunk * CHUNK;
        // SAFETY: elements start.. of tensors of n, and the blocks of CHUNK / BLOCK in which they lie; each belongs to
        // one task.
        unsafe {
            simd::run(Update {
                w: place.at(chunk),
                g: g.get().add(start),
                moments: kept.at(start),
                n: CHUNK.min(n - start),
                factors,
            });
        }
    });
}

/// The memory of a [`Weight`].
#[derive(Debug, Clone, Copy)]
enum Place {
    Fp32(Shared<f32>, Option<Shared<bf16>>),
    Bf16(Shared<bf16>, u64),
}

impl Place {
    /// # Safety
    /// A chunk that the tensor has.
    unsafe fn at(self, chunk: usize) -> Target {
        let start = chunk * CHUNK;
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Fp32(w, copy) => {
                    Target::Fp32(w.get().add(start), copy.map(|copy| copy.get().add(start)))
                }
                Self::Bf16(w, stream) => Target::Bf16(w.get().add(start), Key::of(stream, chunk)),
            }
        }
    }
}

/// The memory of [`Moments`]; of 8 bits codes and scales.
#[derive(Debug, Clone, Copy)]
enum Kept {
    Fp32([Shared<f32>; 2]),
    Blockwise([(Shared<u8>, Shared<f32>); 2]),
}

impl Kept {
    /// # Safety
    /// An element that the tensors have, at the start of a block.
    unsafe fn at(self, start: usize) -> State {
        // SAFETY: the caller's.
        unsafe {
            match self {
                Self::Fp32(both) => State::Fp32(both.map(|x| x.get().add(start))),
                Self::Blockwise(both) => State::Blockwise(both.map(|(codes, scales)| {
                    (codes.get().add(start), scales.get().add(start / BLOCK))
                })),
            }
        }
    }
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
    pub(crate) fn of(step: &AdamWStep, lr: f64) -> Self {
        let AdamWStep { beta1, beta2, eps, weight_decay, clip, t } = *step;
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

/// Of one task: the weights.
#[derive(Clone, Copy)]
enum Target {
    Fp32(*mut f32, Option<*mut bf16>),
    Bf16(*mut bf16, Key),
}

/// Of one task: the moments.
#[derive(Clone, Copy)]
enum State {
    Fp32([*mut f32; 2]),
    Blockwise([(*mut u8, *mut f32); 2]),
}

struct Update {
    w: Target,
    g: *const f32,
    moments: State,
    n: usize,
    factors: Factors,
}

impl Kernel for Update {
    /// Block by block: moments in 8 bits are widened into a block on the stack, updated there and narrowed again.
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let (signed, unsigned) = (&*SIGNED, &*UNSIGNED);
        let mut wide = [[0.0f32; BLOCK]; 2];
        for start in (0..self.n).step_by(BLOCK) {
            let n = BLOCK.min(self.n - start);
            // SAFETY: the caller's: n elements, and their blocks.
            unsafe {
                match self.moments {
                    State::Fp32(both) => self.block::<S>(start, n, both.map(|x| x.add(start))),
                    State::Blockwise(both) => {
                        let both = both.map(|(codes, scales)| {
                            let codes = std::slice::from_raw_parts_mut(codes.add(start), n);
                            (codes, &mut *scales.add(start / BLOCK))
                        });
                        for (((codes, scale), wide), book) in
                            both.iter().zip(&mut wide).zip([signed, unsigned])
                        {
                            *wide = [0.0; BLOCK];
                            blockwise::read(book, codes, **scale, wide);
                        }
                        let [m, v] = &mut wide;
                        self.block::<S>(start, n, [m.as_mut_ptr(), v.as_mut_ptr()]);
                        for (((codes, scale), wide), book) in
                            both.into_iter().zip(&mut wide).zip([signed, unsigned])
                        {
                            *scale = blockwise::write::<S>(book, wide, codes);
                        }
                    }
                }
            }
        }
    }
}

impl Update {
    /// The update of `n` elements from `start` on, whose moments are at `m` and `v`.
    ///
    /// # Safety
    /// That they are there.
    #[inline(always)]
    unsafe fn block<S: Simd>(&self, start: usize, n: usize, [m, v]: [*mut f32; 2]) {
        let f = self.factors;
        for i in (0..n).step_by(LANES) {
            let (left, at) = (n - i, start + i);
            // SAFETY: the caller's.
            unsafe {
                let grad = S::mul(f32::load_some::<S>(self.g.add(at), left), S::splat(f.clip));
                let old = f32::load_some::<S>(m.add(i), left);
                let first = S::fma(S::sub(grad, old), S::splat(f.one_minus_beta1), old);
                let decayed = S::mul(f32::load_some::<S>(v.add(i), left), S::splat(f.beta2));
                let second = S::fma(S::mul(grad, grad), S::splat(f.one_minus_beta2), decayed);
                let root = S::mul(S::sqrt(second), S::splat(f.inv_sqrt_bias2));
                let direction = S::div(first, S::add(root, S::splat(f.eps)));
                let before = match self.w {
                    Target::Fp32(w, _) => f32::load_some::<S>(w.add(at), left),
                    Target::Bf16(w, _) => bf16::load_some::<S>(w.add(at), left),
                };
                let kept = S::mul(before, S::splat(f.keep));
                let new = S::sub(kept, S::mul(direction, S::splat(f.rate)));
                f32::store_some::<S>(m.add(i), first, left);
                f32::store_some::<S>(v.add(i), second, left);
                match self.w {
                    Target::Fp32(w, copy) => {
                        f32::store_some::<S>(w.add(at), new, left);
                        if let Some(copy) = copy {
                            bf16::store_some::<S>(copy.add(at), new, left);
                        }
                    }
                    Target::Bf16(w, key) => {
                        stochastic::store_some::<S>(w.add(at), new, key, at, left);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_within, randn};
    use tch::Kind;

    fn step(t: i32) -> AdamWStep {
        AdamWStep { beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, clip: 0.7, t }
    }

    const LR: f64 = 1e-2;

    fn update_one(weight: Weight, grad: &Tensor, moments: &Moments, lr: f64, step: &AdamWStep) {
        adamw_(&[AdamWParam { weight, grad, moments, lr }], step);
    }

    /// The formula: (w, m, v) in f64 after an update.
    fn twin([w, m, v]: [&Tensor; 3], grad: &Tensor, lr: f64, step: &AdamWStep) -> [Tensor; 3] {
        let AdamWStep { beta1, beta2, eps, weight_decay, clip, t } = *step;
        let [w, m, v, g] = [w, m, v, grad].map(|x| x.to_kind(Kind::Double));
        let g = g * clip;
        let m = m * beta1 + &g * (1.0 - beta1);
        let v = v * beta2 + g.square() * (1.0 - beta2);
        let denominator = (&v / (1.0 - beta2.powi(t))).sqrt() + eps;
        let w = w * (1.0 - lr * weight_decay) - &m / (1.0 - beta1.powi(t)) / denominator * lr;
        [w, m, v]
    }

    #[test]
    fn three_updates_agree_with_the_formula_in_f64() {
        for n in [5i64, 3 * CHUNK as i64 + 7] {
            let w = randn(&[n], Kind::Float);
            let moments = Moments::Fp32([(); 2].map(|()| w.zeros_like()));
            let Moments::Fp32([m, v]) = &moments else { panic!("fp32") };
            let rounded = w.to_kind(Kind::BFloat16);
            let [mut ew, mut em, mut ev] = [&w, m, v].map(|x| x.to_kind(Kind::Double));
            for t in 1..=3 {
                let g = randn(&[n], Kind::Float);
                update_one(Weight::Master(&w, &rounded), &g, &moments, LR, &step(t));
                [ew, em, ev] = twin([&ew, &em, &ev], &g, LR, &step(t));
            }
            assert_within("weight", &w, &ew, 1e-6);
            assert_within("first moment", m, &em, 1e-6);
            assert_within("second moment", v, &ev, 1e-6);
            assert_eq!(rounded, w.to_kind(Kind::BFloat16));
        }
    }

    /// What codes and scales stand for, by a look into the book.
    fn widened(x: &Blockwise, signed: bool) -> Tensor {
        let book = Tensor::from_slice(&crate::dynamic_codebook(signed));
        let scales = x.scales.repeat_interleave_self_int(BLOCK as i64, 0, None);
        let values = book.index_select(0, &x.codes.to_kind(Kind::Int64));
        values * scales.narrow(0, 0, x.codes.size()[0])
    }

    /// Each of three updates starts from what the 8 bits stand for; what it leaves there is within half a step of a block's
    /// largest.
    #[test]
    fn moments_in_8_bits_agree_with_the_formula_but_for_their_rounding() {
        let n = CHUNK as i64 + 2 * BLOCK as i64 + 7;
        let w = randn(&[n], Kind::Float);
        let moments = Moments::Blockwise([(); 2].map(|()| Blockwise::zeros_like(&w)));
        let Moments::Blockwise([m, v]) = &moments else { panic!("8 bits") };
        for t in 1..=3 {
            // Gradients of many sizes, as blocks across rows of an embedding have them.
            let g = randn(&[n], Kind::Float) * (randn(&[n], Kind::Float) * 3.0).exp();
            let before = [w.copy(), widened(m, true), widened(v, false)];
            let [ew, em, ev] = twin(before.each_ref(), &g, LR, &step(t));
            update_one(Weight::Fp32(&w), &g, &moments, LR, &step(t));
            assert_within("weight", &w, &ew, 1e-5);
            for (what, x, signed, expected, half) in [
                ("first moment", m, true, em, 0.45 / 64.0),
                ("second moment", v, false, ev, 0.45 / 128.0),
            ] {
                let scales = x.scales.repeat_interleave_self_int(BLOCK as i64, 0, None);
                let error = (widened(x, signed) - &expected).abs() / scales.narrow(0, 0, n);
                let largest = error.max().double_value(&[]);
                assert!(largest < half * 1.001, "{what}: {largest} of its block's largest");
                assert!(largest > half * 0.5, "{what}: {largest}, as if nothing were rounded");
                let lost = widened(x, signed).eq(0.0).logical_and(&expected.not_equal(0.0));
                let lost = lost.sum(Kind::Int64).int64_value(&[]);
                assert!(signed || lost == 0, "{what}: {lost} became zero");
            }
        }
    }

    /// Weights in bf16 alone: each becomes a neighbour of the formula's, their mean has no bias, and the bits are those of
    /// their name.
    #[test]
    fn weights_in_bf16_are_rounded_by_chance_and_by_name() {
        let n = 2 * CHUNK as i64 + 11;
        let start = randn(&[n], Kind::BFloat16);
        let g = randn(&[n], Kind::Float);
        let small = AdamWStep { weight_decay: 0.0, ..step(1) };
        let run = |stream: u64| {
            let (w, moments) = (start.copy(), zeros(&g));
            update_one(Weight::Bf16(&w, stream), &g, &moments, 1e-4, &small);
            w
        };
        let [expected, ..] = twin([&start, &g.zeros_like(), &g.zeros_like()], &g, 1e-4, &small);
        let (a, b) = (run(1), run(2));
        assert_eq!(a, run(1));
        assert_ne!(a, b);
        let ulp = expected.abs().log2().floor().exp2() / 128.0;
        let error = |w: &Tensor| (w.to_kind(Kind::Double) - &expected) / &ulp;
        assert!(error(&a).abs().max().double_value(&[]) < 1.001, "further than a neighbour");
        // lr is 1/80 of the step at 1: rounding to the nearest would move nothing.
        let mean: Tensor =
            (1..=40).map(|i| error(&run(i)).mean(Kind::Double)).sum::<Tensor>() / 40.0;
        let bound = 5.0 * 0.5 / (40.0 * n as f64).sqrt();
        assert!(mean.double_value(&[]).abs() < bound, "bias of {mean} ulp, at most {bound}");
    }

    fn zeros(x: &Tensor) -> Moments {
        Moments::Fp32([(); 2].map(|()| x.zeros_like()))
    }
}
