//! What the tests of kernels share: random tensors, and the distance of a kernel from its twin.

use tch::{Device, Kind, Tensor};

/// N(0, 1).
pub(crate) fn randn(shape: &[i64], kind: Kind) -> Tensor {
    Tensor::randn(shape, (Kind::Float, Device::Cpu)).to_kind(kind)
}

/// A detached copy that autograd follows.
pub(crate) fn leaf(x: &Tensor) -> Tensor {
    x.detach().copy().set_requires_grad(true)
}

/// Largest difference ÷ largest expected value: 1e-5 in fp32, 1e-2 in bf16 (by the dtype of `expected`).
pub(crate) fn assert_close(what: &str, found: &Tensor, expected: &Tensor) {
    let bound = if expected.kind() == Kind::BFloat16 { 1e-2 } else { 1e-5 };
    assert_within(what, found, expected, bound);
}

/// As [`assert_close`], with a bound of its own.
pub(crate) fn assert_within(what: &str, found: &Tensor, expected: &Tensor, bound: f64) {
    let (found, expected) = (found.to_kind(Kind::Double), expected.to_kind(Kind::Double));
    assert_eq!(found.size(), expected.size(), "{what}: shape");
    let scale = expected.abs().max().double_value(&[]).max(1e-30);
    let error = (&found - &expected).abs().max().double_value(&[]) / scale;
    assert!(error <= bound, "{what} differs by {error:e} relative, at most {bound:e} is allowed");
}
