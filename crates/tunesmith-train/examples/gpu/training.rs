//! Training steps of whole models with random weights, bf16, every token trained: tokens/s, share of the peak, memory.

use crate::{
    Bench, Deadline,
    shapes::{self, LLAMA_1B, LLAMA_8B, QWEN3_0_6B, Shape, TINY},
};
use serde_json::json;
use std::time::Instant;
use tch::{Device, Kind};
use tunesmith_kernels::cuda;
use tunesmith_model::{LoadOptions, LoraConfig, Modules, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Sft, step};

/// Tokens of a document.
const LENGTH: usize = 2048;
/// Steps that are not timed: kernels are compiled, memory is found.
const WARM_UP: usize = 5;
/// The most that are.
const STEPS: usize = 50;
/// Dense bf16 of an H100 or H200 SXM by its datasheet, TFLOP/s.
const DATASHEET: f64 = 989.0;

/// A model and how it is trained.
pub(crate) struct Job {
    shape: &'static Shape,
    lora: bool,
    /// Documents per step, read at once.
    documents: usize,
}

/// The first three are those that are most wanted.
pub(crate) const JOBS: [Job; 6] = [
    Job { shape: &LLAMA_1B, lora: false, documents: 8 },
    Job { shape: &QWEN3_0_6B, lora: true, documents: 8 },
    Job { shape: &LLAMA_8B, lora: true, documents: 8 },
    Job { shape: &LLAMA_1B, lora: true, documents: 8 },
    Job { shape: &QWEN3_0_6B, lora: false, documents: 8 },
    Job { shape: &LLAMA_8B, lora: false, documents: 1 },
];

impl Job {
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.shape.name, if self.lora { "LoRA r16" } else { "full" })
    }
}

pub(crate) fn run(bench: &mut Bench, job: &Job, deadline: Deadline) -> anyhow::Result<()> {
    let shape = if bench.dry { &TINY } else { job.shape };
    let (length, documents) = if bench.dry { (24, 2) } else { (LENGTH, job.documents) };
    let config = shape.config()?;
    let tokens = length * documents;
    if let Some(why) = too_large(bench, shapes::n_weights(&config), job) {
        bench
            .report
            .row("training", json!({"what": job.name(), "tokens/step": tokens, "note": why}));
        return Ok(());
    }
    let (vocab_size, flops) =
        (config.vocab_size as u64, shapes::flops_per_token(&config, job.lora, length as f64));
    let trained = if job.lora { LoadOptions::frozen } else { LoadOptions::trained };
    let mut model = Transformer::drawn(config, trained(Kind::BFloat16, bench.device));
    if job.lora {
        let all = Modules::Pattern("all-linear".into());
        let lora = LoraConfig { r: 16, alpha: 16.0, target_modules: all, ..LoraConfig::default() };
        model.add_adapter(&lora, 1, true)?;
    }
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let (warm_up, steps) = if bench.dry { (1, 2) } else { (WARM_UP, STEPS) };
    let (mut ends, mut losses) = (Vec::new(), Vec::new()); // seconds since the end of the warm-up
    let mut begun = Instant::now();
    for i in 0..warm_up + steps {
        let batch = batch(i as u64, documents, length, vocab_size);
        losses.push(step(&model, &mut optimizer, &Sft, &[batch], 1e-5, 0)?.loss);
        if i + 1 < warm_up {
            continue;
        }
        if i + 1 == warm_up {
            bench.wait();
            begun = Instant::now();
            continue;
        }
        ends.push(begun.elapsed().as_secs_f64());
        if deadline.over() {
            break;
        }
    }
    bench.wait(); // the last update
    let total = begun.elapsed().as_secs_f64();
    let n_steps = ends.len();
    let mut seconds: Vec<f64> = ends.windows(2).map(|pair| pair[1] - pair[0]).collect();
    seconds.sort_by(f64::total_cmp);
    let median = seconds.get(seconds.len() / 2).copied();
    let tokens_per_s = (tokens * n_steps) as f64 / total;
    let tflops = tokens_per_s * flops / 1e12;
    let peak = bench.report.figure("floors", "peak", "TFLOP/s");
    let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
    let memory = match bench.device {
        Device::Cuda(index) => cuda::memory(index)?,
        _ => cuda::Memory::default(),
    };
    let row = json!({
        "what": job.name(),
        "tokens/step": tokens,
        "steps": n_steps,
        "tokens/s": tokens_per_s.round(),
        "median step s": median,
        "MFU of 989 %": 100.0 * tflops / DATASHEET,
        "of measured peak %": peak.map(|peak| 100.0 * tflops / peak),
        "floor tokens/s": peak.map(|peak| (peak * 1e12 / flops).round()),
        "peak GiB": gib(memory.peak_allocated),
        "reserved GiB": gib(memory.peak_reserved),
        "first loss": losses[0],
        "last loss": losses[losses.len() - 1],
    });
    bench.report.row("training", row);
    Ok(())
}

/// Why the model cannot be trained here, by what it surely needs: bf16 weights, and 16 bytes more where they are trained
/// (master, two moments and gradient in fp32), beside 8 GiB for the rest.
fn too_large(bench: &Bench, n_weights: f64, job: &Job) -> Option<String> {
    let Device::Cuda(index) = bench.device else { return None };
    let needed = n_weights * if job.lora { 2.0 } else { 18.0 } + 8.0 * f64::from(1 << 30);
    let total = cuda::memory(index).ok()?.total as f64;
    (needed > total)
        .then(|| format!("left out: {:.0} GB needed, {:.0} there", needed / 1e9, total / 1e9))
}

/// Documents of ids that look random, others in every step (SplitMix64, Steele et al. 2014).
fn batch(step: u64, documents: usize, length: usize, vocab_size: u64) -> Batch {
    let mut state = step << 32;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((x ^ (x >> 31)) % vocab_size) as u32
    };
    let examples: Vec<Example> = (0..documents)
        .map(|_| (0..length).map(|_| next()).collect::<Vec<u32>>())
        .map(|ids| Example { trained: vec![true; length], ids, ..Example::default() })
        .collect();
    Batch::new(&examples)
}
