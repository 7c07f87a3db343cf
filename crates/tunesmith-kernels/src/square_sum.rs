//! Σ x² of a gradient, whose root over all parameters is the norm that is clipped.

use crate::{
    cuda,
    element::{Element, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::Tensor;

/// Elements of one task: 256 KiB.
const CHUNK: usize = 1 << 16;

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
        // SAFETY: elements start.. of a tensor of n, and a sum of the task's own.
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
    use crate::twin::randn;
    use tch::Kind;

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
