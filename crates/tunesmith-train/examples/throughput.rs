//! Training steps on rows of ids, timed: tunesmith's half of `cargo xtask bench train`.
//!
//! `throughput <model dir> <fp32|bf16> <full|lora> <ids.json> <rows per step> <steps>`. Every token is trained; `lora` is
//! rank 16, alpha 32, on all linear layers. A line per step goes to stderr; the last line of stdout is one JSON object:
//! medians of all steps but the first, seconds from the start of the process to the end of the first step, peak memory,
//! the first loss, and the useful work of a token beside what matrix products alone reach here.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "stdout and stderr are the result")]

use anyhow::{Context, bail};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, LoraConfig, Modules, Role, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Sft, step};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, kind, what, ids, per_step, steps] = &args[..] else {
        bail!("expected <model dir> <fp32|bf16> <full|lora> <ids.json> <rows per step> <steps>");
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

    let model = load(&PathBuf::from(model), kind, what)?;
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
        "flop_per_token": flop_per_token(&model, what == "lora", rows[0].len()),
        "matmul_flop_per_s": matmul_peak(&model.config, kind),
    });
    println!("{figures}");
    Ok(())
}

fn load(dir: &std::path::Path, kind: Kind, what: &str) -> anyhow::Result<Transformer> {
    Ok(match what {
        "full" => Transformer::load(dir, LoadOptions::trained(kind, Device::Cpu))?,
        "lora" => {
            let mut model = Transformer::load(dir, LoadOptions::frozen(kind, Device::Cpu))?;
            let target_modules = Modules::Pattern("all-linear".into());
            let lora = LoraConfig { r: 16, alpha: 32.0, target_modules, ..LoraConfig::default() };
            model.add_adapter(&lora, 0, true)?;
            model
        }
        other => bail!("what is trained: expected full or lora, found {other}"),
    })
}

/// Useful work: 6 N (full) or 4 N (the base is frozen), N the weights that take part in matrix products, and three causal
/// attention passes. What is computed twice does not count.
fn flop_per_token(model: &Transformer, lora: bool, row_tokens: usize) -> f64 {
    let matrices = model.base_params().iter().filter(|p| match p.role {
        Role::Embedding => model.config.tie_word_embeddings,
        role => matches!(role, Role::Projection | Role::Head),
    });
    let n: usize = matrices.map(|p| p.tensor.numel()).sum();
    let Config { n_head, head_dim, n_layer, .. } = model.config;
    let attention = 4 * n_head * head_dim * (row_tokens as i64 / 2) * n_layer as i64;
    (if lora { 4.0 } else { 6.0 }) * n as f64 + 3.0 * attention as f64
}

/// The best rate of a matrix product of this model's shapes, 1,024 rows.
fn matmul_peak(config: &Config, kind: Kind) -> f64 {
    let (c, i) = (config.hidden_size, config.intermediate_size);
    let random = |m, n| Tensor::randn([m, n], (Kind::Float, Device::Cpu)).to_kind(kind);
    let rate = |k: i64, n: i64| {
        let (x, w, begun, mut times) = (random(1024, k), random(n, k), Instant::now(), 0.0);
        while begun.elapsed() < Duration::from_millis(300) {
            let _ = x.linear::<Tensor>(&w, None);
            times += 1.0;
        }
        2.0 * 1024.0 * (k * n) as f64 * times / begun.elapsed().as_secs_f64()
    };
    [(c, c), (c, i), (i, c)].map(|(k, n)| rate(k, n)).into_iter().fold(0.0, f64::max)
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
