//! Stochastic rounding to bf16: to one of the two neighbours, each with the probability that makes the mean exact.
//!
//! ```text
//! bf16(x) = the high half of (bits(x) + r)      r uniform in 0 … 2¹⁶ − 1
//! ```
//! The bits of a float are ordered as its magnitude is, so x goes away from zero with probability (low half) / 2¹⁶. A
//! weight that is rounded so needs no fp32 master: updates that are small beside it arrive on the average (Gupta et al.
//! 2015). r is a pure function of a stream and the element's index: the finaliser of MurmurHash3 (Appleby), which is two
//! products of 32 bits and vectorises, keyed anew by SplitMix64 for every [`CHUNK`] elements.

use crate::{
    random::mix,
    simd::{LANES, Simd},
};
use half::bf16;

/// Elements that share a key.
pub(crate) const CHUNK: usize = 1 << 16;

/// What names the random bits of a chunk of a tensor.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key([u32; 2]);

impl Key {
    pub(crate) fn of(stream: u64, chunk: usize) -> Self {
        let key = mix(stream ^ mix(chunk as u64));
        Self([key as u32, (key >> 32) as u32])
    }

    /// 16 random bits for element `i` of the chunk.
    #[inline(always)]
    fn draw(self, i: u32) -> u32 {
        let x = i ^ self.0[0];
        let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
        let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
        (x ^ (x >> 16)).wrapping_add(self.0[1]) >> 16
    }
}

#[inline(always)]
fn round(x: f32, r: u32) -> bf16 {
    const INFINITY: u32 = 0x7f80_0000;
    let bits = x.to_bits();
    let r = if bits & INFINITY == INFINITY { 0 } else { r }; // no number, or none that a neighbour could stand for
    let quiet = if bits & !(1 << 31) > INFINITY { 0x40 } else { 0 }; // NaN stays NaN
    bf16::from_bits((bits.wrapping_add(r) >> 16) as u16 | quiet)
}

/// Rounds the first `left` lanes into memory; they are elements `i`, i + 1 … of the chunk.
///
/// # Safety
/// `left` elements at `to`; the instruction set of `S`.
#[inline(always)]
pub(crate) unsafe fn store_some<S: Simd>(to: *mut bf16, x: S::V, key: Key, i: usize, left: usize) {
    // SAFETY: the caller's.
    let lanes = unsafe { S::to_array(x) };
    let mut out = [bf16::ZERO; LANES];
    for lane in 0..LANES {
        out[lane] = round(lanes[lane], key.draw((i + lane) as u32));
    }
    // SAFETY: `left` elements are there.
    unsafe { out.as_ptr().copy_to_nonoverlapping(to, left.min(LANES)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mean of many draws is the number itself, for numbers of every size and sign, and both neighbours come.
    #[test]
    fn the_mean_is_exact_and_only_neighbours_come() {
        let n = 1 << 16;
        for (i, x) in [1.001f32, -1.001, 0.1, 3.14159e-20, -2.718e15, 1e-40].into_iter().enumerate()
        {
            let below = bf16::from_bits((x.to_bits() >> 16) as u16); // towards zero
            let above = bf16::from_bits(below.to_bits() + 1);
            let mut sum = 0.0;
            for step in 0..4 {
                let key = Key::of(7 + step, i);
                for j in 0..n {
                    let y = round(x, key.draw(j));
                    assert!(y == below || y == above, "{x:e} became {y}");
                    sum += f64::from(y.to_f32());
                }
            }
            let (mean, ulp) = (sum / f64::from(4 * n), f64::from(above.to_f32() - below.to_f32()));
            // A draw deviates by at most ½ ulp: five standard deviations of the mean.
            let bound = 5.0 * 0.5 * ulp.abs() / f64::from(4 * n).sqrt();
            assert!((mean - f64::from(x)).abs() < bound, "{x:e}: mean {mean:e}");
        }
    }

    #[test]
    fn what_is_exact_stays_and_what_is_no_number_too() {
        for r in [0, 1, 0x8000, 0xffff] {
            for x in [0.0f32, -0.0, 1.5, -192.0, f32::INFINITY, f32::NEG_INFINITY] {
                assert_eq!(round(x, r).to_f32().to_bits(), x.to_bits());
            }
            assert!(round(f32::from_bits(0x7f80_0001), r).is_nan());
            assert!(round(f32::from_bits(0xffff_ffff), r).is_nan());
        }
    }

    /// Neighbours in a tensor, the same element in the next step and in the next tensor draw independently.
    #[test]
    fn draws_are_not_correlated() {
        let n = 1u32 << 16;
        let pairs: [(&str, Key, Key, u32); 3] = [
            ("the next element", Key::of(1, 0), Key::of(1, 0), 1),
            ("the next step", Key::of(1, 0), Key::of(2, 0), 0),
            ("the next chunk", Key::of(1, 0), Key::of(1, 1), 0),
        ];
        for (what, a, b, shift) in pairs {
            let centred = |key: Key, i: u32| f64::from(key.draw(i)) / 65536.0 - 0.5;
            let sum: f64 = (0..n - 1).map(|i| centred(a, i) * centred(b, i + shift)).sum();
            let correlation = sum / f64::from(n) * 12.0;
            assert!(correlation.abs() < 5.0 / f64::from(n).sqrt(), "{what}: {correlation}");
        }
    }
}
