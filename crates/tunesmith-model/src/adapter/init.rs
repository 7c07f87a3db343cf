//! PiSSA's beginning (Meng et al. 2024): the principal part of a weight.
//!
//! W = U S Vᵀ; with the r largest singular values, B = U √(S/s), A = √(S/s) Vᵀ, so that s·BA is the best approximation of
//! rank r. The layer then computes W x + s (B A − B₀ A₀) x: the same function and gradients as training BA on top of the
//! residual W − s·B₀A₀, while the base stays what it is.

use tch::{Kind, Tensor};

/// A (R, I) and B (O, R) of `w` (O, I).
pub(super) fn principal(w: &Tensor, rank: i64, scale: f64) -> (Tensor, Tensor) {
    tch::no_grad(|| {
        let (u, s, v) = w.to_kind(Kind::Float).svd(true, true);
        let root = (s.narrow(0, 0, rank) / scale).sqrt(); // (R)
        let a = root.unsqueeze(1) * v.narrow(1, 0, rank).tr();
        let b = u.narrow(1, 0, rank) * root.unsqueeze(0);
        (a.contiguous(), b.contiguous())
    })
}
