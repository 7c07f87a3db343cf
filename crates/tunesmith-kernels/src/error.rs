//! The one error of this crate: libtorch said no.

/// What libtorch or the shim answered instead of a result.
#[derive(Debug, thiserror::Error)]
pub enum KernelError {
    /// A C++ exception, caught at the border.
    #[error("libtorch: {0}")]
    Cxx(String),
    /// The driver, the compiler of kernels, or libtorch's CUDA side.
    #[error("CUDA: {0}")]
    Cuda(String),
}
