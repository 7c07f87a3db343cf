//! Small matrix products inside a kernel: C = A·B or C += A·B with everything in the caches of one core.
//!
//! Shapes: A (m, k) with any strides, B (k, n) and C (m, n) with contiguous rows, C in fp32; m a multiple of [`ROWS`], n one
//! of [`LANES`](crate::simd::LANES).
//!
//! A multiply-add takes a step of k: one number of fp32, or a pair of bf16, whose two products and sum are one instruction
//! (AVX512-BF16). Then two rows of B lie zipped, so that a column's pair is together, and so do the pairs of A.
//!
//! The registers hold a tile of C: 4 rows × 4 vectors, fed by 4 loads of B and 4 broadcasts of A for every 16
//! multiply-adds. On Zen 5 that keeps both FMA pipes busy while B lies in L1 or L2.
#![allow(clippy::needless_range_loop, reason = "an index names the register of a tile")]

use crate::{
    element::Element,
    simd::{LANES, Simd},
};

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// One product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm<E> {
    pub(crate) m: usize,
    pub(crate) n: usize,
    /// k in steps of [`Element::STEP`].
    pub(crate) steps: usize,
    /// Step p of row i of A stands at `a[i · a_row + p · a_step]`.
    pub(crate) a: *const E,
    pub(crate) a_row: usize,
    pub(crate) a_step: usize,
    /// Step p of B stands at `b[p · b_step]`, all its columns together.
    pub(crate) b: *const E,
    pub(crate) b_step: usize,
    pub(crate) c: *mut f32,
    pub(crate) c_row: usize,
    /// Whether to add to what C holds.
    pub(crate) add: bool,
}

/// The product, tile by tile; B's columns stay in L1 while all rows of A pass.
///
/// # Safety
/// The pointers are good for the shapes.
#[inline(always)]
pub(crate) unsafe fn multiply<S: Simd, E: Element>(g: &Gemm<E>) {
    debug_assert!(g.m.is_multiple_of(ROWS) && g.n.is_multiple_of(LANES));
    let mut col = 0;
    while col < g.n {
        let n_vectors = ((g.n - col) / LANES).min(if S::WIDE { 4 } else { 1 });
        let mut row = 0;
        while row < g.m {
            // SAFETY: the caller's.
            unsafe {
                match n_vectors {
                    4 => tile::<S, E, 4>(g, row, col),
                    3 => tile::<S, E, 3>(g, row, col),
                    2 => tile::<S, E, 2>(g, row, col),
                    _ => tile::<S, E, 1>(g, row, col),
                }
            }
            row += ROWS;
        }
        col += n_vectors * LANES;
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, E: Element, const N: usize>(g: &Gemm<E>, row: usize, col: usize) {
    // SAFETY: the caller's.
    unsafe {
        let a = g.a.add(row * g.a_row);
        let b = g.b.add(col * E::STEP);
        let c = g.c.add(row * g.c_row + col);
        let mut acc = [[S::splat(0.0); N]; ROWS];
        if g.add {
            for r in 0..ROWS {
                for j in 0..N {
                    acc[r][j] = S::load(c.add(r * g.c_row + j * LANES));
                }
            }
        }
        for p in 0..g.steps {
            let of_b: [E::Run<S>; N] =
                std::array::from_fn(|j| E::load_run::<S>(b.add(p * g.b_step + j * E::RUN)));
            for r in 0..ROWS {
                let of_a = E::splat_run::<S>(a.add(r * g.a_row + p * g.a_step));
                for j in 0..N {
                    acc[r][j] = E::dot::<S>(of_a, of_b[j], acc[r][j]);
                }
            }
        }
        for r in 0..ROWS {
            for j in 0..N {
                S::store(c.add(r * g.c_row + j * LANES), acc[r][j]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Isa, Kernel, run_on};
    use half::bf16;

    struct Call<E>(Gemm<E>);

    impl<E: Element> Kernel for Call<E> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: the test's.
            unsafe { E::gemm::<S>(&self.0) }
        }
    }

    /// On the simplest instruction set, the best, and the best for the dtype; A plain and transposed.
    fn check<E: Element>() {
        let (m, n, k) = (8, 5 * LANES, 6);
        let of = |f: f32, n: usize| (0..n).map(|i| E::from_f32((i as f32 * f).sin())).collect();
        let (a, b): (Vec<E>, Vec<E>) = (of(0.37, m * k), of(0.11, k * n));
        // Where element (row, column) of n columns stands when the rows are zipped.
        let zipped = |row: usize, col: usize, n: usize| {
            row / E::STEP * n * E::STEP + col * E::STEP + row % E::STEP
        };
        for isa in [Some(Isa::Portable), Some(Isa::here()), None] {
            for (transposed, add) in [(false, false), (true, true)] {
                let (a_row, a_step) =
                    if transposed { (E::STEP, m * E::STEP) } else { (k, E::STEP) };
                let mut c = vec![1.0; m * n];
                let call = Call(Gemm {
                    m,
                    n,
                    steps: k / E::STEP,
                    a: a.as_ptr(),
                    a_row,
                    a_step,
                    b: b.as_ptr(),
                    b_step: n * E::STEP,
                    c: c.as_mut_ptr(),
                    c_row: n,
                    add,
                });
                // SAFETY: the vectors have these shapes.
                unsafe {
                    match isa {
                        Some(isa) => run_on(isa, call),
                        None => E::run(call),
                    }
                }
                for i in 0..m {
                    for j in 0..n {
                        let of_a = |p| a[if transposed { zipped(p, i, m) } else { i * k + p }];
                        let product = |p| of_a(p).to_f32() * b[zipped(p, j, n)].to_f32();
                        let start = if add { 1.0 } else { 0.0 };
                        let expected = start + (0..k).map(product).sum::<f32>();
                        let found = c[i * n + j];
                        assert!((found - expected).abs() < 1e-5, "{isa:?} {i} {j}: {found}");
                    }
                }
            }
        }
    }

    #[test]
    fn agrees_with_three_loops() {
        check::<f32>();
        check::<bf16>();
    }
}
