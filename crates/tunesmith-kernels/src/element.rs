//! Tensors as memory: the dtypes kernels know, and checked views of tensors.

use crate::{
    gemm::Gemm,
    simd::{self, Kernel, LANES, Simd},
};
use half::bf16;
use tch::{Device, Kind, Tensor};

/// A dtype that kernels read and write; all arithmetic is in f32.
pub(crate) trait Element: Copy + Default + Send + Sync + 'static {
    /// libtorch's name for it.
    const KIND: Kind;

    fn to_f32(self) -> f32;
    fn from_f32(x: f32) -> Self;
    /// # Safety
    /// [`LANES`] elements at `from`; the instruction set of `S`.
    unsafe fn load<S: Simd>(from: *const Self) -> S::V;
    /// # Safety
    /// [`LANES`] elements at `to`; the instruction set of `S`.
    unsafe fn store<S: Simd>(to: *mut Self, x: S::V);

    /// Elements that a lane multiplies at once: itself, or a pair.
    const STEP: usize;
    /// Elements of a [`Self::Run`].
    const RUN: usize = Self::STEP * LANES;
    /// What is multiplied at once in a dot product: a vector, or a vector of pairs.
    type Run<S: Simd>: Copy;
    /// # Safety
    /// [`Self::RUN`] elements at `from`; the instruction set of `S`.
    unsafe fn load_run<S: Simd>(from: *const Self) -> Self::Run<S>;
    /// # Safety
    /// [`Self::RUN`] elements at `to`; the instruction set of `S`.
    unsafe fn store_run<S: Simd>(to: *mut Self, x: Self::Run<S>);
    /// The same [`Self::STEP`] elements in every lane.
    ///
    /// # Safety
    /// They are there; the instruction set of `S`.
    unsafe fn splat_run<S: Simd>(from: *const Self) -> Self::Run<S>;
    /// [`LANES`] columns of [`Self::STEP`] rows, `row` elements apart: a column a lane.
    ///
    /// # Safety
    /// They are there; the instruction set of `S`.
    unsafe fn zip<S: Simd>(from: *const Self, row: usize) -> Self::Run<S>;
    /// Lanes of sums: `sums` + a · b, so that all lanes together make the dot product.
    ///
    /// # Safety
    /// The instruction set of `S`.
    unsafe fn dot<S: Simd>(a: Self::Run<S>, b: Self::Run<S>, sums: S::V) -> S::V;
    /// Runs a kernel that lives on [`dot`](Self::dot).
    ///
    /// # Safety
    /// As [`simd::run`].
    unsafe fn run<K: Kernel>(kernel: K);
    /// [`multiply`](crate::gemm::multiply) as a call of its own.
    ///
    /// # Safety
    /// The pointers are good for the shapes; the instruction set of `S`.
    unsafe fn gemm<S: Simd>(args: &Gemm<Self>);

    /// The first `n` lanes from memory, the others 0.
    ///
    /// # Safety
    /// `n` elements at `from`.
    #[inline(always)]
    unsafe fn load_some<S: Simd>(from: *const Self, n: usize) -> S::V {
        // SAFETY: the caller's; the array has LANES elements.
        unsafe {
            if n >= LANES {
                return Self::load::<S>(from);
            }
            let mut lanes = [0.0f32; LANES];
            for (i, lane) in lanes.iter_mut().enumerate().take(n) {
                *lane = (*from.add(i)).to_f32();
            }
            S::load(lanes.as_ptr())
        }
    }

    /// The first `n` lanes to memory.
    ///
    /// # Safety
    /// `n` elements at `to`.
    #[inline(always)]
    unsafe fn store_some<S: Simd>(to: *mut Self, x: S::V, n: usize) {
        // SAFETY: the caller's.
        unsafe {
            if n >= LANES {
                return Self::store::<S>(to, x);
            }
            let lanes = S::to_array(x);
            for (i, lane) in lanes.iter().enumerate().take(n) {
                *to.add(i) = Self::from_f32(*lane);
            }
        }
    }
}

impl Element for f32 {
    const KIND: Kind = Kind::Float;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        x
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, x: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(to, x) }
    }

    const STEP: usize = 1;
    type Run<S: Simd> = S::V;

    #[inline(always)]
    unsafe fn load_run<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn store_run<S: Simd>(to: *mut Self, x: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store(to, x) }
    }
    #[inline(always)]
    unsafe fn splat_run<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::splat(*from) }
    }
    #[inline(always)]
    unsafe fn zip<S: Simd>(from: *const Self, _row: usize) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load(from) }
    }
    #[inline(always)]
    unsafe fn gemm<S: Simd>(args: &Gemm<Self>) {
        // SAFETY: the caller's.
        unsafe { S::gemm(args) }
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(a: S::V, b: S::V, sums: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::fma(a, b, sums) }
    }
    unsafe fn run<K: Kernel>(kernel: K) {
        // SAFETY: the caller's.
        unsafe { simd::run(kernel) }
    }
}

impl Element for bf16 {
    const KIND: Kind = Kind::BFloat16;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
    #[inline(always)]
    fn from_f32(x: f32) -> Self {
        bf16::from_f32(x)
    }
    #[inline(always)]
    unsafe fn load<S: Simd>(from: *const Self) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::load_bf16(from) }
    }
    #[inline(always)]
    unsafe fn store<S: Simd>(to: *mut Self, x: S::V) {
        // SAFETY: the caller's.
        unsafe { S::store_bf16(to, x) }
    }

    const STEP: usize = 2;
    type Run<S: Simd> = S::Pairs;

    #[inline(always)]
    unsafe fn load_run<S: Simd>(from: *const Self) -> S::Pairs {
        // SAFETY: the caller's.
        unsafe { S::load_pairs(from) }
    }
    #[inline(always)]
    unsafe fn store_run<S: Simd>(to: *mut Self, x: S::Pairs) {
        // SAFETY: the caller's.
        unsafe { S::store_pairs(to, x) }
    }
    #[inline(always)]
    unsafe fn splat_run<S: Simd>(from: *const Self) -> S::Pairs {
        // SAFETY: the caller's.
        unsafe { S::splat_pair(from) }
    }
    #[inline(always)]
    unsafe fn zip<S: Simd>(from: *const Self, row: usize) -> S::Pairs {
        // SAFETY: the caller's.
        unsafe { S::zip_pairs(from, from.add(row)) }
    }
    #[inline(always)]
    unsafe fn gemm<S: Simd>(args: &Gemm<Self>) {
        // SAFETY: the caller's.
        unsafe { S::gemm_pairs(args) }
    }
    #[inline(always)]
    unsafe fn dot<S: Simd>(a: S::Pairs, b: S::Pairs, sums: S::V) -> S::V {
        // SAFETY: the caller's.
        unsafe { S::dot_pairs(a, b, sums) }
    }
    unsafe fn run<K: Kernel>(kernel: K) {
        // SAFETY: the caller's.
        unsafe { simd::run_pairs(kernel) }
    }
}

/// Whether kernels can take this tensor: fp32 or bf16, on the CPU or an NVIDIA GPU.
pub fn supports(x: &Tensor) -> bool {
    let here = x.device() == Device::Cpu || x.device().is_cuda();
    here && matches!(x.kind(), Kind::Float | Kind::BFloat16)
}

/// Whether [`attention`](crate::attention) can, with heads of `head_dim`: libtorch's on the GPU has no fp32, and heads in
/// steps of 8 up to 256.
pub fn attends(x: &Tensor, head_dim: i64) -> bool {
    let flash = x.kind() == Kind::BFloat16 && head_dim % 8 == 0 && head_dim <= 256;
    supports(x) && (x.device() == Device::Cpu || flash)
}

/// Runs `$body` with `$e` standing for the Rust type of `$kind`; other dtypes are a caller's bug.
macro_rules! by_kind {
    ($kind:expr, $e:ident => $body:expr) => {
        match $kind {
            tch::Kind::Float => {
                type $e = f32;
                $body
            }
            tch::Kind::BFloat16 => {
                type $e = half::bf16;
                $body
            }
            other => panic!("a kernel was given {other:?}; it knows Float and BFloat16"),
        }
    };
}
pub(crate) use by_kind;

/// As [`by_kind!`], with `$c` for the type that small products multiply: bf16 where the CPU has an instruction for its
/// pairs, else fp32.
macro_rules! by_factor {
    ($kind:expr, $e:ident, $c:ident => $body:expr) => {
        match $kind {
            tch::Kind::BFloat16 if $crate::simd::has_pairs() => {
                type $e = half::bf16;
                type $c = half::bf16;
                $body
            }
            kind => $crate::element::by_kind!(kind, $e => {
                type $c = f32;
                $body
            }),
        }
    };
}
pub(crate) use by_factor;

/// The memory of a contiguous CPU tensor.
///
/// # Panics
/// Another dtype or device, or strides: bugs of a caller inside tunesmith.
pub(crate) fn memory<E: Element>(x: &Tensor) -> *mut E {
    assert_eq!(
        (x.kind(), x.device()),
        (E::KIND, Device::Cpu),
        "dtype and device of a kernel's tensor"
    );
    assert!(x.is_contiguous(), "a kernel's tensor is contiguous");
    x.data_ptr().cast()
}

/// The memory of a contiguous i64 CPU tensor.
pub(crate) fn indices(x: &Tensor) -> &[i64] {
    assert_eq!((x.kind(), x.device()), (Kind::Int64, Device::Cpu), "dtype and device of indices");
    assert!(x.is_contiguous(), "indices are contiguous");
    // SAFETY: checked; the slice lives as long as the borrow.
    unsafe { std::slice::from_raw_parts(x.data_ptr().cast_const().cast(), x.numel()) }
}

/// Rows and width of a tensor seen as (rows, last dimension).
pub(crate) fn rows(x: &Tensor) -> (usize, usize) {
    let width = x.size().last().map_or(1, |&n| n as usize);
    (x.numel() / width.max(1), width)
}
