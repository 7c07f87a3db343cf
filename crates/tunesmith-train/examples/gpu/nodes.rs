//! The coarse nodes on this device against their plain twins: a small model's hidden states, scores and every gradient.
//!
//! Both sides compute in the same dtype, so in bf16 each is off by its own roundings; the bound is that of two layers.

use crate::{
    Bench, Deadline,
    check::{Check, bound},
    shapes::{Shape, TINY},
};
use anyhow::bail;
use tch::{Kind, Tensor};
use tunesmith_model::{LoadOptions, LoraConfig, Modules, Pass, Ragged, Recompute, Transformer};

/// Two layers with heads that flash attention takes, norms of q and k, and a head of its own.
const SMALL: Shape = Shape::new(
    "small",
    r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":1003,"hidden_size":256,"intermediate_size":520,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":64,"rms_norm_eps":1e-6,
        "tie_word_embeddings":false,"initializer_range":0.05}"#,
);

pub(crate) fn run(bench: &mut Bench, deadline: Deadline) -> anyhow::Result<()> {
    let mut check = Check { device: bench.device, rows: Vec::new(), far: Vec::new() };
    for (shape, kind, lora, recompute) in [
        (&SMALL, Kind::Float, false, Recompute::None),
        (&SMALL, Kind::BFloat16, false, Recompute::None),
        (&SMALL, Kind::BFloat16, false, Recompute::Blocks),
        (&SMALL, Kind::BFloat16, true, Recompute::None),
        (&TINY, Kind::Float, true, Recompute::None),
    ] {
        if deadline.over() {
            bail!("the time was over after {} comparisons", check.rows.len());
        }
        let mut model =
            Transformer::drawn(shape.config()?, LoadOptions::trained(kind, bench.device));
        if lora {
            let all = Modules::Pattern("all-linear".into());
            let config = LoraConfig { r: 8, target_modules: all, ..LoraConfig::default() };
            model.add_adapter(&config, 1, true)?;
            // A fresh B is zero, and so would be the gradient of A.
            for param in model.params().iter().filter(|param| param.name.contains("lora_B")) {
                let _ = tch::no_grad(|| param.tensor.shallow_clone().normal_(0.0, 0.05));
            }
        }
        let what = format!(
            "{}{}{}",
            shape.name,
            if lora { ", LoRA" } else { "" },
            if recompute > Recompute::None { ", recomputed" } else { "" }
        );
        model.recompute = recompute;
        compare(&mut check, &model, &what)?;
    }
    let Check { rows, far, .. } = check;
    rows.into_iter().for_each(|row| bench.report.row("nodes", row));
    if !far.is_empty() {
        bail!("too far from their twins: {}", far.join(", "));
    }
    Ok(())
}

fn compare(check: &mut Check, model: &Transformer, what: &str) -> anyhow::Result<()> {
    let (device, vocab_size) = (model.device(), model.config.vocab_size as u32);
    let ids: Vec<u32> = (0..200u32).map(|i| (i * i * 31 + 7) % vocab_size).collect();
    let ragged = Ragged::new(&[&ids[..70], &ids[70..71], &ids[71..]], device);
    let labels = Tensor::randint(i64::from(vocab_size), [200], (Kind::Int64, device));
    let params: Vec<_> = model.params().iter().filter(|param| param.trainable()).collect();
    let leaves: Vec<&Tensor> = params.iter().map(|param| &param.tensor).collect();
    let pass = |plain: bool| -> anyhow::Result<(Tensor, Tensor, Vec<Tensor>)> {
        let mut pass = Pass { plain, ..Pass::default() };
        let hidden = model.hidden(&ragged, &mut pass)?;
        let scores = model.head().score(&hidden, &labels, &pass).logprobs;
        let loss = -scores.mean(Kind::Float);
        for (param, grad) in
            params.iter().zip(Tensor::f_run_backward(&[&loss], &leaves, false, false)?)
        {
            if grad.defined() {
                param.main_grad().accumulate(&grad);
            }
        }
        let grads = params.iter().map(|param| param.main_grad().take().unwrap_or_default());
        Ok((hidden.detach(), scores.detach(), grads.collect()))
    };
    let (hidden, scores, found) = pass(false)?;
    let (plain_hidden, plain_scores, expected) = pass(true)?;
    let kind = model.kind();
    let limit = if kind == Kind::Float { bound(kind) } else { 3.0 * bound(kind) };
    check.close(
        what,
        kind,
        limit,
        &[("hidden", &hidden, &plain_hidden), ("scores", &scores, &plain_scores)],
    );
    // All gradients as one vector: in bf16 the small ones are roundings.
    let flat = |grads: &[Tensor]| {
        Tensor::cat(&grads.iter().map(|g| g.flatten(0, -1)).collect::<Vec<_>>(), 0)
    };
    for (param, (found, expected)) in params.iter().zip(found.iter().zip(&expected)) {
        if found.size() != expected.size() {
            bail!("{what}: {}: {:?} instead of {:?}", param.name, found.size(), expected.size());
        }
    }
    check.close(what, kind, limit, &[("gradients", &flat(&found), &flat(&expected))]);
    Ok(())
}
