//! Arrays, for CPUs that are none of the others, and for the tests of the others.

use super::{LANES, Simd};
use crate::gemm::{Gemm, multiply};
use half::bf16;

/// Sixteen lanes, one after the other.
#[derive(Debug, Clone, Copy)]
pub(super) struct Portable;

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
    unsafe fn store_pairs(to: *mut bf16, x: Self::Pairs) {
        // SAFETY: the caller's.
        unsafe { to.cast::<Self::Pairs>().write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn splat_pair(from: *const bf16) -> Self::Pairs {
        // SAFETY: the caller's.
        std::array::from_fn(|i| unsafe { *from.add(i % 2) })
    }
    #[inline(always)]
    unsafe fn zip_pairs(a: *const bf16, b: *const bf16) -> Self::Pairs {
        // SAFETY: the caller's.
        std::array::from_fn(|i| unsafe { *[a, b][i % 2].add(i / 2) })
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
    unsafe fn gemm(args: &Gemm<f32>) {
        // SAFETY: the caller's.
        unsafe { multiply::<Self, f32>(args) }
    }
    unsafe fn gemm_pairs(args: &Gemm<bf16>) {
        // SAFETY: the caller's.
        unsafe { multiply::<Self, bf16>(args) }
    }
}
