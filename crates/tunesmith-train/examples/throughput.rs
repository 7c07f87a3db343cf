//! Training steps on rows of ids, timed: tunesmith's half of `cargo xtask bench train`.
//!
//! `throughput <model dir> <fp32|bf16> <ids.json> <rows per step> <steps>`. Every token is trained. A line per step goes
//! to stderr; the last line of stdout is one JSON object: medians of all steps but the first, seconds from the start
//! of the process to the end of the first step, peak memory, the first loss.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout and stderr are the result")]

use anyhow::{Context, bail};
use std::{path::PathBuf, time::Instant};
use tch::{Device, Kind};
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Sft, step};

fn main() -> anyhow::Result<()> {
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

    let options = LoadOptions::trained(kind, Device::Cpu);
    let model = Transformer::load(&PathBuf::from(model), options)?;
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let (mut wall, mut cpu, mut losses, mut first) = (Vec::new(), Vec::new(), Vec::new(), 0.0);
    for i in 0..steps {
        let (begun, cpu_before) = (Instant::now(), Stat::read()?.cpu);
        let examples: Vec<Example> = (0..per_step)
            .map(|j| rows[(i * per_step + j) % rows.len()].clone())
            .map(|ids| Example { trained: vec![true; ids.len()], ids, ..Example::default() })
            .collect();
        let batch = Batch::new(&examples);
        let outcome = step(&model, &mut optimizer, &Sft, &[batch], 1e-5, 0)?;
        wall.push(begun.elapsed().as_secs_f64());
        cpu.push(Stat::read()?.cpu - cpu_before);
        losses.push(outcome.loss);
        if i == 0 {
            first = Stat::read()?.since_start;
        }
        let (seconds, rss) = (wall[i], status_mib("VmRSS:")?);
        eprintln!("step {i}  loss {:.6}  {seconds:.3} s  {rss} MiB", outcome.loss);
    }
    let figures = serde_json::json!({
        "seconds": median(&wall[1..]),
        "cpu_seconds": median(&cpu[1..]),
        "tokens": per_step * rows[0].len(),
        "first_step": first,
        "peak_mib": status_mib("VmHWM:")?,
        "loss": losses[0],
    });
    println!("{figures}");
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n => (sorted[(n - 1) / 2] + sorted[n / 2]) / 2.0,
    }
}

/// What the kernel counts of this process, in seconds.
struct Stat {
    cpu: f64,
    since_start: f64,
}

impl Stat {
    fn read() -> anyhow::Result<Self> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let seconds = |i: usize| -> anyhow::Result<f64> { Ok(fields[i].parse::<f64>()? / 100.0) };
        let uptime = std::fs::read_to_string("/proc/uptime")?;
        let uptime: f64 = uptime.split_whitespace().next().context("no uptime")?.parse()?;
        Ok(Self { cpu: seconds(11)? + seconds(12)?, since_start: uptime - seconds(19)? })
    }
}

/// A line of `/proc/self/status`, in MiB.
fn status_mib(field: &str) -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.split_whitespace().next().context("no number")?.parse::<u64>()? / 1024)
}
