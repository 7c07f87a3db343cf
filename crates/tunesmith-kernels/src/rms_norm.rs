//! RMSNorm (Zhang & Sennrich 2019) in one pass forward and one backward.
//!
//! Shapes: N rows, C width.
//!
//! ```text
//! r = 1 / √(mean(x²) + ε)        y = (x · r) · w                 x · r is rounded to the dtype before w, as
//! g = dy · w     n = x · r                                       transformers does: it shows in bf16
//! dx = r (g − n · mean(g · n))   dw = Σ over rows of dy · n
//! ```

use crate::{
    cuda,
    element::{Element, by_kind, memory, rows},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::{Device, Kind, Tensor};

/// Rows of one task. The sum over rows is made within tasks, then over tasks in order: the same for any thread count.
const ROWS: usize = 32;

/// `x` (.., C) → y of the same shape and dtype, and 1/rms of each row (N), fp32.
pub fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> (Tensor, Tensor) {
    if x.device().is_cuda() {
        return cuda::rms_norm(x, weight, eps);
    }
    let (n, c) = rows(x);
    let (y, rstd) = (x.empty_like(), Tensor::empty([n as i64], (Kind::Float, Device::Cpu)));
    by_kind!(x.kind(), E => {
        let (x, w) = (Shared(memory::<E>(x)), Shared(memory::<E>(weight)));
        let (y, r) = (Shared(memory::<E>(&y)), Shared(memory::<f32>(&rstd)));
        for_each(n.div_ceil(ROWS), |task| {
            let (start, end) = (task * ROWS, ((task + 1) * ROWS).min(n));
            // SAFETY: rows start..end of tensors with n rows of c; each row belongs to one task.
            unsafe {
                simd::run(Forward {
                    x: x.get().add(start * c), w: w.get(), y: y.get().add(start * c),
                    r: r.get().add(start), n: end - start, c, eps: eps as f32,
                });
            }
        });
    });
    (y, rstd)
}

/// Adds the gradient of x to `dx`, and returns that of the weight (C), fp32, where it is wanted.
pub fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
    want_weight: bool,
) -> Option<Tensor> {
    if x.device().is_cuda() {
        return cuda::rms_norm_backward(dy, x, weight, rstd, dx, want_weight);
    }
    let (n, c) = rows(x);
    let n_tasks = n.div_ceil(ROWS);
    let padded = c.next_multiple_of(LANES);
    let mut partial = vec![0.0f32; if want_weight { n_tasks * padded } else { 0 }];
    let sums = Shared(partial.as_mut_ptr());
    by_kind!(x.kind(), E => {
        let (x, w) = (Shared(memory::<E>(x)), Shared(memory::<E>(weight)));
        let (dy, dx) = (Shared(memory::<E>(dy)), Shared(memory::<E>(dx)));
        let r = Shared(memory::<f32>(rstd));
        for_each(n_tasks, |task| {
            let (start, end) = (task * ROWS, ((task + 1) * ROWS).min(n));
            // SAFETY: as in the forward; each task has a row of `partial` of its own.
            unsafe {
                simd::run(Backward {
                    x: x.get().add(start * c), w: w.get(), dy: dy.get().add(start * c),
                    dx: dx.get().add(start * c), r: r.get().add(start), n: end - start, c,
                    dw: want_weight.then(|| sums.get().add(task * padded)),
                });
            }
        });
    });
    want_weight.then(|| {
        let mut total = vec![0.0f32; c];
        for part in partial.chunks_exact(padded) {
            total.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
        }
        Tensor::from_slice(&total)
    })
}

struct Forward<E> {
    x: *const E,
    w: *const E,
    y: *mut E,
    r: *mut f32,
    n: usize,
    c: usize,
    eps: f32,
}

impl<E: Element> Kernel for Forward<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { x, w, y, r, n, c, eps } = self;
        for row in 0..n {
            // SAFETY: the caller's: n rows of c.
            unsafe {
                let (x, y) = (x.add(row * c), y.add(row * c));
                let mut squares = S::splat(0.0);
                let mut i = 0;
                while i < c {
                    let v = E::load_some::<S>(x.add(i), c - i);
                    squares = S::fma(v, v, squares);
                    i += LANES;
                }
                let rstd = 1.0 / (S::sum(squares) / c as f32 + eps).sqrt();
                *r.add(row) = rstd;
                let rstd = S::splat(rstd);
                let mut i = 0;
                while i < c {
                    let normed = S::mul(E::load_some::<S>(x.add(i), c - i), rstd);
                    let normed = rounded::<S, E>(normed);
                    let scaled = S::mul(normed, E::load_some::<S>(w.add(i), c - i));
                    E::store_some::<S>(y.add(i), scaled, c - i);
                    i += LANES;
                }
            }
        }
    }
}

/// To the dtype and back.
#[inline(always)]
unsafe fn rounded<S: Simd, E: Element>(x: S::V) -> S::V {
    if E::KIND == Kind::Float {
        return x;
    }
    let mut memory = [E::default(); LANES];
    // SAFETY: LANES elements.
    unsafe {
        E::store::<S>(memory.as_mut_ptr(), x);
        E::load::<S>(memory.as_ptr())
    }
}

struct Backward<E> {
    x: *const E,
    w: *const E,
    dy: *const E,
    dx: *mut E,
    r: *const f32,
    dw: Option<*mut f32>,
    n: usize,
    c: usize,
}

impl<E: Element> Kernel for Backward<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { x, w, dy, dx, r, dw, n, c } = self;
        for row in 0..n {
            // SAFETY: the caller's: n rows of c, `dw` of c rounded up to LANES.
            unsafe {
                let (x, dy, dx) = (x.add(row * c), dy.add(row * c), dx.add(row * c));
                let rstd = S::splat(*r.add(row));
                let mut dot = S::splat(0.0);
                let mut i = 0;
                while i < c {
                    let normed = S::mul(E::load_some::<S>(x.add(i), c - i), rstd);
                    let up = E::load_some::<S>(dy.add(i), c - i);
                    dot = S::fma(S::mul(up, E::load_some::<S>(w.add(i), c - i)), normed, dot);
                    if let Some(dw) = dw {
                        S::store(dw.add(i), S::fma(up, normed, S::load(dw.add(i))));
                    }
                    i += LANES;
                }
                let mean = S::splat(-S::sum(dot) / c as f32);
                let mut i = 0;
                while i < c {
                    let normed = S::mul(E::load_some::<S>(x.add(i), c - i), rstd);
                    let up = E::load_some::<S>(dy.add(i), c - i);
                    let g = S::mul(up, E::load_some::<S>(w.add(i), c - i));
                    let held = E::load_some::<S>(dx.add(i), c - i);
                    let sum = S::fma(rstd, S::fma(normed, mean, g), held);
                    E::store_some::<S>(dx.add(i), sum, c - i);
                    i += LANES;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, leaf, randn};

    /// The definition in tensor operations.
    fn twin(x: &Tensor, w: &Tensor, eps: f64) -> Tensor {
        let x32 = x.to_kind(Kind::Float);
        let rstd = (x32.square().mean_dim(-1, true, Kind::Float) + eps).rsqrt();
        (x32 * rstd).to_kind(x.kind()) * w
    }

    #[test]
    fn agrees_with_its_twin() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (n, c) in [(1, 576), (67, 576), (40, 20), (3, 5)] {
                let (x, w) = (leaf(&randn(&[n, c], kind)), leaf(&(randn(&[c], kind) + 1.0)));
                let expected = twin(&x, &w, 1e-5);
                let (found, rstd) = tch::no_grad(|| rms_norm(&x, &w, 1e-5));
                assert_close("y", &found, &expected);
                let dy = randn(&[n, c], kind);
                let grads = Tensor::run_backward(
                    &[(&expected * &dy).sum(Kind::Float)],
                    &[&x, &w],
                    false,
                    false,
                );
                let dx = dy.copy(); // stands for the gradient that flows past the norm
                let dw = tch::no_grad(|| rms_norm_backward(&dy, &x, &w, &rstd, &dx, true)).unwrap();
                assert_close("dx", &dx, &(&grads[0] + &dy));
                assert_close("dw", &dw, &grads[1]);
            }
        }
    }
}
