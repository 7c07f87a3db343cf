//! A GPU beside its tensors: the stream that libtorch works in, memory, and graphs of captured work.

use crate::{KernelError, ffi};
use std::ffi::c_void;

/// Memory of one GPU, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// In tensors now.
    pub allocated: u64,
    /// The most in tensors since the last [`reset_memory`].
    pub peak_allocated: u64,
    /// The most that libtorch held since then, unused parts included.
    pub peak_reserved: u64,
    /// What the driver could still give.
    pub free: u64,
    /// What the GPU has.
    pub total: u64,
}

/// The stream that the calling thread's next operation on GPU `index` goes into: a `CUstream`.
pub(super) fn stream(index: usize) -> Result<*mut c_void, KernelError> {
    let mut stream = std::ptr::null_mut();
    // SAFETY: a live out-pointer; the stream belongs to libtorch.
    ffi::check(unsafe { ffi::tunesmith_device_stream(index as i64, &mut stream) })?;
    Ok(stream)
}

/// What libtorch's allocator and the driver say of GPU `index`, which has been used before.
///
/// # Errors
/// No CUDA side of libtorch, or no such GPU.
pub fn memory(index: usize) -> Result<Memory, KernelError> {
    let mut bytes = [0_i64; 5];
    // SAFETY: room for five numbers.
    ffi::check(unsafe { ffi::tunesmith_device_memory(index as i64, bytes.as_mut_ptr()) })?;
    let [allocated, peak_allocated, peak_reserved, free, total] = bytes.map(|n| n as u64);
    Ok(Memory { allocated, peak_allocated, peak_reserved, free, total })
}

/// What the driver calls GPU `index`, and its architecture (90 for sm_90).
///
/// # Errors
/// No driver, or no such GPU.
pub fn name(index: usize) -> Result<(String, i32), KernelError> {
    use cudarc::driver::result;
    use cudarc::driver::sys::CUdevice_attribute::{
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR as MAJOR,
        CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR as MINOR,
    };
    // SAFETY: looks for the driver's library and loads it.
    if !unsafe { cudarc::driver::sys::is_culib_present() } {
        return Err(KernelError::Cuda("no driver".into()));
    }
    let failed = |error: cudarc::driver::DriverError| KernelError::Cuda(error.to_string());
    result::init().map_err(failed)?;
    let device = result::device::get(index as i32).map_err(failed)?;
    // SAFETY: a device that the driver gave out.
    let attribute = |which| unsafe { result::device::get_attribute(device, which) };
    let architecture = 10 * attribute(MAJOR).map_err(failed)? + attribute(MINOR).map_err(failed)?;
    Ok((result::device::get_name(device).map_err(failed)?, architecture))
}

/// Gives what libtorch holds unused back to the driver, and lets the peaks begin again.
///
/// # Errors
/// As [`memory`].
pub fn reset_memory(index: usize) -> Result<(), KernelError> {
    // SAFETY: no pointers.
    ffi::check(unsafe { ffi::tunesmith_device_reset_memory(index as i64) })
}

/// Work on one GPU that was recorded once and is started as a whole: a CUDA graph.
///
/// It reads and writes the tensors that it was recorded with, where they lie; they must live as long as it does.
#[derive(Debug)]
pub struct Graph(*mut c_void);

impl Graph {
    /// Records what `work` does on GPU `index`, without running it, and what `work` returns beside. Everything that
    /// `work` does must have been done before: kernels are compiled and loaded on first use, which cannot be recorded.
    ///
    /// # Errors
    /// What `work` did cannot be recorded: it waited for the device, or copied from memory of the host.
    pub fn record<T>(index: usize, work: impl FnOnce() -> T) -> Result<(Self, T), KernelError> {
        let mut graph = std::ptr::null_mut();
        // SAFETY: a live out-pointer; the graph is freed once, in `drop`.
        ffi::check(unsafe { ffi::tunesmith_graph_begin(index as i64, &mut graph) })?;
        let made = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
        // SAFETY: begun above, ended once.
        let ended = ffi::check(unsafe { ffi::tunesmith_graph_end(graph) });
        let graph = Self(graph);
        let made = made.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        ended.map(|()| (graph, made))
    }

    /// Starts what was recorded, in the current stream; does not wait for it.
    ///
    /// # Errors
    /// What the driver says.
    pub fn replay(&self) -> Result<(), KernelError> {
        // SAFETY: recorded and alive.
        ffi::check(unsafe { ffi::tunesmith_graph_replay(self.0) })
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: freed once. There is nobody to tell of a failure.
        let _ = ffi::check(unsafe { ffi::tunesmith_graph_free(self.0) });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without the CUDA side every question is answered by an error, not by a crash.
    #[test]
    fn without_a_gpu_there_is_an_error() {
        if super::super::load().unwrap_or(false) {
            return;
        }
        assert!(stream(0).is_err());
        assert!(memory(0).is_err());
        assert!(name(0).is_err());
        assert!(reset_memory(0).is_err());
        assert!(Graph::record(0, || ()).is_err());
    }
}
