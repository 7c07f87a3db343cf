//! The shape of a decoder, whatever family it comes from: what [`family`](crate::family) makes of a `config.json`.

use crate::{ModelError, family};
use serde_json::{Map, Value};
use std::path::Path;

/// How the names of Hugging Face's classes for sequence classification end.
pub(crate) const CLASSIFIER: &str = "ForSequenceClassification";

/// A decoder-only transformer. Every family that tunesmith knows is a value of this type.
#[derive(Debug, Clone)]
pub struct Config {
    /// The Hugging Face class, such as `LlamaForCausalLM`.
    pub architecture: String,
    /// V: rows of the embedding.
    pub vocab_size: i64,
    /// Rows of the checkpoint's embedding and head, where the vocabulary has grown since; the others are made on loading.
    pub stored_vocab_size: Option<i64>,
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
    /// Labels of a model for sequence classification; `None`: it has a head over the vocabulary.
    pub n_labels: Option<i64>,
    /// Whether the head over labels is new: the checkpoint's own head, if it has one, is not read.
    pub fresh_head: bool,
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

/// What a `config.json` of tunesmith's own calls [`Config::stored_vocab_size`]; no model is saved with it.
pub(crate) const STORED_VOCAB: &str = "tunesmith_stored_vocab_size";

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

    /// The same model with a vocabulary of at least `vocab_size`: its checkpoint's rows, and behind them new ones near
    /// their mean. `config.json` says so where it is written.
    #[must_use]
    pub fn with_vocab(mut self, vocab_size: i64) -> Self {
        if vocab_size > self.vocab_size {
            self.stored_vocab_size.get_or_insert(self.vocab_size);
            self.vocab_size = vocab_size;
            self.raw.insert("vocab_size".into(), vocab_size.into());
        }
        self
    }

    /// This configuration as the text of a `config.json` beside weights whose vocabulary is still the old one.
    pub fn to_json_beside_stored(&self) -> String {
        let mut raw = self.raw.clone();
        if let Some(stored) = self.stored_vocab_size {
            raw.insert(STORED_VOCAB.into(), stored.into());
        }
        format!("{:#}\n", Value::Object(raw))
    }

    /// The same model with a head over `labels` instead of the vocabulary, under its Hugging Face class: as it is, if it
    /// has just these labels already, else with a new head.
    #[must_use]
    pub fn into_classifier(mut self, labels: &[String]) -> Self {
        if self.n_labels.is_some() && self.labels() == labels {
            return self;
        }
        self.n_labels = Some(labels.len() as i64);
        self.fresh_head = true;
        self.architecture =
            self.architecture.replace("ForCausalLM", CLASSIFIER).replace("LMHeadModel", CLASSIFIER);
        let names = || labels.iter().enumerate();
        let id2label = names().map(|(i, label)| (i.to_string(), Value::from(label.as_str())));
        let label2id = names().map(|(i, label)| (label.clone(), Value::from(i)));
        self.raw.insert("id2label".into(), Value::Object(id2label.collect()));
        self.raw.insert("label2id".into(), Value::Object(label2id.collect()));
        self.raw.insert("architectures".into(), Value::from(vec![self.architecture.as_str()]));
        self.raw.shift_remove("num_labels");
        self
    }

    /// The labels of a classifier in order, `LABEL_i` where it names none; none for a language model.
    pub fn labels(&self) -> Vec<String> {
        let name = |i: i64| {
            let named = self.raw.get("id2label").and_then(|labels| labels.get(i.to_string()));
            named.and_then(Value::as_str).map_or_else(|| format!("LABEL_{i}"), str::to_owned)
        };
        (0..self.n_labels.unwrap_or(0)).map(name).collect()
    }

    /// The scale of attention scores, 1/√D.
    pub fn attention_scale(&self) -> f64 {
        1.0 / (self.head_dim as f64).sqrt()
    }
}
