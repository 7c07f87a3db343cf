//! What coarse nodes share: when they apply, and how they enter the autograd graph.

use crate::Pass;
use std::ffi::CStr;
use tch::Tensor;
use tunesmith_kernels::{attach_node, supports};

/// Whether kernels can compute on `x` in this pass.
pub(crate) fn fits(x: &Tensor, pass: &Pass) -> bool {
    !pass.plain && supports(x)
}

/// Makes `y` a function of `x` and of the trainable `leaves`, whose gradients `backward` puts where they belong.
/// It gets dy, contiguous, and whether dx is wanted.
pub(crate) fn attach(
    label: &CStr,
    x: &Tensor,
    leaves: &[Tensor],
    y: &Tensor,
    backward: impl FnOnce(&Tensor, bool) -> Option<Tensor> + Send + 'static,
) {
    let inputs: Vec<&Tensor> = std::iter::once(x).chain(leaves).collect();
    let (n_inputs, want_dx) = (inputs.len(), x.requires_grad());
    let attached = attach_node(label, &inputs, &[y], move |grads| {
        let mut gradients: Vec<Option<Tensor>> = (0..n_inputs).map(|_| None).collect();
        if let Some(dy) = &grads[0] {
            gradients[0] = backward(&dy.contiguous(), want_dx);
        }
        gradients
    });
    // Refused only where `y` has a history already: a bug of the node that made it.
    attached.unwrap_or_else(|error| panic!("{}: {error}", label.to_string_lossy()));
}
