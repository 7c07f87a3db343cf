//! The shim's C interface, declared once.

use crate::KernelError;
use std::ffi::{CStr, c_char, c_void};
use tch::Tensor;

/// An `at::Tensor` on the other side of the border.
pub(crate) type CTensor = c_void;

pub(crate) type Backward = unsafe extern "C" fn(
    closure: *mut c_void,
    grads: *const *const CTensor,
    n_out: i64,
    out: *mut *mut CTensor,
    n_in: i64,
) -> *mut c_char;

pub(crate) type Drop = unsafe extern "C" fn(closure: *mut c_void);

unsafe extern "C" {
    fn tunesmith_free_error(error: *mut c_char);
    pub(crate) fn tunesmith_strdup(text: *const c_char, length: usize) -> *mut c_char;
    pub(crate) fn tunesmith_set_float32_matmul_precision(precision: *const c_char) -> *mut c_char;
    pub(crate) fn tunesmith_parallel(
        body: unsafe extern "C" fn(data: *mut c_void),
        data: *mut c_void,
    );
    pub(crate) fn tunesmith_attach_node(
        label: *const c_char,
        inputs: *const *const CTensor,
        n_inputs: i64,
        outputs: *const *const CTensor,
        n_outputs: i64,
        closure: *mut c_void,
        backward: Backward,
        drop: Drop,
    ) -> *mut c_char;
}

/// Turns the shim's answer (null, or a message that is now ours to free) into a result.
pub(crate) fn check(error: *mut c_char) -> Result<(), KernelError> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the shim returns null or a NUL-terminated string of its own allocator, freed exactly once, here.
    let message = unsafe {
        let message = CStr::from_ptr(error).to_string_lossy().into_owned();
        tunesmith_free_error(error);
        message
    };
    Err(KernelError::Cxx(message))
}

/// The pointers of tensors that outlive the call they are passed to.
pub(crate) fn pointers(tensors: &[&Tensor]) -> Vec<*const CTensor> {
    tensors.iter().map(|t| t.as_ptr() as *const CTensor).collect()
}
