//! Process-wide switches of libtorch.

use crate::{KernelError, ffi};

/// Sends fp32 matrix products on the CPU to oneDNN where that stays true fp32, and says whether it did.
///
/// # Why
/// libtorch's default on x86 is MKL, which takes its AVX2 path on AMD: 108 GFLOP/s on a Zen 5 core where oneDNN
/// reaches 255 (relative error 4e-7 against MKL's 2.5e-7). Allowing oneDNN bf16 reroutes to it. On CPUs with AMX the same
/// switch would round the inputs to bf16, so it is left alone there.
///
/// # Errors
/// Whatever libtorch throws.
pub fn use_fast_fp32_matmul() -> Result<bool, KernelError> {
    if !onednn_keeps_fp32() {
        return Ok(false);
    }
    // SAFETY: no pointers; the shim catches exceptions.
    ffi::check(unsafe { ffi::tunesmith_let_onednn_multiply() })?;
    Ok(true)
}

#[cfg(target_arch = "x86_64")]
fn onednn_keeps_fp32() -> bool {
    // CPUID leaf 7, EDX bit 22: AMX-BF16. Leaf 7 exists on every CPU that has AVX2.
    let amx_bf16 = is_x86_feature_detected!("avx2")
        && std::arch::x86_64::__cpuid_count(7, 0).edx & (1 << 22) != 0;
    is_x86_feature_detected!("avx2") && !amx_bf16
}

#[cfg(not(target_arch = "x86_64"))]
fn onednn_keeps_fp32() -> bool {
    false // elsewhere oneDNN may use bf16 where it is allowed; the default stays
}
