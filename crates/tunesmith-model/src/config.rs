//! The shape of a decoder, whatever family it comes from: what [`family`](crate::family) makes of a `config.json`.

use crate::{ModelError, family};
use serde_json::{Map, Value};
use std::path::Path;

/// A decoder-only transformer. Every family that tunesmith knows is a value of this type.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Hugging Face class, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// V: rows of the embedding.
    pub vocab_size: i64,
    /// C: width of the residual stream.
    pub hidden_size: i64,
    /// Width inside the MLP.
    pub intermediate_size: i64,
    /// Blocks.
    pub n_layer: usize,
    /// H: query heads.
    pub n_head: i64,
    /// K: key/value heads; divides `n_head`.
    pub n_kv_head: i64,
    /// D: size of a head.
    pub head_dim: i64,
    /// Positions the model was made for; a hard limit with learned positions.
    pub max_position_embeddings: i64,
    /// Normalisation before each half of a block and before the head.
    pub norm: Norm,
    /// How positions enter.
    pub position: Position,
    /// Non-linearity of the MLP.
    pub activation: Activation,
    /// Whether the MLP is gated: `down(act(gate(x)) · up(x))` instead of `down(act(up(x)))`.
    pub gated_mlp: bool,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on the attention's output projection.
    pub o_bias: bool,
    /// Biases in the MLP.
    pub mlp_bias: bool,
    /// RMSNorm over each head of q and k before the rotation (Qwen3).
    pub qk_norm: bool,
    /// A token sees this many tokens, itself included; `None`: all before it.
    pub sliding_window: Option<i64>,
    /// Whether the head is the embedding.
    pub tie_word_embeddings: bool,
    /// Standard deviation of fresh weights.
    pub initializer_range: f64,
    /// Names of the checkpoint's tensors.
    pub names: &'static family::Names,
    /// config.json as it was read; written back unchanged but for the dtype.
    pub raw: Map<String, Value>,
}

/// Which normalisation, with its ε.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Norm {
    /// x / rms(x) · w (Zhang & Sennrich 2019).
    Rms {
        /// Added to the mean square.
        eps: f64,
    },
    /// (x − mean) / std · w + b (Ba et al. 2016).
    Layer {
        /// Added to the variance.
        eps: f64,
    },
}

/// How positions enter the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Position {
    /// Rotary embeddings on q and k (Su et al. 2021).
    Rotary {
        /// Base of the frequencies.
        theta: f64,
        /// How the frequencies are stretched for longer contexts.
        scaling: RopeScaling,
    },
    /// A learned vector per position, added to the token's.
    Learned,
}

/// Frequency scaling of rotary embeddings.
#[derive(Debug, Clone, PartialEq)]
pub enum RopeScaling {
    /// None.
    Default,
    /// All frequencies ÷ factor (Chen et al. 2023).
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// Llama 3.1's: low frequencies ÷ factor, high ones kept, a smooth ramp between.
    Llama3 {
        /// The divisor of the low frequencies.
        factor: f64,
        /// Wavelengths longer than `original / low_freq_factor` are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before the stretch.
        original_max_position_embeddings: f64,
    },
}

/// Non-linearity of the MLP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Activation {
    /// x · σ(x).
    Silu,
    /// GELU by the error function.
    Gelu,
    /// GELU by tanh (`gelu_new`, `gelu_pytorch_tanh`).
    GeluTanh,
    /// max(x, 0).
    Relu,
}

impl Config {
    /// Reads `config.json` of a model directory.
    ///
    /// # Errors
    /// A missing or malformed file, a value out of range, an architecture or option that is not supported (by name).
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let path = dir.join("config.json");
        let text = std::fs::read_to_string(&path).map_err(ModelError::io(&path))?;
        let raw: Value = serde_json::from_str(&text).map_err(|e| ModelError::BadConfig {
            path: path.clone(),
            key: "config.json".into(),
            expected: "a JSON object".into(),
            found: e.to_string(),
        })?;
        match raw {
            Value::Object(raw) => family::read(&path, raw),
            other => Err(ModelError::BadConfig {
                path,
                key: "config.json".into(),
                expected: "a JSON object".into(),
                found: other.to_string().chars().take(40).collect(),
            }),
        }
    }

    /// The scale of attention scores, 1/√D.
    pub fn attention_scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}
