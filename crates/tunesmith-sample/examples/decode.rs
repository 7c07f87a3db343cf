//! Greedy decoding, timed: tunesmith's half of `cargo xtask bench generate`.
//!
//! `decode <model dir> <fp32|bf16> <prompts.json> <new tokens> <times>`. The last line is one JSON object: the median
//! seconds of an answer to all prompts at once, reading included, and the tokens that were generated.
#![allow(clippy::print_stdout, reason = "stdout is the result")]

use anyhow::{Context, bail};
use std::{path::PathBuf, time::Instant};
use tch::{Device, Kind};
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_sample::{SamplerKnobs, generate};

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [model, kind, prompts, n_new, times] = &args[..] else {
        bail!("expected <model dir> <fp32|bf16> <prompts.json> <new tokens> <times>");
    };
    let kind = match kind.as_str() {
        "fp32" => Kind::Float,
        "bf16" => Kind::BFloat16,
        other => bail!("dtype: expected fp32 or bf16, found {other}"),
    };
    let (n_new, times): (usize, usize) = (n_new.parse()?, times.parse()?);
    let text = std::fs::read_to_string(prompts).with_context(|| format!("reading {prompts}"))?;
    let prompts: Vec<Vec<u32>> = serde_json::from_str(&text)?;
    tunesmith_kernels::use_fast_fp32_matmul()?;
    let model = Transformer::load(&PathBuf::from(model), LoadOptions::frozen(kind, Device::Cpu))?;
    let answer = |n: usize| {
        let knobs = SamplerKnobs { max_new_tokens: n, ..SamplerKnobs::default() };
        generate(&model, None, &prompts, &[], &knobs, &mut |_, _| ())
    };
    answer(4)?; // the first products are compiled
    let (mut seconds, mut n_tokens) = (Vec::new(), 0);
    for _ in 0..times {
        let begun = Instant::now();
        let answers = answer(n_new)?;
        seconds.push(begun.elapsed().as_secs_f64());
        n_tokens = answers.iter().map(|answer| answer.ids.len()).sum();
    }
    seconds.sort_by(f64::total_cmp);
    println!("{}", serde_json::json!({"seconds": seconds[times / 2], "tokens": n_tokens}));
    Ok(())
}
