//! The CUDA half: the kernels' twins on an NVIDIA GPU.
//!
//! The binary is linked without CUDA. Where a driver answers, [`load`] brings libtorch's CUDA side into the process, and
//! kernels are compiled from `cuda/*.cu` by NVRTC on first use: no `nvcc` when tunesmith is built, and one binary for
//! machines with and without a GPU. Attention is libtorch's own varlen flash attention.
//!
//! Kernels go into the stream that is current in libtorch, on the device of their tensors.

mod adamw;
mod attention;
mod compile;
mod device;
mod launch;
mod ops;
#[cfg(test)]
mod tests;

pub(crate) use adamw::adamw_;
pub use attention::CudnnAttention;
pub(crate) use attention::{attention, attention_backward};
pub use compile::{compile, nvrtc_is_here};
pub use device::{Graph, Memory, memory, name, reset_memory};
pub(crate) use ops::{
    label_scores, label_scores_backward_, rms_norm, rms_norm_backward, rotate_, square_sum, swiglu,
    swiglu_backward_,
};

use crate::KernelError;
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW};
use std::sync::OnceLock;

/// Brings libtorch's CUDA side into the process if an NVIDIA driver answers; says whether a GPU can be used.
///
/// # Errors
/// A driver, but no CUDA side of libtorch that can be loaded: `cargo xtask setup --cuda` fetches it.
pub fn load() -> Result<bool, KernelError> {
    static LOADED: OnceLock<Result<bool, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: both libraries are made to be loaded at run time; they stay for the life of the process.
        unsafe {
            if Library::open(Some("libcuda.so.1"), RTLD_NOW).map(std::mem::forget).is_err() {
                return Ok(false);
            }
            let library = Library::open(Some("libtorch_cuda.so"), RTLD_NOW | RTLD_GLOBAL);
            library.map(std::mem::forget).map_err(|error| error.to_string())?;
        }
        Ok(tch::Cuda::is_available())
    });
    loaded.clone().map_err(KernelError::Cuda)
}
