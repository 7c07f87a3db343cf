//! A few rows times a weight matrix, as decoding has it: y = x Wᵀ with W read once, at the speed of memory.
//!
//! Shapes: M rows of x (few), I inputs, O outputs.
//!
//! A tile of 4 rows of W meets up to 4 rows of x in registers; the rows of W come from memory once and stay in L1 for
//! the other rows of x. Sums are fp32 whatever the dtype, and a row's result does not depend on the others.
#![allow(clippy::needless_range_loop, reason = "an index names the register of a tile")]

use crate::{
    element::{Element, by_kind, memory, rows, supports},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd, prefetch},
};
use tch::{Device, Kind, Tensor};

/// Rows of W of one task.
const OUTPUTS: usize = 32;

/// Whether few enough rows of `x` meet `weight` for [`matvec`] to beat oneDNN: 16 (24 matrices of 1536 × 576, 16 rows: 2.3
/// against 7.8 ms in fp32, 1.4 against 2.1 in bf16), but 4 in bf16 without the instruction for it (8.6 against 5.4).
pub fn prefers_matvec(x: &Tensor, weight: &Tensor) -> bool {
    let most = if x.kind() == Kind::Float || simd::has_pairs() { 16 } else { 4 };
    supports(x)
        && x.device() == Device::Cpu
        && rows(x).0 <= most
        && weight.kind() == x.kind()
        && weight.is_contiguous()
}

/// `x` (.., I) · `weight` (O, I)ᵀ + `bias` (O) → (.., O).
pub fn matvec(x: &Tensor, weight: &Tensor, bias: Option<&Tensor>) -> Tensor {
    let [y] = matvec_all(x, [(weight, bias)]);
    y
}

/// [`matvec`] with several layers (weight and bias) of one input, in one go over the threads: of the processor time of
/// decoding 29 % was waiting at the end of products.
pub fn matvec_all<const L: usize>(
    x: &Tensor,
    layers: [(&Tensor, Option<&Tensor>); L],
) -> [Tensor; L] {
    let (m, n_in) = rows(x);
    let x = x.contiguous();
    let ys = layers.map(|(weight, _)| {
        let mut size = x.size();
        if let Some(last) = size.last_mut() {
            *last = weight.size()[0];
        }
        Tensor::empty(size, (x.kind(), Device::Cpu))
    });
    by_kind!(x.kind(), E => {
        let x = Shared(memory::<E>(&x));
        let mut tasks = Vec::new();
        for ((weight, bias), y) in layers.iter().zip(&ys) {
            let n_out = weight.size()[0] as usize;
            let layer = Layer {
                w: Shared(memory::<E>(weight)),
                bias: bias.map(|bias| Shared(memory::<E>(bias))),
                y: Shared(memory::<E>(y)),
                n_out,
            };
            tasks.extend((0..n_out).step_by(OUTPUTS).map(|start| (layer, start)));
        }
        for_each(tasks.len(), |task| {
            let (Layer { w, bias, y, n_out }, start) = tasks[task];
            let outputs = start..(start + OUTPUTS).min(n_out);
            // SAFETY: rows of W and columns of y that belong to one task.
            unsafe {
                E::run(Product {
                    x: x.get(), w: w.get(), bias: bias.map(Shared::get), y: y.get(),
                    outputs, m, n_in, n_out,
                });
            }
        });
    });
    ys
}

#[derive(Clone, Copy)]
struct Layer<E> {
    w: Shared<E>,
    bias: Option<Shared<E>>,
    y: Shared<E>,
    n_out: usize,
}

struct Product<E> {
    x: *const E,
    w: *const E,
    bias: Option<*mut E>,
    y: *mut E,
    outputs: std::ops::Range<usize>,
    m: usize,
    n_in: usize,
    n_out: usize,
}

impl<E: Element> Kernel for Product<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        for from in self.outputs.clone().step_by(4) {
            let n = (self.outputs.end - from).min(4);
            let mut row = 0;
            while row < self.m {
                let rows = (self.m - row).min(4);
                // SAFETY: the caller's.
                unsafe {
                    match rows {
                        4 => self.tile::<S, 4>(from, n, row),
                        3 => self.tile::<S, 3>(from, n, row),
                        2 => self.tile::<S, 2>(from, n, row),
                        _ => self.tile::<S, 1>(from, n, row),
                    }
                }
                row += rows;
            }
        }
    }
}

impl<E: Element> Product<E> {
    /// `n` ≤ 4 outputs of `M` rows. A missing output repeats the last one and is not written.
    #[inline(always)]
    unsafe fn tile<S: Simd, const M: usize>(&self, from: usize, n: usize, row: usize) {
        // SAFETY: the caller's.
        unsafe {
            let mut w = [self.w; 4];
            for (i, w) in w.iter_mut().enumerate() {
                *w = self.w.add((from + i.min(n - 1)) * self.n_in);
            }
            let x = self.x.add(row * self.n_in);
            let mut acc = [[S::splat(0.0); 4]; M];
            let whole = self.n_in / E::RUN * E::RUN;
            let mut i = 0;
            while i < whole {
                let of_x: [E::Run<S>; M] =
                    std::array::from_fn(|r| E::load_run::<S>(x.add(r * self.n_in + i)));
                for o in 0..4 {
                    let of_w = E::load_run::<S>(w[o].add(i));
                    if row == 0 {
                        // The rows of the next tile, which the hardware does not foresee.
                        prefetch(w[o].wrapping_add(4 * self.n_in + i));
                    }
                    for r in 0..M {
                        acc[r][o] = E::dot::<S>(of_w, of_x[r], acc[r][o]);
                    }
                }
                i += E::RUN;
            }
            // In one order whatever M is, and as values: a view of `acc` would keep it out of the registers.
            let zero = S::splat(0.0);
            let all: [S::V; LANES] =
                std::array::from_fn(|i| if i / 4 < M { acc[i / 4][i % 4] } else { zero });
            let mut sums = S::to_array(S::sums(&all));
            for r in 0..M {
                for o in 0..n {
                    let sum = &mut sums[r * 4 + o];
                    for i in whole..self.n_in {
                        *sum += (*x.add(r * self.n_in + i)).to_f32() * (*w[o].add(i)).to_f32();
                    }
                    if let Some(bias) = self.bias {
                        *sum += (*bias.add(from + o)).to_f32();
                    }
                }
            }
            // Rounded all at once. This, and asking ahead only once for a row of W, took 16 prompts in bf16 from 740 to 880
            // tokens/s.
            let mut rounded = [E::default(); LANES];
            E::store::<S>(rounded.as_mut_ptr(), S::load(sums.as_ptr()));
            for r in 0..M {
                let y = self.y.add((row + r) * self.n_out + from);
                std::ptr::copy_nonoverlapping(rounded.as_ptr().add(r * 4), y, n);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, randn};

    /// An answer must not depend on what else is answered at the same time.
    #[test]
    fn a_row_is_the_same_among_others() {
        for kind in [Kind::Float, Kind::BFloat16] {
            let (x, w) = (randn(&[16, 100], kind), randn(&[61, 100], kind));
            for n in 1..=16 {
                let together = matvec(&x.narrow(0, 0, n), &w, None);
                for i in 0..n {
                    let alone = matvec(&x.narrow(0, i, 1), &w, None);
                    assert_eq!(together.narrow(0, i, 1), alone, "{kind:?}: row {i} of {n}");
                }
            }
        }
    }

    #[test]
    fn agrees_with_its_twin() {
        for kind in [Kind::Float, Kind::BFloat16] {
            for (m, n_in, n_out) in [(1, 576, 1536), (7, 100, 61), (16, 33, 5)] {
                let (x, w) = (randn(&[m, n_in], kind), randn(&[n_out, n_in], kind));
                let bias = randn(&[n_out], kind);
                let expected = x.linear(&w, Some(&bias));
                assert_close("with a bias", &matvec(&x, &w, Some(&bias)), &expected);
                let expected = x.linear(&w, None::<&Tensor>);
                assert_close("without", &matvec(&x, &w, None), &expected);
                let [first, second] =
                    matvec_all(&x, [(&w.narrow(0, 0, 3), None), (&w, Some(&bias))]);
                assert_eq!(first, matvec(&x, &w.narrow(0, 0, 3), None));
                assert_eq!(second, matvec(&x, &w, Some(&bias)));
            }
        }
    }
}
