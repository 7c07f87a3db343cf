//! Sixteen f32 lanes on whatever the CPU has, chosen while the program runs.
//!
//! A kernel is a struct with its arguments that implements [`Kernel`]; its body is written once, against [`Simd`], and
//! compiled three times: AVX-512 (one register a vector), AVX2 with FMA (two), portable (an array that the compiler
//! may vectorise). [`run`] takes the best the machine has. Everything in a body must be `#[inline(always)]`, or it is
//! compiled without the instruction set of its caller.

#[cfg(target_arch = "x86_64")]
mod x86;

use half::bf16;
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
    /// [`tile::multiply`](crate::gemm::multiply) compiled for this instruction set, as a call of its own.
    unsafe fn gemm(args: &crate::gemm::Gemm);

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

/// Arrays, for CPUs that are none of the others, and for the tests of the others.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Portable;

macro_rules! lanewise {
    ($($name:ident($($arg:ident),*) = $lane:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: Self::V),*) -> Self::V {
            let mut out = [0.0; LANES];
            for i in 0..LANES {
                $(let $arg = $arg[i];)*
                out[i] = $lane;
            }
            out
        }
    )*};
}

impl Simd for Portable {
    const WIDE: bool = false;
    type V = [f32; LANES];
    type Pairs = [bf16; 2 * LANES];

    lanewise! {
        add(a, b) = a + b;
        sub(a, b) = a - b;
        mul(a, b) = a * b;
        div(a, b) = a / b;
        sqrt(a) = a.sqrt();
        max(a, b) = if a > b { a } else { b };
        min(a, b) = if a < b { a } else { b };
        fma(a, b, c) = a * b + c;
        round(a) = a.round_ties_even();
        pow2(n) = f32::from_bits(((n as i32 + 127) as u32) << 23);
    }

    #[inline(always)]
    unsafe fn splat(x: f32) -> Self::V {
        [x; LANES]
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self::V {
        // SAFETY: the caller's.
        unsafe { from.cast::<Self::V>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Self::V) {
        // SAFETY: the caller's.
        unsafe { to.cast::<Self::V>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> Self::V {
        // SAFETY: the caller's.
        unsafe { from.cast::<[bf16; LANES]>().read_unaligned() }.map(bf16::to_f32)
    }
    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, x: Self::V) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(x.map(bf16::from_f32)) }
    }
    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> Self::Pairs {
        // SAFETY: the caller's.
        unsafe { from.cast::<Self::Pairs>().read_unaligned() }
    }
    #[inline(always)]
    unsafe fn dot_pairs(a: Self::Pairs, b: Self::Pairs, c: Self::V) -> Self::V {
        std::array::from_fn(|i| {
            let product = |j: usize| a[j].to_f32() * b[j].to_f32();
            product(2 * i) + product(2 * i + 1) + c[i]
        })
    }
    #[inline(always)]
    unsafe fn to_array(a: Self::V) -> [f32; LANES] {
        a
    }
    unsafe fn gemm(args: &crate::gemm::Gemm) {
        // SAFETY: the caller's.
        unsafe { crate::gemm::multiply::<Self>(args) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every instruction set the machine has.
    pub(crate) fn isas() -> Vec<Isa> {
        let all = [Isa::Portable, Isa::Avx2, Isa::Avx512];
        all.into_iter().filter(|&isa| isa as u8 <= Isa::here() as u8).collect()
    }

    struct Exp<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Exp<'_> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            for (x, y) in self.0.chunks_exact(LANES).zip(self.1.chunks_exact_mut(LANES)) {
                // SAFETY: chunks of LANES.
                unsafe { S::store(y.as_mut_ptr(), S::exp(S::load(x.as_ptr()))) }
            }
        }
    }

    #[test]
    fn exp_agrees_with_libm_to_2_ulp() {
        let xs: Vec<f32> = (0..4096).map(|i| -87.0 + i as f32 * (175.0 / 4096.0)).collect();
        for isa in isas() {
            let mut ys = vec![0.0; xs.len()];
            // SAFETY: detected.
            unsafe { run_on(isa, Exp(&xs, &mut ys)) };
            for (x, y) in xs.iter().zip(&ys) {
                let expected = f64::from(*x).exp();
                let error = (f64::from(*y) / expected - 1.0).abs();
                assert!(error < 2.4e-7, "{isa:?}: exp({x}) = {y:e}, expected {expected:e}");
            }
        }
    }

    struct Sums<'a>(&'a [f32], &'a mut [f32]);

    impl Kernel for Sums<'_> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: LANES vectors, one vector.
            unsafe {
                let x = std::array::from_fn(|i| S::load(self.0.as_ptr().add(i * LANES)));
                S::store(self.1.as_mut_ptr(), S::sums(&x));
            }
        }
    }

    #[test]
    fn each_vector_has_its_sum() {
        let x: Vec<f32> = (0..LANES * LANES).map(|i| (i as f32 * 0.7).sin()).collect();
        for isa in isas() {
            let mut sums = vec![0.0; LANES];
            // SAFETY: detected.
            unsafe { run_on(isa, Sums(&x, &mut sums)) };
            for (sum, x) in sums.iter().zip(x.chunks(LANES)) {
                assert!((sum - x.iter().sum::<f32>()).abs() < 1e-5, "{isa:?}");
            }
        }
    }

    struct Dot<'a>(&'a [bf16], &'a [bf16], &'a mut [f32]);

    impl Kernel for Dot<'_> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: LANES pairs, LANES sums.
            unsafe {
                let (a, b) = (S::load_pairs(self.0.as_ptr()), S::load_pairs(self.1.as_ptr()));
                S::store(self.2.as_mut_ptr(), S::dot_pairs(a, b, S::load(self.2.as_ptr())));
            }
        }
    }

    #[test]
    fn neighbours_are_multiplied_and_summed() {
        let [a, b] = [0.37f32, 0.11].map(|step| {
            (0..2 * LANES).map(|i| bf16::from_f32((i as f32 * step).sin())).collect::<Vec<_>>()
        });
        let product = |i: usize| a[i].to_f32() * b[i].to_f32();
        for isa in isas().into_iter().map(Some).chain([None]) {
            let mut sums = vec![1.0; LANES];
            // SAFETY: detected; `None` is the best there is for pairs.
            unsafe {
                match isa {
                    Some(isa) => run_on(isa, Dot(&a, &b, &mut sums)),
                    None => run_pairs(Dot(&a, &b, &mut sums)),
                }
            }
            for (i, sum) in sums.iter().enumerate() {
                let expected = 1.0 + product(2 * i) + product(2 * i + 1);
                assert!((sum - expected).abs() < 1e-6, "{isa:?}, lane {i}: {sum}, {expected}");
            }
        }
    }

    struct Round<'a>(&'a [f32], &'a mut [bf16]);

    impl Kernel for Round<'_> {
        #[inline(always)]
        unsafe fn body<S: Simd>(self) {
            // SAFETY: both hold LANES.
            unsafe { S::store_bf16(self.1.as_mut_ptr(), S::load(self.0.as_ptr())) }
        }
    }

    #[test]
    fn bf16_is_rounded_to_nearest_even() {
        let tie = |bits: u32| f32::from_bits(bits);
        let mut xs = [0.0f32; LANES];
        xs[..8].copy_from_slice(&[
            1.0,
            tie(0x3f80_8000), // half way, even below
            tie(0x3f81_8000), // half way, even above
            tie(0x3f80_8001),
            -3.3e38,
            f32::INFINITY,
            f32::NAN,
            f32::from_bits(0x7fff_ffff), // a NaN that plain addition would turn into −0
        ]);
        for isa in isas() {
            let mut ys = [bf16::ZERO; LANES];
            // SAFETY: detected.
            unsafe { run_on(isa, Round(&xs, &mut ys)) };
            for (x, y) in xs.iter().zip(ys) {
                let expected = bf16::from_f32(*x);
                assert!(y == expected || (y.is_nan() && x.is_nan()), "{isa:?}: {x} gives {y}");
            }
        }
    }
}
