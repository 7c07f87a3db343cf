//! The kernels as functions of tensors: same signatures and results as on the CPU.

use super::launch::{Arg, Grid, launch};
use crate::{AdamWStep, LabelScores, element::rows};
use tch::{Kind, Tensor};

/// Enough blocks for any GPU of today to hide its memory's latency behind.
const BLOCKS: u64 = 2048;
const THREADS: u32 = 256;

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

fn pack(kind: Kind) -> u64 {
    if kind == Kind::BFloat16 { 8 } else { 4 }
}

pub(crate) fn rms_norm(x: &Tensor, weight: &Tensor, eps: f64) -> (Tensor, Tensor) {
    let ((n, c), device) = (rows(x), x.device());
    let (y, rstd) = (x.empty_like(), Tensor::empty([n as i64], (Kind::Float, device)));
    let mut args: [Arg; 6] = [
        x.into(),
        weight.into(),
        (&y).into(),
        (&rstd).into(),
        Arg::Int(c as i32),
        Arg::Float(eps as f32),
    ];
    launch(c"rms_norm", x.kind(), device, per_row(n, c), &mut args);
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
    let mut args: [Arg; 8] = [
        dy.into(),
        x.into(),
        weight.into(),
        rstd.into(),
        dx.into(),
        partial.as_ref().into(),
        Arg::Int(n as i32),
        Arg::Int(c as i32),
    ];
    launch(c"rms_norm_backward", x.kind(), device, grid, &mut args);
    partial.map(|partial| partial.sum_dim_intlist(&[0i64][..], false, Kind::Float))
}

pub(crate) fn rotate_(x: &Tensor, cos: &Tensor, sin: &Tensor, forward: bool) {
    let (_, d) = rows(x);
    let n = x.size()[0] as usize;
    let heads = x.numel() / (n * d).max(1);
    let sign = if forward { 1.0 } else { -1.0 };
    let mut args: [Arg; 6] = [
        x.into(),
        cos.into(),
        sin.into(),
        Arg::Int(heads as i32),
        Arg::Int(d as i32),
        Arg::Float(sign),
    ];
    launch(c"rotate", x.kind(), x.device(), per_row(n, heads * d / 2), &mut args);
}

pub(crate) fn swiglu(gate: &Tensor, up: &Tensor) -> Tensor {
    let (out, n) = (gate.empty_like(), gate.numel());
    let mut args: [Arg; 4] = [gate.into(), up.into(), (&out).into(), Arg::Long(n as i64)];
    launch(c"swiglu", gate.kind(), gate.device(), strided(n, pack(gate.kind())), &mut args);
    out
}

pub(crate) fn swiglu_backward_(da: &Tensor, gate: &Tensor, up: &Tensor) {
    let n = gate.numel();
    let mut args: [Arg; 4] = [da.into(), gate.into(), up.into(), Arg::Long(n as i64)];
    let grid = strided(n, pack(gate.kind()));
    launch(c"swiglu_backward", gate.kind(), gate.device(), grid, &mut args);
}

/// Labels are not checked here: a look at them would wait for the device. The batch was checked on the host.
pub(crate) fn label_scores(logits: &Tensor, labels: &Tensor) -> LabelScores {
    let ([n, v], device) = ([0, 1].map(|i| logits.size()[i]), logits.device());
    let [logprobs, lse] = [Kind::Float; 2].map(|kind| Tensor::empty([n], (kind, device)));
    let correct = Tensor::empty([n], (Kind::Bool, device));
    let mut args: [Arg; 6] = [
        logits.into(),
        labels.into(),
        (&logprobs).into(),
        (&lse).into(),
        (&correct).into(),
        Arg::Int(v as i32),
    ];
    let grid = per_row(n as usize, v as usize);
    launch(c"label_scores", logits.kind(), device, grid, &mut args);
    LabelScores { logprobs, lse, correct }
}

pub(crate) fn label_scores_backward_(
    logits: &Tensor,
    labels: &Tensor,
    lse: &Tensor,
    grad: &Tensor,
) {
    let [n, v] = [0, 1].map(|i| logits.size()[i]);
    let mut args: [Arg; 5] =
        [logits.into(), labels.into(), lse.into(), grad.into(), Arg::Int(v as i32)];
    let grid = per_row(n as usize, v as usize);
    launch(c"label_scores_backward", logits.kind(), logits.device(), grid, &mut args);
}

pub(crate) fn adamw_(
    weight: &Tensor,
    rounded: Option<&Tensor>,
    grad: &Tensor,
    [exp_avg, exp_avg_sq]: [&Tensor; 2],
    step: &AdamWStep,
) {
    let n = weight.numel();
    let mut args: [Arg; 13] = [
        weight.into(),
        rounded.into(),
        grad.into(),
        exp_avg.into(),
        exp_avg_sq.into(),
        Arg::Long(n as i64),
        Arg::Float(step.clip as f32),
        Arg::Float(step.beta1 as f32),
        Arg::Float(step.beta2 as f32),
        Arg::Float(step.eps as f32),
        Arg::Float((1.0 - step.lr * step.weight_decay) as f32),
        Arg::Float((step.lr / (1.0 - step.beta1.powi(step.t))) as f32),
        Arg::Float((1.0 / (1.0 - step.beta2.powi(step.t)).sqrt()) as f32),
    ];
    // The copy is bf16 if it is there at all.
    launch(c"adamw", Kind::BFloat16, weight.device(), strided(n, 1), &mut args);
}
