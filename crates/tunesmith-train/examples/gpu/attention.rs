//! Attention over packed documents: FlashAttention-2, which blocks use, beside cuDNN's ragged form and dense attention
//! over documents of one length, forward and backward.

use crate::{Bench, Deadline, seconds_of};
use anyhow::Context;
use serde_json::json;
use tch::{Kind, Tensor};
use tunesmith_kernels::{self as kernels, AttentionShape, cuda::CudnnAttention};

/// Heads of 1B and of 8B: H, K, D.
const HEADS: [(&str, [i64; 3]); 2] = [("D 64", [32, 8, 64]), ("D 128", [32, 8, 128])];

pub(crate) fn run(bench: &mut Bench, deadline: Deadline) -> anyhow::Result<()> {
    let device = bench.device;
    let mut notes = Vec::new();
    for (what, [h, k, d]) in HEADS {
        let (docs, length) = if bench.dry { (2, 16) } else { (8, 2048) };
        let n = docs * length;
        let to = (Kind::BFloat16, device);
        let [q, dout] = [(); 2].map(|()| Tensor::randn([n, h, d], to));
        let [k, v] = [(); 2].map(|()| Tensor::randn([n, k, d], to));
        let scale = 1.0 / (d as f64).sqrt();
        let shape = AttentionShape::new(vec![length; docs as usize], scale);
        // The lower half of the scores; the backward pass has 5 products where the forward pass has 2.
        let flops = 4.0 * (n * h * d) as f64 * length as f64 / 2.0;
        let mut row = |way: &str, seconds: [f64; 2], error: Option<f64>| {
            let [forward, backward] = [flops / seconds[0] / 1e12, 2.5 * flops / seconds[1] / 1e12];
            bench.report.row(
                "attention",
                json!({"what": format!("{what} {way}"), "forward TFLOP/s": forward, "backward TFLOP/s": backward,
                    "from FA2": error}),
            );
        };
        let no_grad = tch::no_grad_guard();
        let (out, lse) = kernels::attention(&q, &k, &v, &shape);
        let forward = seconds_of(device, 5, &mut || _ = kernels::attention(&q, &k, &v, &shape));
        let backward = seconds_of(device, 5, &mut || {
            let _ = kernels::attention_backward(&dout, &q, &k, &v, &out, &lse, &shape);
        });
        row("FA2 varlen", [forward, backward], None);
        if device.is_cuda() {
            let mut cudnn = || -> anyhow::Result<()> {
                let theirs = CudnnAttention::forward([&q, &k, &v], &shape)?;
                let _ = theirs.backward(&dout)?;
                let forward = seconds_of(device, 5, &mut || {
                    let _ = CudnnAttention::forward([&q, &k, &v], &shape);
                });
                let backward = seconds_of(device, 5, &mut || _ = theirs.backward(&dout));
                let far = (&theirs.out - &out).norm() / out.norm();
                row("cuDNN varlen", [forward, backward], Some(far.double_value(&[])));
                Ok(())
            };
            // It may not be there: libtorch itself does not choose it. That is a finding and not a failure.
            if let Err(error) = cudnn() {
                let note = error.to_string().lines().next().unwrap_or_default().to_owned();
                notes.push(json!({"what": format!("{what} cuDNN varlen"), "note": note}));
            }
        }
        drop(no_grad);
        let dense = |x: &Tensor| {
            x.view([docs, length, -1, d]).transpose(1, 2).detach().set_requires_grad(true)
        };
        let leaves = [&q, &k, &v].map(dense);
        let attend = || {
            let [q, k, v] = &leaves;
            Tensor::scaled_dot_product_attention(q, k, v, None::<&Tensor>, 0.0, true, scale, true)
        };
        let up = dout.view([docs, length, -1, d]).transpose(1, 2);
        let forward = seconds_of(device, 5, &mut || tch::no_grad(|| _ = attend()));
        let both = seconds_of(device, 5, &mut || {
            let loss = (attend() * &up).sum(Kind::Float);
            Tensor::run_backward(&[loss], &leaves, false, false);
        });
        let far = (attend().transpose(1, 2).reshape([n, h, d]) - &out).norm() / out.norm();
        row("dense, libtorch's choice", [forward, both - forward], Some(far.double_value(&[])));
        if deadline.over() {
            anyhow::bail!("the time was over after {what}");
        }
    }
    notes.into_iter().for_each(|row| bench.report.row("cuDNN", row));
    bench.report.figure("attention", "D 64 FA2 varlen", "forward TFLOP/s").context("no figures")?;
    Ok(())
}
