//! What no step can beat here: matrix products of the models' shapes, and copies.

use crate::{Bench, Deadline};
use serde_json::json;
use tch::{Kind, Tensor};

/// Tokens, inputs, outputs.
const PRODUCTS: [(&str, [i64; 3]); 7] = [
    ("square 8192", [8192, 8192, 8192]),
    ("0.6B gate", [16_384, 1024, 3072]),
    ("1B q", [16_384, 2048, 2048]),
    ("1B gate", [16_384, 2048, 8192]),
    ("1B head", [4096, 2048, 128_256]),
    ("8B gate", [16_384, 4096, 14_336]),
    ("8B down", [16_384, 14_336, 4096]),
];

pub(crate) fn run(bench: &mut Bench, deadline: Deadline) -> anyhow::Result<()> {
    let _no_grad = tch::no_grad_guard();
    let to = (Kind::BFloat16, bench.device);
    let mut peak = 0.0f64;
    for (what, shape) in PRODUCTS {
        if deadline.over() {
            anyhow::bail!("the time was over before {what}");
        }
        let [n, n_in, n_out] = if bench.dry { shape.map(|n| n / 256) } else { shape };
        // Random: products of zeros run faster than real ones.
        let (x, w) = (Tensor::randn([n, n_in], to), Tensor::randn([n_out, n_in], to));
        let seconds = bench.seconds_of(10, || _ = x.linear(&w, None::<&Tensor>));
        let tflops = 2.0 * (n * n_in * n_out) as f64 / seconds / 1e12;
        peak = peak.max(tflops);
        bench
            .report
            .row("floors", json!({"what": what, "milliseconds": seconds * 1e3, "TFLOP/s": tflops}));
    }
    bench.report.row("floors", json!({"what": "peak", "TFLOP/s": peak}));
    let n = if bench.dry { 1 << 16 } else { 1 << 31 };
    let (from, mut into) = (Tensor::randn([n], to), Tensor::empty([n], to));
    let seconds = bench.seconds_of(5, || into.copy_(&from));
    // Read and written.
    let bandwidth = 4.0 * n as f64 / seconds / 1e9;
    bench
        .report
        .row("floors", json!({"what": "copy", "milliseconds": seconds * 1e3, "GB/s": bandwidth}));
    Ok(())
}
