//! The models that are measured, and what a token costs them.
//!
//! Useful work of a token (the convention of the figures in docs/benchmarks/gpu.md): 6 N floating-point operations where
//! everything is trained, 4 N under LoRA (frozen weights have no gradient), N the weights of all matrix products, the head
//! among them and the input embedding not; and 3 times causal attention forward, 4 · H · D · (s/2) per layer.
//! What is computed twice counts once.

use anyhow::{Context, bail};
use tunesmith_model::Config;

/// A model of the literature, by the numbers of its config.json.
#[derive(Debug)]
pub(crate) struct Shape {
    pub(crate) name: &'static str,
    json: &'static str,
}

pub(crate) const QWEN3_0_6B: Shape = Shape {
    name: "0.6B",
    json: r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":151936,"hidden_size":1024,"intermediate_size":3072,
        "num_hidden_layers":28,"num_attention_heads":16,"num_key_value_heads":8,"head_dim":128,"rms_norm_eps":1e-6,
        "rope_theta":1000000,"max_position_embeddings":40960,"tie_word_embeddings":true}"#,
};
pub(crate) const LLAMA_1B: Shape = Shape {
    name: "1B",
    json: r#"{"model_type":"llama","hidden_act":"silu","vocab_size":128256,"hidden_size":2048,"intermediate_size":8192,
        "num_hidden_layers":16,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":64,"rms_norm_eps":1e-5,
        "rope_theta":500000,"max_position_embeddings":131072,"tie_word_embeddings":true}"#,
};
pub(crate) const LLAMA_8B: Shape = Shape {
    name: "8B",
    json: r#"{"model_type":"llama","hidden_act":"silu","vocab_size":128256,"hidden_size":4096,"intermediate_size":14336,
        "num_hidden_layers":32,"num_attention_heads":32,"num_key_value_heads":8,"head_dim":128,"rms_norm_eps":1e-5,
        "rope_theta":500000,"max_position_embeddings":131072,"tie_word_embeddings":false}"#,
};
/// What a dry run reads instead, with an odd width.
pub(crate) const TINY: Shape = Shape {
    name: "tiny",
    json: r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":211,"hidden_size":40,"intermediate_size":72,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"head_dim":16,"rms_norm_eps":1e-6,
        "tie_word_embeddings":true,"initializer_range":0.1}"#,
};

impl Shape {
    pub(crate) const fn new(name: &'static str, json: &'static str) -> Self {
        Self { name, json }
    }

    pub(crate) fn config(&self) -> anyhow::Result<Config> {
        let dir = std::env::temp_dir().join(format!(
            "tunesmith-gpu-{}-{}",
            std::process::id(),
            self.name
        ));
        std::fs::create_dir_all(&dir)?;
        std::fs::write(dir.join("config.json"), self.json)?;
        let config = Config::from_dir(&dir).with_context(|| format!("the shape {}", self.name));
        std::fs::remove_dir_all(&dir)?;
        config
    }
}

/// Weights of all matrix products, with the head and without the embedding.
pub(crate) fn n_matmul(config: &Config) -> f64 {
    let Config {
        hidden_size: c, intermediate_size: i, n_head: h, n_kv_head: k, head_dim: d, ..
    } = *config;
    let block = 2 * c * h * d + 2 * c * k * d + 3 * c * i;
    (config.n_layer as i64 * block + config.vocab_size * c) as f64
}

/// All weights: those, the embedding where the head is not it, and the norms left out.
pub(crate) fn n_weights(config: &Config) -> f64 {
    let embedding = (config.vocab_size * config.hidden_size) as f64;
    n_matmul(config) + if config.tie_word_embeddings { 0.0 } else { embedding }
}

/// Useful floating-point operations per trained token, in documents of `s` tokens.
pub(crate) fn flops_per_token(config: &Config, lora: bool, s: f64) -> f64 {
    let (per_weight, heads) =
        (if lora { 4.0 } else { 6.0 }, (config.n_head * config.head_dim) as f64);
    let attention = 4.0 * heads * s / 2.0 * config.n_layer as f64;
    per_weight * n_matmul(config) + 3.0 * attention
}

/// Bytes of keys and values per token of context, in bf16.
pub(crate) fn kv_bytes(config: &Config) -> f64 {
    (2 * 2 * config.n_layer as i64 * config.n_kv_head * config.head_dim) as f64
}

/// The formulas against figures that were worked out by hand: 7.82 GFLOP per token of the 1B model, all trained, at 2,048
/// tokens; 5.35 under LoRA; 48.25 of the 8B model, all trained, at 4,096; 32 and 128 KiB of keys and values.
pub(crate) fn check() -> anyhow::Result<()> {
    let (small, large) = (LLAMA_1B.config()?, LLAMA_8B.config()?);
    for (what, found, expected) in [
        ("1B full", flops_per_token(&small, false, 2048.0) / 1e9, 7.82),
        ("1B LoRA", flops_per_token(&small, true, 2048.0) / 1e9, 5.35),
        ("8B full", flops_per_token(&large, false, 4096.0) / 1e9, 48.25),
        ("1B weights", n_weights(&small) / 1e9, 1.236),
        ("8B weights", n_weights(&large) / 1e9, 8.03),
        ("0.6B weights", n_weights(&QWEN3_0_6B.config()?) / 1e9, 0.596),
        ("1B cache", kv_bytes(&small) / 1024.0, 32.0),
        ("8B cache", kv_bytes(&large) / 1024.0, 128.0),
    ] {
        if (found / expected - 1.0).abs() > 2e-3 {
            bail!("{what}: expected {expected}, found {found}");
        }
    }
    Ok(())
}
