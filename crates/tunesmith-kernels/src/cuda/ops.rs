//! The kernels as functions of tensors: same signatures and results as on the CPU.

use super::launch::{Arg, Grid, launch};
use crate::{LabelScores, element::rows, ffi};
use tch::{Kind, Tensor};

/// Enough blocks for any GPU of today to hide its memory's latency behind.
const BLOCKS: u64 = 2048;
pub(super) const THREADS: u32 = 256;

/// A block per row, with enough threads for a few packs each.
fn per_row(n: usize, c: usize) -> Grid {
    let threads = (c as u32).div_ceil(8).next_multiple_of(32).clamp(32, 1024);
    Grid { blocks: n as u32, threads, shared: 0 }
}

/// Blocks that stride over `n` elements, `at_once` per thread.
fn strided(n: usize, at_once: u64) -> Grid {
    let blocks = (n as u64).div_ceil(u64::from(THREADS) * at_once).min(BLOCKS) as u32;
    Grid { blocks, threads: THREADS, shared: 0 }
}

/// Elements of one 16-byte access.
fn pack(kind: Kind) -> u64 {
    if kind == Kind::BFloat16 { 8 } else { 4 }
}

/// Kernels read rows in packs where their width allows it; then the tensors must begin at 16 bytes, as all do but some
/// views.
fn packs(width: usize, tensors: &[&Tensor]) {
    let packed = tensors.iter().filter(|x| (width as u64).is_multiple_of(pack(x.kind())));
    let mut aligned = packed.map(|x| (x.data_ptr() as usize).is_multiple_of(16));
    assert!(aligned.all(|aligned| aligned), "a kernel's tensor begins at 16 bytes");
}

pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let ((n, c), device) = (rows(x), x.device());
    let (y, rstd) = (x.empty_like(), Tensor::empty([n as i64], (Kind::Float, device)));
    packs(c, &[x, weight]);
    let args = [
        Arg::Elements(x),
        Arg::Elements(weight),
        Arg::Elements(&y),
        Arg::Floats(&rstd),
        Arg::Int(c as i32),
        Arg::Float(eps as f32),
    ];
    launch(c"rms_norm", x.kind(), device, per_row(n, c), &args);
    (y, rstd)
}

pub(crate) fn rms_norm_backward(
    dy: &Tensor,
    x: &Tensor,
    weight: &Tensor,
    rstd: &Tensor,
    dx: &Tensor,
    want_weight: bool,
) -> Option<Tensor> {
    let ((n, c), device) = (rows(x), x.device());
    let blocks = (n as u64).min(BLOCKS / 4) as u32;
    let partial =
        want_weight.then(|| Tensor::empty([i64::from(blocks), c as i64], (Kind::Float, device)));
    let shared = if want_weight { 4 * c as u32 } else { 0 };
    let grid = Grid { blocks, shared, ..per_row(n, c) };
    let args = [
        Arg::Elements(dy),
        Arg::Elements(x),
        Arg::Elements(weight),
        Arg::Floats(rstd),
        Arg::Elements(dx),
        Arg::MaybeFloats(partial.as_ref()),
        Arg::Int(n as i32),
        Arg::Int(c as i32),
    ];
    launch(c"rms_norm_backward", x.kind(), device, grid, &args);
    partial.map(|partial| partial.sum_dim_intlist(&[0i64][..], false, Kind::Float))
}

pub(crate) fn rotate_(x: &Tensor, cos: &Tensor, sin: &Tensor, forward: bool) {
    let (_, d) = rows(x);
    let n = x.size()[0] as usize;
    let heads = x.numel() / (n * d).max(1);
    let sign = if forward { 1.0 } else { -1.0 };
    let args = [
        Arg::Elements(x),
        Arg::Elements(cos),
        Arg::Elements(sin),
        Arg::Int(heads as i32),
        Arg::Int(d as i32),
        Arg::Float(sign),
    ];
    launch(c"rotate", x.kind(), x.device(), per_row(n, heads * d / 2), &args);
}

pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    let (out, n) = (gate.empty_like(), gate.numel());
    packs(0, &[gate, up]);
    let [a, b, c] = [gate, up, &out].map(Arg::Elements);
    let grid = strided(n, pack(gate.kind()));
    launch(c"swiglu", gate.kind(), gate.device(), grid, &[a, b, c, Arg::Long(n as i64)]);
    out
}

pub(crate) fn swiglu_backward_(da: &Tensor, gate: &Tensor, up: &Tensor) {
    let n = gate.numel();
    packs(0, &[da, gate, up]);
    let [a, b, c] = [da, gate, up].map(Arg::Elements);
    let grid = strided(n, pack(gate.kind()));
    launch(c"swiglu_backward", gate.kind(), gate.device(), grid, &[a, b, c, Arg::Long(n as i64)]);
}

/// Labels are not checked here: a look at them would wait for the device. The batch was checked on the host.
pub(crate) fn label_scores(logits: &Tensor, labels: &Tensor) -> LabelScores {
    let ([n, v], device) = ([0, 1].map(|i| logits.size()[i]), logits.device());
    let [logprobs, lse] = [Kind::Float; 2].map(|kind| Tensor::empty([n], (kind, device)));
    let correct = Tensor::empty([n], (Kind::Bool, device));
    let args = [
        Arg::Elements(logits),
        Arg::Longs(labels),
        Arg::Floats(&logprobs),
        Arg::Floats(&lse),
        Arg::Flags(&correct),
        Arg::Int(v as i32),
    ];
    let grid = per_row(n as usize, v as usize);
    launch(c"label_scores", logits.kind(), device, grid, &args);
    LabelScores { logprobs, lse, correct }
}

pub(crate) fn label_scores_backward_(
    logits: &Tensor,
    labels: &Tensor,
    lse: &Tensor,
    grad: &Tensor,
) {
    let [n, v] = [0, 1].map(|i| logits.size()[i]);
    packs(v as usize, &[logits]);
    let args = [
        Arg::Elements(logits),
        Arg::Longs(labels),
        Arg::Floats(lse),
        Arg::Floats(grad),
        Arg::Int(v as i32),
    ];
    let grid = per_row(n as usize, v as usize);
    launch(c"label_scores_backward", logits.kind(), logits.device(), grid, &args);
}

/// The norms are summed by libtorch in fp32, in blocks; their squares are added in fp64.
pub(crate) fn square_sum(tensors: &[&Tensor]) -> f64 {
    let _no_grad = tch::no_grad_guard();
    let norms = ffi::norms(tensors).unwrap_or_else(|error| panic!("norms: {error}"));
    norms.to_kind(Kind::Double).square().sum(Kind::Double).double_value(&[])
}
