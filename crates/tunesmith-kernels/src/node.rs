//! Coarse autograd nodes: an output computed by hand, with its backward as a Rust closure.
//!
//! tch has no custom autograd function. Here the forward runs outside autograd, and [`attach_node`] makes its outputs
//! results of a `torch::autograd::Node` that calls the closure when gradients arrive. Panics are caught at the border
//! and become errors of `backward`; a second backward is an error, since the closure is consumed by the first.

use crate::{
    KernelError,
    ffi::{self, CTensor},
};
use std::{
    ffi::{CStr, c_char, c_void},
    panic::{AssertUnwindSafe, catch_unwind},
};
use tch::Tensor;

type Closure = Box<dyn FnOnce(&[Option<Tensor>]) -> Vec<Option<Tensor>> + Send>;

/// Makes `outputs` depend on `inputs` in the autograd graph.
///
/// `backward` receives the gradient of each output (`None` where nothing depends on it) and returns the gradient of
/// each input, in order (`None` where there is none). It runs without gradient tracking, at most once, possibly on
/// another thread. When no input needs a gradient it is dropped unused.
///
/// # Errors
/// Outputs that already have a history, or whatever else libtorch refuses.
pub fn attach_node(
    label: &CStr,
    inputs: &[&Tensor],
    outputs: &[&Tensor],
    backward: impl FnOnce(&[Option<Tensor>]) -> Vec<Option<Tensor>> + Send + 'static,
) -> Result<(), KernelError> {
    let closure: Box<Closure> = Box::new(Box::new(backward));
    let (ins, outs) = (ffi::pointers(inputs), ffi::pointers(outputs));
    // SAFETY: the pointers live through the call; the node takes the closure and gives it to exactly one of
    // `call_closure` and `drop_closure`.
    ffi::check(unsafe {
        ffi::tunesmith_attach_node(
            label.as_ptr(),
            ins.as_ptr(),
            ins.len() as i64,
            outs.as_ptr(),
            outs.len() as i64,
            Box::into_raw(closure).cast(),
            call_closure,
            drop_closure,
        )
    })
}

unsafe extern "C" fn drop_closure(closure: *mut c_void) {
    // SAFETY: made by `attach_node`, handed back exactly once.
    let closure = unsafe { Box::from_raw(closure.cast::<Closure>()) };
    // A panic in a drop must not cross the border; there is nobody left to tell.
    let _ = catch_unwind(AssertUnwindSafe(|| drop(closure)));
}

unsafe extern "C" fn call_closure(
    closure: *mut c_void,
    grads: *const *const CTensor,
    n_out: i64,
    out: *mut *mut CTensor,
    n_in: i64,
) -> *mut c_char {
    // SAFETY: made by `attach_node`, handed back exactly once.
    let closure = unsafe { Box::from_raw(closure.cast::<Closure>()) };
    let result = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: the shim passes `n_out` pointers, null or to live tensors.
        let grads: Vec<Option<Tensor>> =
            unsafe { std::slice::from_raw_parts(grads, n_out as usize) }
                .iter()
                .map(|&grad| {
                    // SAFETY: checked for null; a shallow copy is taken.
                    (!grad.is_null()).then(|| unsafe { Tensor::clone_from_ptr(grad as *mut _) })
                })
                .collect();
        let _no_grad = tch::no_grad_guard();
        closure(&grads)
    }));
    let message = match result {
        Ok(gradients) if gradients.len() == n_in as usize => {
            for (i, gradient) in gradients.into_iter().enumerate() {
                if let Some(mut gradient) = gradient {
                    let pointer = gradient.as_mut_ptr() as *mut CTensor;
                    std::mem::forget(gradient); // the shim moves it out and deletes the shell
                    // SAFETY: `out` has `n_in` slots.
                    unsafe { *out.add(i) = pointer };
                }
            }
            return std::ptr::null_mut();
        }
        Ok(gradients) => {
            format!("backward returned {} gradients for {n_in} inputs", gradients.len())
        }
        Err(panic) => panic_message(panic.as_ref()),
    };
    // SAFETY: copies `len` bytes.
    unsafe { ffi::tunesmith_strdup(message.as_ptr().cast(), message.len()) }
}

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str));
    format!("panic in backward: {}", text.unwrap_or("(no message)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::{Device, Kind};

    fn square(x: &Tensor) -> Tensor {
        let y = tch::no_grad(|| x * x);
        let saved = x.detach();
        attach_node(c"square", &[x], &[&y], move |grads| {
            vec![grads[0].as_ref().map(|grad| grad * &saved * 2.0)]
        })
        .unwrap();
        y
    }

    #[test]
    fn gradient_flows_through_a_closure() {
        let x = Tensor::from_slice(&[1.0f32, -2.0, 3.0]).set_requires_grad(true);
        (square(&square(&x)).sum(Kind::Float)).backward();
        // d(x^4) = 4 x^3
        assert_eq!(Vec::<f32>::try_from(x.grad()).unwrap(), [4.0, -32.0, 108.0]);
    }

    #[test]
    fn second_backward_is_an_error() {
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let loss = square(&x).sum(Kind::Float);
        Tensor::f_run_backward(&[&loss], &[&x], true, false).unwrap();
        let error = Tensor::f_run_backward(&[&loss], &[&x], false, false).unwrap_err().to_string();
        assert!(error.contains("second backward through square"), "{error}");
    }

    #[test]
    fn panic_and_wrong_count_become_errors() {
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let y = tch::no_grad(|| x.shallow_clone() + 1.0);
        attach_node(c"bad", &[&x], &[&y], |_| panic!("no such gradient")).unwrap();
        let error = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&x], false, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("panic in backward: no such gradient"), "{error}");

        let y = tch::no_grad(|| x.shallow_clone() + 1.0);
        attach_node(c"short", &[&x], &[&y], |_| vec![]).unwrap();
        let error = Tensor::f_run_backward(&[y.sum(Kind::Float)], &[&x], false, false)
            .unwrap_err()
            .to_string();
        assert!(error.contains("returned 0 gradients for 1 inputs"), "{error}");
    }

    #[test]
    fn output_with_a_history_is_an_error() {
        let held = std::sync::Arc::new(());
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let (free, tracked) = (tch::no_grad(|| &x + 1.0), &x + 1.0);
        let closure = {
            let held = held.clone();
            move |_: &[Option<Tensor>]| {
                drop(held);
                vec![None]
            }
        };
        let error = attach_node(c"twice", &[&x], &[&free, &tracked], closure).unwrap_err();
        assert!(error.to_string().contains("twice: output 1 already has a history"), "{error}");
        assert!(!free.requires_grad(), "no output is touched");
        assert_eq!(std::sync::Arc::strong_count(&held), 1, "the closure is dropped");
    }

    #[test]
    fn unused_closure_is_dropped() {
        let flag = std::sync::Arc::new(());
        let held = flag.clone();
        let x = Tensor::ones([2], (Kind::Float, Device::Cpu));
        let y = &x + 1.0;
        attach_node(c"unused", &[&x], &[&y], move |_| {
            drop(held);
            vec![None]
        })
        .unwrap();
        assert_eq!(std::sync::Arc::strong_count(&flag), 1);
        assert!(!y.requires_grad());
    }
}
