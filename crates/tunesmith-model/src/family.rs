//! A family is data: how its `config.json` is read and what its tensors are called.
//!
//! To add one: a row in [`FAMILIES`] and, where its tensors have other names, a [`Names`]. Nothing else in the crate
//! knows a family's name.

mod gpt2;
mod keys;
mod llama;

use crate::{Config, ModelError, config};
use keys::Keys;
use serde_json::{Map, Value};
use std::path::Path;

/// Names of a checkpoint's tensors, without `.weight` and `.bias`; those of a block are relative to `layer`.
#[derive(Debug, PartialEq)]
pub struct Names {
    /// Prefix of the base model, absent in checkpoints saved from the bare base class.
    pub base: &'static str,
    /// Token embedding.
    pub embed: &'static str,
    /// Position embedding, where positions are learned.
    pub position: &'static str,
    /// Prefix of block `i`, completed by its number.
    pub layer: &'static str,
    /// Norm before attention.
    pub input_norm: &'static str,
    /// q, k, v: three projections, or one name for a fused one.
    pub qkv: &'static [&'static str],
    /// Norms of q and k.
    pub qk_norm: [&'static str; 2],
    /// Output projection of attention.
    pub o: &'static str,
    /// Norm before the MLP.
    pub post_norm: &'static str,
    /// Gate projection, where the MLP is gated.
    pub gate: &'static str,
    /// Up projection.
    pub up: &'static str,
    /// Down projection.
    pub down: &'static str,
    /// Norm before the head.
    pub final_norm: &'static str,
    /// The head.
    pub head: &'static str,
    /// Whether projections are stored `[in, out]` (GPT-2's Conv1D) instead of `[out, in]`.
    pub transposed: bool,
    /// Endings of tensors that old checkpoints carry and nobody needs (masks, inverse frequencies).
    pub ignored: &'static [&'static str],
}

type Reader = fn(&Keys, &mut Config) -> Result<(), ModelError>;

struct Family {
    model_type: &'static str,
    architecture: &'static str,
    names: &'static Names,
    read: Reader,
}

const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        names: &llama::NAMES,
        read: llama::llama,
    },
    Family {
        model_type: "mistral",
        architecture: "MistralForCausalLM",
        names: &llama::NAMES,
        read: llama::mistral,
    },
    Family {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        names: &llama::NAMES,
        read: llama::qwen2,
    },
    Family {
        model_type: "qwen3",
        architecture: "Qwen3ForCausalLM",
        names: &llama::NAMES,
        read: llama::qwen3,
    },
    Family {
        model_type: "gpt2",
        architecture: "GPT2LMHeadModel",
        names: &gpt2::NAMES,
        read: gpt2::gpt2,
    },
];

/// Reads the configuration that `raw`, the object in `path`, describes.
pub(crate) fn read(path: &Path, raw: Map<String, Value>) -> Result<Config, ModelError> {
    let keys = Keys::new(path, &raw);
    let model_type = keys.str("model_type")?;
    let supported = || FAMILIES.iter().map(|f| f.model_type).collect::<Vec<_>>().join(", ");
    let unsupported =
        |what: String| ModelError::Unsupported { path: path.into(), what, supported: supported() };
    let Some(family) = FAMILIES.iter().find(|f| f.model_type == model_type) else {
        return Err(unsupported(format!("model_type \"{model_type}\"")));
    };
    if let Some(quantization) = raw.get("quantization_config").filter(|v| !v.is_null()) {
        let method = quantization.get("quant_method").and_then(Value::as_str).unwrap_or("unknown");
        return Err(ModelError::Unsupported {
            path: path.into(),
            what: format!(
                "an already quantised model (quantization_config.quant_method \"{method}\")"
            ),
            supported: "fp32, fp16 and bf16 weights; use the unquantised model".into(),
        });
    }
    let class = raw.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
    let sibling = |ending: &str| {
        family.architecture.replace("ForCausalLM", ending).replace("LMHeadModel", ending)
    };
    let classifies = class == Some(&sibling(config::CLASSIFIER));
    if let Some(class) = class
        && class != family.architecture
        && class != sibling("Model")
        && !classifies
    {
        return Err(ModelError::Unsupported {
            path: path.into(),
            what: format!("architectures[0] \"{class}\""),
            supported: format!("{} for model_type \"{model_type}\"", family.architecture),
        });
    }
    let mut config = keys.common(family)?;
    (family.read)(&keys, &mut config)?;
    keys.check(&config)?;
    if classifies {
        config.architecture = sibling(config::CLASSIFIER);
        config.n_labels = Some(keys.n_labels()?);
    }
    config.raw = raw;
    config.raw.shift_remove(config::STORED_VOCAB);
    Ok(config)
}
