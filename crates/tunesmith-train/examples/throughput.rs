//! Training steps on rows of ids, timed: tunesmith's half of `cargo xtask bench train`.
//!
//! `throughput <model dir> <fp32|bf16> <ids.json> <rows per step> <steps>` prints one JSON object per step: its
//! seconds, loss, and the process's peak memory so far. `ids.json` holds rows of equal length; every token is trained.
#![allow(clippy::print_stdout, reason = "stdout is the result")]

use anyhow::{Context, bail};
use std::{path::PathBuf, time::Instant};
use tch::{Device, Kind};
use tunesmith_model::{LoadOptions, Trainable, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Sft, step};

fn main() -> anyhow::Result<()> {
    let started = Instant::now();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, kind, ids, per_step, steps] = &args[..] else {
        bail!("expected <model dir> <fp32|bf16> <ids.json> <rows per step> <steps>");
    };
    let kind = match kind.as_str() {
        "fp32" => Kind::Float,
        "bf16" => Kind::BFloat16,
        other => bail!("dtype: expected fp32 or bf16, found {other}"),
    };
    let (per_step, steps): (usize, usize) = (per_step.parse()?, steps.parse()?);
    let text = std::fs::read_to_string(ids).with_context(|| format!("reading {ids}"))?;
    let rows: Vec<Vec<u32>> = serde_json::from_str(&text)?;
    tunesmith_kernels::use_fast_fp32_matmul()?;

    let options = LoadOptions { kind, device: Device::Cpu, trainable: Trainable::Everything };
    let model = Transformer::load(&PathBuf::from(model), options)?;
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    for i in 0..steps {
        let begun = Instant::now();
        let examples: Vec<Example> = (0..per_step)
            .map(|j| rows[(i * per_step + j) % rows.len()].clone())
            .map(|ids| Example { trained: vec![true; ids.len()], ids, ..Example::default() })
            .collect();
        let batch = Batch::new(&examples);
        let outcome = step(&model, &mut optimizer, &Sft, &[batch], 1e-5, 0)?;
        println!(
            "{}",
            serde_json::json!({
                "step": i,
                "seconds": begun.elapsed().as_secs_f64(),
                "since_start": started.elapsed().as_secs_f64(),
                "tokens": examples.iter().map(|e| e.ids.len()).sum::<usize>(),
                "loss": outcome.loss,
                "grad_norm": outcome.grad_norm,
                "peak_mib": status_mib("VmHWM:")?,
                "rss_mib": status_mib("VmRSS:")?,
            })
        );
    }
    Ok(())
}

/// A line of `/proc/self/status`, in MiB.
fn status_mib(field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? / 1024)
}
