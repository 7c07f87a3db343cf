//! From GGUF's metadata to the `config.json` of a Hugging Face model, and back.

use super::{Gguf, GgufType, GgufValue, Metadata, names};
use crate::{
    Config, ModelError,
    config::{Norm, Position, RopeScaling},
    rope,
};
use serde_json::{Map, Value, json};
use tch::Tensor;

/// The tensor in which GGUF keeps the divisors of stretched frequencies.
pub(super) const ROPE_FREQS: &str = "rope_freqs.weight";

/// The settings of Llama 3's stretch, which GGUF does not keep: the names under which tunesmith writes them, and their
/// values in the models that Meta published.
const LLAMA3: [(&str, f64); 3] = [
    ("tunesmith.rope.low_freq_factor", 1.0),
    ("tunesmith.rope.high_freq_factor", 4.0),
    ("tunesmith.rope.original_context_length", 8192.0),
];

impl Gguf {
    /// The `config.json` of the model in this file.
    ///
    /// # Errors
    /// An adapter, an architecture or an option that is not supported (by name), a key that is missing or odd.
    pub fn config_json(&self) -> Result<Map<String, Value>, ModelError> {
        let kind = self.metadata().get("general.type").and_then(GgufValue::as_str);
        if let Some(kind) = kind.filter(|kind| *kind != "model") {
            return Err(self.unsupported(format!("general.type \"{kind}\""), "model".into()));
        }
        let architecture = self
            .metadata()
            .get("general.architecture")
            .and_then(GgufValue::as_str)
            .ok_or_else(|| self.bad("no text general.architecture".into()))?;
        let Some(class) = names::class_of(architecture) else {
            let what = format!("general.architecture \"{architecture}\"");
            return Err(self.unsupported(what, names::supported()));
        };
        let keys = Keys { gguf: self, architecture };
        let embed = self.shape("token_embd.weight");
        let Some(&[vocab_size, width]) = embed else {
            return Err(
                self.bad(format!("token_embd.weight: expected 2 dimensions, found {embed:?}"))
            );
        };
        if keys.int("embedding_length")? as i64 != width {
            return Err(
                self.bad(format!("embedding_length is not the {width} of token_embd.weight"))
            );
        }
        let mut json = if architecture == "gpt2" { keys.gpt2()? } else { keys.llama()? };
        json.insert("architectures".into(), json!([class]));
        json.insert("model_type".into(), json!(architecture));
        json.insert("vocab_size".into(), json!(vocab_size));
        json.insert("tie_word_embeddings".into(), json!(!self.has("output.weight")));
        let dtype = match self.kind("blk.0.attn_output.weight") {
            Some(GgufType::BF16) => "bfloat16",
            Some(GgufType::F16) => "float16",
            _ => "float32",
        };
        json.insert("dtype".into(), json!(dtype));
        for (key, name) in
            [("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")]
        {
            let id = self.metadata().get(&format!("tokenizer.ggml.{name}_token_id"));
            if let Some(id) = id.and_then(GgufValue::as_u64) {
                json.insert(key.into(), json!(id));
            }
        }
        Ok(json)
    }

    fn unsupported(&self, what: String, supported: String) -> ModelError {
        ModelError::Unsupported { path: self.path().into(), what, supported }
    }
}

/// Access to `<architecture>.<key>`.
struct Keys<'a> {
    gguf: &'a Gguf,
    architecture: &'a str,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&GgufValue> {
        self.gguf.metadata().get(&format!("{}.{key}", self.architecture))
    }

    fn int(&self, key: &str) -> Result<u64, ModelError> {
        self.get(key).and_then(GgufValue::as_u64).ok_or_else(|| self.missing(key, self.get(key)))
    }

    fn float(&self, key: &str) -> Result<f64, ModelError> {
        self.get(key).and_then(GgufValue::as_f64).ok_or_else(|| self.missing(key, self.get(key)))
    }

    fn missing(&self, key: &str, found: Option<&GgufValue>) -> ModelError {
        let found = found.map_or("nothing".into(), GgufValue::to_string);
        self.gguf.bad(format!("{}.{key}: expected a number, found {found}", self.architecture))
    }

    fn gpt2(&self) -> Result<Map<String, Value>, ModelError> {
        let json = json!({
            "n_embd": self.int("embedding_length")?,
            "n_inner": self.int("feed_forward_length")?,
            "n_layer": self.int("block_count")?,
            "n_head": self.int("attention.head_count")?,
            "n_positions": self.int("context_length")?,
            "layer_norm_epsilon": self.float("attention.layer_norm_epsilon")?,
            "activation_function": "gelu_new",
        });
        Ok(object(json))
    }

    fn llama(&self) -> Result<Map<String, Value>, ModelError> {
        let n_head = self.int("attention.head_count")?;
        let width = self.int("embedding_length")?;
        let head_dim = match (self.get("attention.key_length"), self.get("rope.dimension_count")) {
            (Some(_), _) => self.int("attention.key_length")?,
            (None, Some(_)) => self.int("rope.dimension_count")?,
            (None, None) => width / n_head.max(1),
        };
        let mut json = object(json!({
            "hidden_size": width,
            "intermediate_size": self.int("feed_forward_length")?,
            "num_hidden_layers": self.int("block_count")?,
            "num_attention_heads": n_head,
            "num_key_value_heads": self.int("attention.head_count_kv").unwrap_or(n_head),
            "head_dim": head_dim,
            "max_position_embeddings": self.int("context_length")?,
            "rms_norm_eps": self.float("attention.layer_norm_rms_epsilon")?,
            "rope_theta": self.float("rope.freq_base").unwrap_or(10_000.0),
            "hidden_act": "silu",
            "attention_bias": self.gguf.has("blk.0.attn_output.bias"),
            "mlp_bias": self.gguf.has("blk.0.ffn_up.bias"),
        }));
        if let Some(scaling) = self.rope_scaling(head_dim)? {
            json.insert("rope_scaling".into(), scaling);
        }
        Ok(json)
    }

    fn rope_scaling(&self, head_dim: u64) -> Result<Option<Value>, ModelError> {
        if self.gguf.has(ROPE_FREQS) {
            return self.llama3(head_dim).map(Some);
        }
        match self.get("rope.scaling.type").and_then(GgufValue::as_str) {
            None | Some("none") => Ok(None),
            Some("linear") => {
                let factor = self.float("rope.scaling.factor")?;
                Ok(Some(json!({"rope_type": "linear", "factor": factor})))
            }
            Some(other) => {
                let what = format!("{}.rope.scaling.type \"{other}\"", self.architecture);
                Err(self.gguf.unsupported(what, "none, linear, Llama 3's".into()))
            }
        }
    }

    /// The file holds the divisors alone: the settings that make them are found, or refused.
    fn llama3(&self, head_dim: u64) -> Result<Value, ModelError> {
        let stored = self.gguf.tensor(ROPE_FREQS)?;
        let stored = Vec::<f32>::try_from(stored.to_kind(tch::Kind::Float).view(-1))?;
        let factor = stored.iter().copied().fold(1.0_f32, f32::max);
        let [low_freq_factor, high_freq_factor, original] = LLAMA3.map(|(key, default)| {
            self.gguf.metadata().get(key).and_then(GgufValue::as_f64).unwrap_or(default)
        });
        let scaling = RopeScaling::Llama3 {
            factor: f64::from(factor),
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        };
        let theta = self.float("rope.freq_base").unwrap_or(10_000.0);
        let expected = rope::factors(theta, head_dim as i64, &scaling);
        let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-4 * b.abs();
        if stored.len() != expected.len() || !stored.iter().zip(&expected).all(close) {
            let what = format!("the divisors in {ROPE_FREQS}");
            let supported = "those of Llama 3 (low 1, high 4, 8192 positions)".into();
            return Err(self.gguf.unsupported(what, supported));
        }
        Ok(json!({
            "rope_type": "llama3", "factor": factor, "low_freq_factor": low_freq_factor,
            "high_freq_factor": high_freq_factor, "original_max_position_embeddings": original,
        }))
    }
}

fn object(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(object) => object,
        _ => Map::new(),
    }
}

/// What a file says about a model of this configuration, and the tensor that goes with stretched frequencies.
pub(super) fn metadata(config: &Config) -> Result<(Metadata, Option<Tensor>), ModelError> {
    let architecture = names::architecture(config)?;
    let int = |n: i64| GgufValue::Unsigned(n.max(0) as u64);
    // llama.cpp knows no window for these families: it is none where no context exceeds it.
    let context = config.sliding_window.unwrap_or(i64::MAX).min(config.max_position_embeddings);
    let mut metadata = vec![
        ("block_count", int(config.n_layer as i64)),
        ("context_length", int(context)),
        ("embedding_length", int(config.hidden_size)),
        ("feed_forward_length", int(config.intermediate_size)),
        ("attention.head_count", int(config.n_head)),
        ("attention.head_count_kv", int(config.n_kv_head)),
        ("vocab_size", int(config.vocab_size)),
    ];
    metadata.push(match config.norm {
        Norm::Rms { eps } => ("attention.layer_norm_rms_epsilon", GgufValue::F32(eps as f32)),
        Norm::Layer { eps } => ("attention.layer_norm_epsilon", GgufValue::F32(eps as f32)),
    });
    let (mut factors, mut own) = (None, Vec::new());
    if let Position::Rotary { theta, scaling } = &config.position {
        metadata.push(("attention.key_length", int(config.head_dim)));
        metadata.push(("attention.value_length", int(config.head_dim)));
        metadata.push(("rope.dimension_count", int(config.head_dim)));
        metadata.push(("rope.freq_base", GgufValue::F32(*theta as f32)));
        match scaling {
            RopeScaling::Default => {}
            RopeScaling::Linear { factor } => {
                metadata.push(("rope.scaling.type", "linear".into()));
                metadata.push(("rope.scaling.factor", GgufValue::F32(*factor as f32)));
            }
            RopeScaling::Llama3 {
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
                ..
            } => {
                let values = [low_freq_factor, high_freq_factor, original_max_position_embeddings];
                let settings = LLAMA3.into_iter().zip(values);
                own.extend(
                    settings.map(|((key, _), x)| (key.to_owned(), GgufValue::F32(*x as f32))),
                );
                let divisors = rope::factors(*theta, config.head_dim, scaling);
                factors = Some(Tensor::from_slice(&divisors));
            }
        }
    }
    let metadata =
        metadata.into_iter().map(|(key, value)| (format!("{architecture}.{key}"), value));
    Ok((metadata.chain(own).collect(), factors))
}
