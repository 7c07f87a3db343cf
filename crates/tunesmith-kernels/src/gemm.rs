//! Small matrix products inside a kernel: C = A·B or C += A·B with everything in the caches of one core.
//!
//! Shapes: A (m, k) with any strides, B (k, n) and C (m, n) with contiguous rows; m a multiple of [`ROWS`], n one of
//! [`LANES`](crate::simd::LANES).
//!
//! The registers hold a tile of C: 4 rows × 4 vectors, fed by 4 loads of B and 4 broadcasts of A for every 16
//! multiply-adds. On Zen 5 that keeps both FMA pipes busy while B lies in L1 or L2.
#![allow(clippy::needless_range_loop, reason = "an index names the register of a tile")]

use crate::simd::{LANES, Simd};

/// Rows of a tile.
pub(crate) const ROWS: usize = 4;

/// One product.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Gemm {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
    /// A(i, p) stands at `a[i · a_row + p · a_col]`.
    pub(crate) a: *const f32,
    pub(crate) a_row: usize,
    pub(crate) a_col: usize,
    pub(crate) b: *const f32,
    pub(crate) b_row: usize,
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
pub(crate) unsafe fn multiply<S: Simd>(g: &Gemm) {
    debug_assert!(g.m.is_multiple_of(ROWS) && g.n.is_multiple_of(LANES));
    let mut col = 0;
    while col < g.n {
        let n_vectors = ((g.n - col) / LANES).min(if S::WIDE { 4 } else { 1 });
        let mut row = 0;
        while row < g.m {
            // SAFETY: the caller's.
            unsafe {
                match n_vectors {
                    4 => tile::<S, 4>(g, row, col),
                    3 => tile::<S, 3>(g, row, col),
                    2 => tile::<S, 2>(g, row, col),
                    _ => tile::<S, 1>(g, row, col),
                }
            }
            row += ROWS;
        }
        col += n_vectors * LANES;
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const N: usize>(g: &Gemm, row: usize, col: usize) {
    // SAFETY: the caller's.
    unsafe {
        let a = g.a.add(row * g.a_row);
        let b = g.b.add(col);
        let c = g.c.add(row * g.c_row + col);
        let mut acc = [[S::splat(0.0); N]; ROWS];
        if g.add {
            for r in 0..ROWS {
                for j in 0..N {
                    acc[r][j] = S::load(c.add(r * g.c_row + j * LANES));
                }
            }
        }
        for p in 0..g.k {
            let mut of_b = [S::splat(0.0); N];
            for j in 0..N {
                of_b[j] = S::load(b.add(p * g.b_row + j * LANES));
            }
            for r in 0..ROWS {
                let of_a = S::splat(*a.add(r * g.a_row + p * g.a_col));
                for j in 0..N {
                    acc[r][j] = S::fma(of_a, of_b[j], acc[r][j]);
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

    struct Call(Gemm);

    impl Kernel for Call {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: the test's.
            unsafe { S::gemm(&self.0) }
        }
    }

    #[test]
    fn agrees_with_three_loops() {
        let (m, n, k) = (8, 5 * LANES, 7);
        let a: Vec<f32> = (0..m * k).map(|i| (i as f32 * 0.37).sin()).collect();
        let b: Vec<f32> = (0..k * n).map(|i| (i as f32 * 0.11).cos()).collect();
        for isa in [Isa::Portable, Isa::here()] {
            for transposed in [false, true] {
                let (a_row, a_col) = if transposed { (1, m) } else { (k, 1) };
                let mut c = vec![1.0; m * n];
                for (add, start) in [(false, 0.0), (true, 1.0)] {
                    c.fill(1.0);
                    let call = Gemm {
                        m,
                        n,
                        k,
                        a: a.as_ptr(),
                        a_row,
                        a_col,
                        b: b.as_ptr(),
                        b_row: n,
                        c: c.as_mut_ptr(),
                        c_row: n,
                        add,
                    };
                    // SAFETY: the vectors have these shapes.
                    unsafe { run_on(isa, Call(call)) };
                    for i in 0..m {
                        for j in 0..n {
                            let dot: f32 =
                                (0..k).map(|p| a[i * a_row + p * a_col] * b[p * n + j]).sum();
                            assert!((c[i * n + j] - dot - start).abs() < 1e-5, "{isa:?} {i} {j}");
                        }
                    }
                }
            }
        }
    }
}
