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
    pub(crate) fn tunesmith_let_onednn_multiply() -> *mut c_char;
    pub(crate) fn tunesmith_parallel(
        body: unsafe extern "C" fn(data: *mut c_void),
        data: *mut c_void,
    );
    fn tunesmith_norms(
        tensors: *const *const CTensor,
        n: i64,
        out: *mut *mut CTensor,
    ) -> *mut c_char;
    pub(crate) fn tunesmith_device_stream(index: i64, out: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn tunesmith_device_memory(index: i64, out: *mut i64) -> *mut c_char;
    pub(crate) fn tunesmith_device_reset_memory(index: i64) -> *mut c_char;
    pub(crate) fn tunesmith_graph_begin(index: i64, out: *mut *mut c_void) -> *mut c_char;
    pub(crate) fn tunesmith_graph_end(graph: *mut c_void) -> *mut c_char;
    pub(crate) fn tunesmith_graph_replay(graph: *mut c_void) -> *mut c_char;
    pub(crate) fn tunesmith_graph_free(graph: *mut c_void) -> *mut c_char;
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

/// A function of `shim/flash.cpp`: tensors, the longest document, scale, window (0: none), and room for its results.
type Flash =
    unsafe extern "C" fn(*const *const CTensor, i64, f64, i64, *mut *mut CTensor) -> *mut c_char;

macro_rules! flash_functions {
    ($($name:ident)*) => {
        unsafe extern "C" {
            $(fn $name(
                tensors: *const *const CTensor,
                longest: i64,
                scale: f64,
                window: i64,
                out: *mut *mut CTensor,
            ) -> *mut c_char;)*
        }
    };
}

flash_functions! {
    tunesmith_flash_attention tunesmith_flash_attention_backward
    tunesmith_cudnn_attention tunesmith_cudnn_attention_backward
}

/// # Safety
/// `function` reads as many tensors as are given, and makes `N`.
unsafe fn flash<const N: usize>(
    function: Flash,
    tensors: &[&Tensor],
    longest: i64,
    scale: f64,
    window: Option<i64>,
) -> Result<[Tensor; N], KernelError> {
    let (tensors, mut out) = (pointers(tensors), [std::ptr::null_mut(); N]);
    // SAFETY: the caller's; what the shim makes belongs to nobody else.
    unsafe {
        let window = window.unwrap_or(0);
        check(function(tensors.as_ptr(), longest, scale, window, out.as_mut_ptr()))?;
        Ok(out.map(|pointer| Tensor::from_ptr(pointer.cast())))
    }
}

/// q, k, v, borders of queries and of keys → output and softmax statistics.
pub(crate) fn flash_attention(
    tensors: [&Tensor; 5],
    longest: i64,
    scale: f64,
    window: Option<i64>,
) -> Result<[Tensor; 2], KernelError> {
    // SAFETY: five tensors in, two out.
    unsafe { flash(tunesmith_flash_attention, &tensors, longest, scale, window) }
}

/// dout, q, k, v, out, statistics, borders of queries and of keys, two random numbers → the gradients of q, k, v.
pub(crate) fn flash_attention_backward(
    tensors: [&Tensor; 9],
    longest: i64,
    scale: f64,
    window: Option<i64>,
) -> Result<[Tensor; 3], KernelError> {
    // SAFETY: nine tensors in, three out.
    unsafe { flash(tunesmith_flash_attention_backward, &tensors, longest, scale, window) }
}

/// q, k, v, borders → output, softmax statistics, and two that the backward pass hands back.
pub(crate) fn cudnn_attention(
    tensors: [&Tensor; 4],
    longest: i64,
    scale: f64,
) -> Result<[Tensor; 4], KernelError> {
    // SAFETY: four tensors in, four out.
    unsafe { flash(tunesmith_cudnn_attention, &tensors, longest, scale, None) }
}

/// dout, q, k, v, the four of the forward pass, borders → the gradients of q, k, v.
pub(crate) fn cudnn_attention_backward(
    tensors: [&Tensor; 9],
    longest: i64,
    scale: f64,
) -> Result<[Tensor; 3], KernelError> {
    // SAFETY: nine tensors in, three out.
    unsafe { flash(tunesmith_cudnn_attention_backward, &tensors, longest, scale, None) }
}

/// The L2 norm of each tensor, (n).
pub(crate) fn norms(tensors: &[&Tensor]) -> Result<Tensor, KernelError> {
    let (tensors, mut out) = (pointers(tensors), std::ptr::null_mut());
    // SAFETY: live tensors; what the shim makes belongs to nobody else.
    unsafe {
        check(tunesmith_norms(tensors.as_ptr(), tensors.len() as i64, &mut out))?;
        Ok(Tensor::from_ptr(out.cast()))
    }
}

/// The pointers of tensors that outlive the call they are passed to.
pub(crate) fn pointers(tensors: &[&Tensor]) -> Vec<*const CTensor> {
    tensors.iter().map(|t| t.as_ptr() as *const CTensor).collect()
}
