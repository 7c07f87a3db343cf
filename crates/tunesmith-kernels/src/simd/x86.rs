//! The two x86 instruction sets behind [`Simd`].

use super::{Kernel, LANES, Simd};
use crate::gemm::{Gemm, multiply};
use half::bf16;
use std::arch::x86_64::*;

/// One 512-bit register a vector; `BF16`: with AVX512-BF16's products of pairs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512<const BF16: bool>;

/// Two 256-bit registers a vector.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx2;

#[target_feature(enable = "avx512f,avx2,fma")]
pub(super) unsafe fn run_avx512<K: Kernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { kernel.body::<Avx512<false>>() }
}

#[target_feature(enable = "avx512f,avx512bf16,avx2,fma")]
pub(super) unsafe fn run_avx512_bf16<K: Kernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { kernel.body::<Avx512<true>>() }
}

#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn run_avx2<K: Kernel>(kernel: K) {
    // SAFETY: the caller's.
    unsafe { kernel.body::<Avx2>() }
}

/// [`multiply`] as a call of its own, for each instruction set and dtype.
macro_rules! gemms {
    ($($name:ident($features:literal): $simd:ty, $e:ty;)*) => {$(
        #[target_feature(enable = $features)]
        unsafe fn $name(args: &Gemm<$e>) {
            // SAFETY: the caller's.
            unsafe { multiply::<$simd, $e>(args) }
        }
    )*};
}

gemms! {
    gemm_avx512("avx512f,avx2,fma"): Avx512<false>, f32;
    gemm_avx512_widened("avx512f,avx2,fma"): Avx512<false>, bf16;
    gemm_avx512_pairs("avx512f,avx512bf16,avx2,fma"): Avx512<true>, bf16;
    gemm_avx2("avx2,fma"): Avx2, f32;
    gemm_avx2_widened("avx2,fma"): Avx2, bf16;
}

/// The methods that are one intrinsic each.
macro_rules! intrinsics {
    ($($name:ident($($arg:ident: $t:ty),*) $(-> $ret:ty)? = $e:expr;)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $t),*) $(-> $ret)? {
            // SAFETY: the caller's.
            unsafe { $e }
        }
    )*};
}

type F512 = __m512;

impl<const BF16: bool> Simd for Avx512<BF16> {
    const WIDE: bool = true;
    type V = F512;
    type Pairs = __m512i;

    intrinsics! {
        splat(x: f32) -> F512 = _mm512_set1_ps(x);
        load(from: *const f32) -> F512 = _mm512_loadu_ps(from);
        store(to: *mut f32, x: F512) = _mm512_storeu_ps(to, x);
        add(a: F512, b: F512) -> F512 = _mm512_add_ps(a, b);
        sub(a: F512, b: F512) -> F512 = _mm512_sub_ps(a, b);
        mul(a: F512, b: F512) -> F512 = _mm512_mul_ps(a, b);
        div(a: F512, b: F512) -> F512 = _mm512_div_ps(a, b);
        sqrt(a: F512) -> F512 = _mm512_sqrt_ps(a);
        max(a: F512, b: F512) -> F512 = _mm512_max_ps(a, b);
        min(a: F512, b: F512) -> F512 = _mm512_min_ps(a, b);
        fma(a: F512, b: F512, c: F512) -> F512 = _mm512_fmadd_ps(a, b, c);
        round(a: F512) -> F512 = _mm512_roundscale_ps::<0>(a);
        pow2(n: F512) -> F512 = _mm512_castsi512_ps(_mm512_slli_epi32::<23>(_mm512_add_epi32(
            _mm512_cvtps_epi32(n), _mm512_set1_epi32(127))));
        sum(a: F512) -> f32 = _mm512_reduce_add_ps(a);
        largest(a: F512) -> f32 = _mm512_reduce_max_ps(a);
        gemm(args: &Gemm<f32>) = gemm_avx512(args);
        gemm_pairs(args: &Gemm<bf16>) =
            if BF16 { gemm_avx512_pairs(args) } else { gemm_avx512_widened(args) };
        load_pairs(from: *const bf16) -> __m512i = _mm512_loadu_si512(from.cast());
        store_pairs(to: *mut bf16, x: __m512i) = _mm512_storeu_si512(to.cast(), x);
        splat_pair(from: *const bf16) -> __m512i =
            _mm512_set1_epi32(from.cast::<i32>().read_unaligned());
        zip_pairs(a: *const bf16, b: *const bf16) -> __m512i = {
            let [a, b] = [a, b].map(|x| _mm512_cvtepu16_epi32(_mm256_loadu_si256(x.cast())));
            _mm512_or_si512(a, _mm512_slli_epi32::<16>(b))
        };
        load_bf16(from: *const bf16) -> F512 = _mm512_castsi512_ps(_mm512_slli_epi32::<16>(
            _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()))));
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, x: F512) {
        // SAFETY: the caller's.
        unsafe {
            let bits = _mm512_castps_si512(x);
            let odd = _mm512_and_si512(_mm512_srli_epi32::<16>(bits), _mm512_set1_epi32(1));
            let rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
            let nan = _mm512_cmp_ps_mask::<_CMP_UNORD_Q>(x, x);
            let rounded = _mm512_mask_mov_epi32(rounded, nan, _mm512_set1_epi32(0x7fc0_0000));
            let high = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(rounded));
            _mm256_storeu_si256(to.cast(), high);
        }
    }

    /// Neighbours are added while they are brought together: 15 additions for all.
    #[inline(always)]
    unsafe fn sums(x: &[F512; LANES]) -> F512 {
        // SAFETY: the caller's.
        unsafe {
            let twos: [F512; 8] = std::array::from_fn(|i| {
                let (a, b) = (x[2 * i], x[2 * i + 1]);
                _mm512_add_ps(_mm512_unpacklo_ps(a, b), _mm512_unpackhi_ps(a, b))
            });
            let fours: [F512; 4] = std::array::from_fn(|i| {
                let [a, b] = [twos[2 * i], twos[2 * i + 1]].map(|x| _mm512_castps_pd(x));
                let [low, high] = [_mm512_unpacklo_pd(a, b), _mm512_unpackhi_pd(a, b)];
                _mm512_add_ps(_mm512_castpd_ps(low), _mm512_castpd_ps(high))
            });
            // From here on whole quarters of registers.
            let add = |a, b| {
                let even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
                _mm512_add_ps(even, _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b))
            };
            add(add(fours[0], fours[1]), add(fours[2], fours[3]))
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(a: __m512i, b: __m512i, c: F512) -> F512 {
        // SAFETY: the caller's; the instruction is there where BF16 says so.
        unsafe {
            if BF16 {
                let [a, b] = [a, b].map(|x| std::mem::transmute::<__m512i, __m512bh>(x));
                return _mm512_dpbf16_ps(c, a, b);
            }
            let first = |x: __m512i| _mm512_castsi512_ps(_mm512_slli_epi32::<16>(x));
            let high = _mm512_set1_epi32(0xffff_0000_u32 as i32);
            let second = |x: __m512i| _mm512_castsi512_ps(_mm512_and_si512(x, high));
            let c = _mm512_fmadd_ps(first(a), first(b), c);
            _mm512_fmadd_ps(second(a), second(b), c)
        }
    }

    #[inline(always)]
    unsafe fn to_array(a: F512) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: LANES elements.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), a) };
        out
    }
}

type F256x2 = [__m256; 2];

/// The same intrinsic on both halves.
macro_rules! halves {
    ($f:ident, $a:expr) => {
        [$f($a[0]), $f($a[1])]
    };
    ($f:ident, $a:expr, $b:expr) => {
        [$f($a[0], $b[0]), $f($a[1], $b[1])]
    };
    ($f:ident, $a:expr, $b:expr, $c:expr) => {
        [$f($a[0], $b[0], $c[0]), $f($a[1], $b[1], $c[1])]
    };
}

impl Simd for Avx2 {
    const WIDE: bool = false;
    type V = F256x2;
    type Pairs = [__m256i; 2];

    intrinsics! {
        splat(x: f32) -> F256x2 = [_mm256_set1_ps(x); 2];
        load(from: *const f32) -> F256x2 = [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))];
        store(to: *mut f32, x: F256x2) = {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        };
        add(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_add_ps, a, b);
        sub(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_sub_ps, a, b);
        mul(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_mul_ps, a, b);
        div(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_div_ps, a, b);
        sqrt(a: F256x2) -> F256x2 = halves!(_mm256_sqrt_ps, a);
        max(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_max_ps, a, b);
        min(a: F256x2, b: F256x2) -> F256x2 = halves!(_mm256_min_ps, a, b);
        fma(a: F256x2, b: F256x2, c: F256x2) -> F256x2 = halves!(_mm256_fmadd_ps, a, b, c);
        round(a: F256x2) -> F256x2 = [_mm256_round_ps::<0>(a[0]), _mm256_round_ps::<0>(a[1])];
        gemm(args: &Gemm<f32>) = gemm_avx2(args);
        gemm_pairs(args: &Gemm<bf16>) = gemm_avx2_widened(args);
        splat_pair(from: *const bf16) -> Self::Pairs =
            [_mm256_set1_epi32(from.cast::<i32>().read_unaligned()); 2];
        store_pairs(to: *mut bf16, x: Self::Pairs) = {
            _mm256_storeu_si256(to.cast(), x[0]);
            _mm256_storeu_si256(to.add(LANES).cast(), x[1]);
        };
    }

    #[inline(always)]
    unsafe fn pow2(n: F256x2) -> F256x2 {
        // SAFETY: the caller's.
        unsafe {
            let n = halves!(_mm256_cvtps_epi32, n);
            let bias = [_mm256_set1_epi32(127); 2];
            let exponent = halves!(_mm256_add_epi32, n, bias);
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<23>(exponent[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn load_pairs(from: *const bf16) -> Self::Pairs {
        // SAFETY: the caller's.
        unsafe { [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(LANES).cast())] }
    }

    #[inline(always)]
    unsafe fn zip_pairs(a: *const bf16, b: *const bf16) -> Self::Pairs {
        // SAFETY: the caller's.
        unsafe {
            let half = |i: usize| {
                let [a, b] =
                    [a, b].map(|x| _mm256_cvtepu16_epi32(_mm_loadu_si128(x.add(i).cast())));
                _mm256_or_si256(a, _mm256_slli_epi32::<16>(b))
            };
            [half(0), half(LANES / 2)]
        }
    }

    #[inline(always)]
    unsafe fn dot_pairs(a: Self::Pairs, b: Self::Pairs, c: F256x2) -> F256x2 {
        // SAFETY: the caller's.
        unsafe {
            let first = |x: __m256i| _mm256_castsi256_ps(_mm256_slli_epi32::<16>(x));
            let high = _mm256_set1_epi32(0xffff_0000_u32 as i32);
            let second = |x: __m256i| _mm256_castsi256_ps(_mm256_and_si256(x, high));
            let half = |i: usize| {
                let c = _mm256_fmadd_ps(first(a[i]), first(b[i]), c[i]);
                _mm256_fmadd_ps(second(a[i]), second(b[i]), c)
            };
            [half(0), half(1)]
        }
    }

    #[inline(always)]
    unsafe fn load_bf16(from: *const bf16) -> F256x2 {
        // SAFETY: the caller's.
        unsafe {
            let both = _mm256_loadu_si256(from.cast());
            let wide = [
                _mm256_cvtepu16_epi32(_mm256_castsi256_si128(both)),
                _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(both)),
            ];
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn store_bf16(to: *mut bf16, x: F256x2) {
        // SAFETY: the caller's.
        unsafe { to.cast::<[bf16; LANES]>().write_unaligned(Self::to_array(x).map(bf16::from_f32)) }
    }

    #[inline(always)]
    unsafe fn to_array(a: F256x2) -> [f32; LANES] {
        let mut out = [0.0; LANES];
        // SAFETY: LANES elements.
        unsafe { Self::store(out.as_mut_ptr(), a) };
        out
    }
}
