//! Numbers in 8 bits: blocks of 256 share a scale, their largest magnitude, and each is the nearest value of a codebook
//! times that scale (Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization").
//!
//! ```text
//! x ≈ values[code] · scale[block]        scale = max |x| of the block        1 + 4/256 bytes per number
//! ```
//! The codebook is the paper's dynamic one (after Dettmers 2015, "8-bit approximations"): seven decades, each with
//! twice as many steps as the one below, so that small numbers of a block keep a digit while large ones keep two.
//! Signed for first moments; for second ones, which are never negative, without the sign and with a bit more of
//! precision. **Here a number that is not zero never becomes zero without the sign**: the update divides by the second
//! moment's root, and a first moment divided by ε would explode.

use crate::simd::{LANES, Simd};
use std::sync::LazyLock;
use tch::{Kind, Tensor};

/// Numbers that share a scale.
pub(crate) const BLOCK: usize = 256;

/// A tensor in 8 bits per element.
#[derive(Debug)]
pub struct Blockwise {
    /// Codes, in the shape of what they stand for, u8.
    pub codes: Tensor,
    /// The scale of each 256 elements in order, (⌈n/256⌉), fp32.
    pub scales: Tensor,
}

impl Blockwise {
    /// Zeros in the shape of `x`.
    pub fn zeros_like(x: &Tensor) -> Self {
        let device = x.device();
        let n_blocks = x.numel().div_ceil(BLOCK) as i64;
        Self {
            codes: Tensor::zeros(x.size(), (Kind::Uint8, device)),
            scales: Tensor::zeros([n_blocks], (Kind::Float, device)),
        }
    }
}

/// The 256 values of the dynamic codebook in order, from −0.993 or 0 to 1: a decade d of n steps from 10^(d−7) to 10^(d−6)
/// has the middles of its steps.
pub fn dynamic_codebook(signed: bool) -> Vec<f32> {
    let mut values = vec![0.0f32, 1.0];
    for decade in 0..7 {
        let n = 1usize << (decade + u32::from(!signed));
        let step = (1.0f32 - 0.1) / n as f32;
        // As torch.linspace: from the nearer end, and rounded once.
        let at = |i: usize| match i < n.div_ceil(2) {
            true => step.mul_add(i as f32, 0.1),
            false => (-step).mul_add((n - i) as f32, 1.0),
        };
        let power = 10f64.powi(decade as i32 - 6) as f32;
        for i in 0..n {
            let middle = power * ((at(i) + at(i + 1)) / 2.0);
            values.push(middle);
            values.extend(signed.then_some(-middle));
        }
    }
    values.sort_by(f32::total_cmp);
    values
}

/// Buckets of [`Codebook::first`]: the exponent and 7 bits of the mantissa, from 2⁻²⁴ to 1.
const BUCKETS: usize = 24 * 128 + 1;

/// A codebook, and what finds the nearest value in it.
pub(crate) struct Codebook {
    pub(crate) values: [f32; 256],
    zero: usize, // the code of 0
    /// Values counted from zero upwards: where the nearest of a bucket's lower end stands.
    first: [u8; BUCKETS],
    /// Above it, the next value is nearer. A bucket is narrower than a step, so one look is enough.
    middles: [f32; 256],
}

pub(crate) static SIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(true));
pub(crate) static UNSIGNED: LazyLock<Codebook> = LazyLock::new(|| Codebook::new(false));

impl Codebook {
    fn new(signed: bool) -> Self {
        let mut values = [0.0; 256];
        values.copy_from_slice(&dynamic_codebook(signed));
        let zero = values.iter().position(|&value| value == 0.0).unwrap_or(0);
        let mut middles = [f32::INFINITY; 256];
        for (middle, pair) in middles.iter_mut().zip(values[zero..].windows(2)) {
            *middle = (pair[0] + pair[1]) / 2.0;
        }
        if !signed {
            middles[0] = 0.0; // what is not zero stays so
        }
        let mut first = [0; BUCKETS];
        for (bucket, first) in first.iter_mut().enumerate().skip(1) {
            let lower = f32::from_bits((bucket as u32 + LOWEST) << 16);
            *first = middles.iter().take_while(|&&middle| lower > middle).count() as u8;
        }
        Self { values, zero, first, middles }
    }

    /// The code nearest to x, |x| ≤ 1.
    #[inline(always)]
    fn code(&self, x: f32) -> u8 {
        let size = x.abs();
        let bucket = (size.to_bits() >> 16).saturating_sub(LOWEST) as usize;
        let first = self.first[bucket.min(BUCKETS - 1)] as usize;
        let rank = first + usize::from(size > self.middles[first]);
        // −1 is not in the book.
        (if x < 0.0 { self.zero - rank.min(self.zero) } else { self.zero + rank }) as u8
    }
}

/// The high half of 2⁻²⁴.
const LOWEST: u32 = (127 - 24) << 7;

/// The numbers of a block that `codes` stand for.
#[inline(always)]
pub(crate) fn read(book: &Codebook, codes: &[u8], scale: f32, to: &mut [f32; BLOCK]) {
    for (to, &code) in to.iter_mut().zip(codes) {
        *to = book.values[code as usize] * scale;
    }
}

/// Codes of a block whose numbers are `from`; returns its scale. `from` is used up, and zero behind the end of `codes`.
///
/// # Safety
/// The instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn write<S: Simd>(
    book: &Codebook,
    from: &mut [f32; BLOCK],
    codes: &mut [u8],
) -> f32 {
    // SAFETY: the instruction set is the caller's; vectors lie in the block.
    unsafe {
        let start = from.as_mut_ptr();
        let mut largest = S::splat(0.0);
        for i in (0..BLOCK).step_by(LANES) {
            let x = S::load(start.add(i));
            largest = S::max(largest, S::max(x, S::sub(S::splat(0.0), x)));
        }
        let scale = S::largest(largest);
        if scale > 0.0 {
            for i in (0..BLOCK).step_by(LANES) {
                S::store(start.add(i), S::div(S::load(start.add(i)), S::splat(scale)));
            }
        }
        for (code, &x) in codes.iter_mut().zip(from.iter()) {
            *code = book.code(x);
        }
        scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simd::{Kernel, run};

    struct There<'a>(&'a Codebook, &'a mut [f32; BLOCK], &'a mut [u8], &'a mut f32);

    impl Kernel for There<'_> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: as asked for.
            unsafe { *self.3 = write::<S>(self.0, self.1, self.2) }
        }
    }

    /// Numbers that went through 8 bits, and their codes.
    fn back(book: &Codebook, x: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let mut block = [0.0; BLOCK];
        block[..x.len()].copy_from_slice(x);
        let (mut codes, mut scale) = (vec![0; x.len()], 0.0);
        // SAFETY: the slices are borrowed for the call.
        unsafe { run(There(book, &mut block, &mut codes, &mut scale)) };
        let mut found = [0.0; BLOCK];
        read(book, &codes, scale, &mut found);
        (codes, found[..x.len()].to_vec())
    }

    /// 256 magnitudes over nine decades, of both signs where the book has them.
    fn numbers(signed: bool, salt: u64) -> Vec<f32> {
        let unit = |i: u64| (crate::random::mix(salt * 1000 + i) >> 40) as f32 / (1 << 24) as f32;
        (0..BLOCK as u64)
            .map(|i| {
                let size = 0.37 * 10f32.powf(-9.0 * unit(2 * i));
                if signed && unit(2 * i + 1) < 0.5 { -size } else { size }
            })
            .collect()
    }

    #[test]
    fn the_books_have_256_values_with_zero_and_one() {
        for (book, zero) in [(&*SIGNED, 127), (&*UNSIGNED, 0)] {
            assert!(book.values.is_sorted_by(|a, b| a < b));
            assert_eq!((book.values[zero], book.values[255], book.zero), (0.0, 1.0, zero));
        }
        assert!((SIGNED.values[0] + 0.993).abs() < 1e-3);
        assert!((UNSIGNED.values[1] - 3.25e-7).abs() < 1e-9, "{:e}", UNSIGNED.values[1]);
    }

    /// Fast codes are those of a search through the whole book; what is not zero keeps a second moment above zero.
    #[test]
    fn codes_are_those_of_the_nearest_values() {
        for (signed, book) in [(true, &*SIGNED), (false, &*UNSIGNED)] {
            for salt in 0..200 {
                let x = numbers(signed, salt);
                let scale = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
                for ((x, code), found) in x.iter().zip(back(book, &x).0).zip(back(book, &x).1) {
                    let distance = |value: f32| (value - x / scale).abs();
                    let nearest = book.values.iter().copied().map(distance).fold(2.0, f32::min);
                    let is_kept = !signed && code == 1; // away from zero, though zero may be nearer
                    let own = distance(book.values[code as usize]);
                    assert!(own <= nearest + 1e-9 || is_kept, "{x:e}: {own:e} from {code}");
                    assert!(signed || found > 0.0, "{x:e} became zero");
                }
            }
        }
    }

    /// Of the scale 0.9/64/2 in the top decade with a sign, 0.9/128/2 without; in each decade below a fifth of that.
    #[test]
    fn errors_are_half_a_step_of_the_decade() {
        for (signed, book, steps) in [(true, &*SIGNED, 64.0), (false, &*UNSIGNED, 128.0)] {
            let x = numbers(signed, 3);
            let scale = x.iter().fold(0.0f32, |a, b| a.max(b.abs()));
            for (x, found) in x.iter().zip(back(book, &x).1) {
                let size = x.abs() / scale;
                let decade = size.max(1e-7).log10().ceil(); // 0 for the top one
                let step = 0.9 * 10f32.powf(decade) / (steps / 2f32.powf(-decade));
                let bound = (0.5001 * step).max(if signed { 2.8e-7 } else { 3.3e-7 });
                let error = (found - x).abs() / scale;
                assert!(error <= bound, "{x:e}: {error:e} of the scale, at most {bound:e}");
            }
        }
    }

    #[test]
    fn a_short_block_a_zero_block_and_numbers_without_inverse() {
        for book in [&*SIGNED, &*UNSIGNED] {
            assert_eq!(back(book, &[0.0; 5]).1, [0.0; 5]);
            assert_eq!(back(book, &[2.0, 0.0, 2.0]).1, [2.0, 0.0, 2.0]);
            let tiny = f32::from_bits(3); // 1/x is infinite
            assert_eq!(back(book, &[tiny, 0.0]).1, [tiny, 0.0]);
        }
    }
}
