//! Sixteen f32 lanes on whatever the CPU has, chosen while the program runs.
//!
//! A kernel is a struct with its arguments that implements [`Kernel`]; its body is written once, against [`Simd`], and
//! compiled three times: AVX-512 (one register a vector), AVX2 with FMA (two), portable (an array that the compiler
//! may vectorise). [`run`] takes the best the machine has. Everything in a body must be `#[inline(always)]`, or it is
//! compiled without the instruction set of its caller.

mod portable;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::gemm::Gemm;
use half::bf16;
use portable::Portable;
use std::sync::atomic::{AtomicU8, Ordering};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Vectors of [`LANES`] numbers.
///
/// # Safety
/// Every function needs the instruction set of its implementation, and pointers good for as many elements as it
/// reads or writes; [`run`] sees to the first.
pub(crate) trait Simd: Copy {
    /// Whether a tile of 4 × 4 vectors fits into the registers.
    const WIDE: bool;
    /// Sixteen f32.
    type V: Copy;
    /// Sixteen pairs of bf16.
    type Pairs: Copy;

    unsafe fn splat(x: f32) -> Self::V;
    unsafe fn load(from: *const f32) -> Self::V;
    unsafe fn store(to: *mut f32, x: Self::V);
    unsafe fn load_bf16(from: *const bf16) -> Self::V;
    /// Rounds to nearest even, as `half` does.
    unsafe fn store_bf16(to: *mut bf16, x: Self::V);
    unsafe fn load_pairs(from: *const bf16) -> Self::Pairs;
    unsafe fn store_pairs(to: *mut bf16, x: Self::Pairs);
    /// The same pair in every lane.
    unsafe fn splat_pair(from: *const bf16) -> Self::Pairs;
    /// Lane i: aᵢ and bᵢ.
    unsafe fn zip_pairs(a: *const bf16, b: *const bf16) -> Self::Pairs;
    /// Lane i: a₂ᵢ b₂ᵢ + a₂ᵢ₊₁ b₂ᵢ₊₁ + cᵢ
    unsafe fn dot_pairs(a: Self::Pairs, b: Self::Pairs, c: Self::V) -> Self::V;
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sqrt(a: Self::V) -> Self::V;
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// a · b + c
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2ⁿ of whole numbers −126 ≤ n ≤ 127.
    unsafe fn pow2(n: Self::V) -> Self::V;
    unsafe fn to_array(a: Self::V) -> [f32; LANES];
    /// [`multiply`](crate::gemm::multiply) compiled for this instruction set, as a call of its own.
    unsafe fn gemm(args: &Gemm<f32>);
    /// The same, of pairs.
    unsafe fn gemm_pairs(args: &Gemm<bf16>);

    /// The sum of the lanes, pairwise.
    #[inline(always)]
    unsafe fn sum(a: Self::V) -> f32 {
        // SAFETY: the caller's.
        let mut x = unsafe { Self::to_array(a) };
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                x[i] += x[i + width];
            }
            width /= 2;
        }
        x[0]
    }

    /// [`sum`](Self::sum) of each of sixteen vectors, as the lanes of one.
    #[inline(always)]
    unsafe fn sums(x: &[Self::V; LANES]) -> Self::V {
        // SAFETY: the caller's.
        unsafe {
            let sums = x.map(|x| Self::sum(x));
            Self::load(sums.as_ptr())
        }
    }

    /// The largest lane.
    #[inline(always)]
    unsafe fn largest(a: Self::V) -> f32 {
        // SAFETY: the caller's.
        let x = unsafe { Self::to_array(a) };
        let mut best = x[0];
        for lane in x {
            best = if lane > best { lane } else { best };
        }
        best
    }

    /// eˣ to 1 ulp or so: x = n ln 2 + r with |r| ≤ ln 2 / 2, and a polynomial of degree 6 in r (Cody & Waite 1980).
    /// Below −87.3 the result is 2⁻¹²⁶, practically 0; above 88 it stays finite.
    #[inline(always)]
    unsafe fn exp(x: Self::V) -> Self::V {
        // SAFETY: the caller's.
        unsafe {
            // The bounds come first: of a number and NaN, x86 takes the second, and what is no number shall stay none.
            let x = Self::min(Self::splat(88.02), Self::max(Self::splat(-87.33), x));
            let n = Self::round(Self::mul(x, Self::splat(std::f32::consts::LOG2_E)));
            let r = Self::fma(n, Self::splat(-0.693_359_4), x);
            let r = Self::fma(n, Self::splat(2.121_944_4e-4), r);
            let mut p = Self::splat(1.0 / 720.0);
            for c in [1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
                p = Self::fma(p, r, Self::splat(c));
            }
            Self::mul(p, Self::pow2(n))
        }
    }

    /// 1 / (1 + e⁻ˣ)
    #[inline(always)]
    unsafe fn sigmoid(x: Self::V) -> Self::V {
        // SAFETY: the caller's.
        unsafe {
            let one = Self::splat(1.0);
            Self::div(one, Self::add(one, Self::exp(Self::sub(Self::splat(0.0), x))))
        }
    }
}

/// A computation that is written once and compiled for every instruction set.
pub(crate) trait Kernel {
    /// # Safety
    /// As [`Simd`]; mark the implementation `#[inline(always)]`.
    unsafe fn body<S: Simd>(self);
}

/// What this CPU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Isa {
    Portable = 1,
    Avx2,
    Avx512,
}

impl Isa {
    /// The best instruction set, looked up once.
    pub(crate) fn here() -> Self {
        static KNOWN: AtomicU8 = AtomicU8::new(0);
        match KNOWN.load(Ordering::Relaxed) {
            1 => Self::Portable,
            2 => Self::Avx2,
            3 => Self::Avx512,
            _ => {
                let isa = Self::detect();
                KNOWN.store(isa as u8, Ordering::Relaxed);
                isa
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    fn detect() -> Self {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("fma") {
            Self::Avx512
        } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            Self::Avx2
        } else {
            Self::Portable
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    fn detect() -> Self {
        Self::Portable
    }
}

/// Runs `kernel` on the best instruction set at hand.
///
/// # Safety
/// The pointers in `kernel` are good for what its body does with them.
pub(crate) unsafe fn run<K: Kernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { run_on(Isa::here(), kernel) }
}

/// As [`run`], for a kernel that lives on [`Simd::dot_pairs`]: with the instruction for it, where there is one.
///
/// # Safety
/// As [`run`].
pub(crate) unsafe fn run_pairs<K: Kernel>(kernel: K) {
    #[cfg(target_arch = "x86_64")]
    if has_pairs() {
        // SAFETY: the instruction set was detected; the pointers are the caller's.
        return unsafe { x86::run_avx512_bf16(kernel) };
    }
    // SAFETY: the caller's.
    unsafe { run(kernel) }
}

/// Whether this CPU has an instruction for [`Simd::dot_pairs`].
pub(crate) fn has_pairs() -> bool {
    #[cfg(target_arch = "x86_64")]
    return Isa::here() == Isa::Avx512 && is_x86_feature_detected!("avx512bf16");
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Asks for the cache line at `at`, which need not be anyone's.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint; no address is wrong.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}

/// Runs `kernel` on `isa`, which the CPU must have.
///
/// # Safety
/// As [`run`].
pub(crate) unsafe fn run_on<K: Kernel>(isa: Isa, kernel: K) {
    // SAFETY: the instruction set was detected; the pointers are the caller's.
    unsafe {
        match isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => x86::run_avx512(kernel),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => x86::run_avx2(kernel),
            _ => kernel.body::<Portable>(),
        }
    }
}
