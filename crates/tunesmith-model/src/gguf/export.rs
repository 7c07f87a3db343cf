//! From a model or an adapter in memory to a GGUF file.

use super::{
    GgufType, GgufValue, Metadata, config,
    names::{self, Layout, Place},
    write::{Entry, write},
};
use crate::{Config, ModelError};
use std::{collections::BTreeMap, path::Path};
use tch::Tensor;

/// `general.file_type` of llama.cpp.
fn file_type(kind: GgufType) -> u64 {
    match kind {
        GgufType::F16 => 1,
        GgufType::Q4_0 => 2,
        GgufType::Q8_0 => 7,
        GgufType::BF16 => 32,
        _ => 0,
    }
}

/// How a tensor of this name and shape is stored in a file of `kind`: vectors stay fp32, and beside 4 bits the
/// embedding and the head have 8, where most of the loss would be.
fn stored_as(kind: GgufType, name: &str, shape: &[i64]) -> GgufType {
    let row = shape.last().copied().unwrap_or(1);
    match kind {
        _ if shape.len() < 2 || name == "position_embd.weight" => GgufType::F32,
        GgufType::Q4_0
            if matches!(name, "token_embd.weight" | "output.weight") && row % 32 == 0 =>
        {
            GgufType::Q8_0
        }
        blocks if row % blocks.block_len() as i64 != 0 => GgufType::F16,
        kind => kind,
    }
}

/// Writes a model: `tensors` under their Hugging Face names, `extra` (name, tokenizer …) as further metadata.
///
/// # Errors
/// A model that GGUF has no architecture for; a tensor it has no name for; what the operating system says.
pub fn export_gguf(
    path: &Path,
    config: &Config,
    tensors: Vec<(String, Tensor)>,
    kind: GgufType,
    extra: Metadata,
) -> Result<(), ModelError> {
    let places = names::places(config);
    let (of_config, factors) = config::metadata(config)?;
    let mut entries = Vec::new();
    if let Some(tensor) = factors {
        entries.push(Entry { name: config::ROPE_FREQS.into(), tensor, kind: GgufType::F32 });
    }
    for (name, tensor) in tensors {
        let place = place(&places, config, &name).ok_or_else(|| unnamed(path, &name))?;
        let tensor = place.layout.apply(&tensor);
        let kind = stored_as(kind, &place.name, &tensor.size());
        entries.push(Entry { name: place.name.clone(), tensor, kind });
    }
    let mut metadata = vec![
        ("general.architecture".to_owned(), names::architecture(config)?.into()),
        ("general.type".to_owned(), "model".into()),
        ("general.file_type".to_owned(), GgufValue::Unsigned(file_type(kind))),
        ("general.quantization_version".to_owned(), GgufValue::Unsigned(2)),
    ];
    metadata.extend(of_config);
    metadata.extend(extra);
    write(path, &metadata, &entries)
}

/// Writes a LoRA adapter: pairs of A `[r, in]` and B `[out, r]` under the Hugging Face name of the weight they adapt.
///
/// # Errors
/// As [`export_gguf`].
pub(super) fn export_lora_gguf(
    path: &Path,
    config: &Config,
    pairs: Vec<(String, Tensor, Tensor)>,
    alpha: f32,
    kind: GgufType,
) -> Result<(), ModelError> {
    let places = names::places(config);
    let mut entries = Vec::new();
    for (name, a, b) in pairs {
        let place = place(&places, config, &name).ok_or_else(|| unnamed(path, &name))?;
        // B makes the rows of the weight; A reads its columns. Both are `[out, in]` whatever the weight is.
        let b = match place.layout {
            Layout::Paired(_) => place.layout.apply(&b),
            Layout::Same | Layout::Transposed => b,
        };
        for (ending, tensor) in [("lora_a", a), ("lora_b", b)] {
            let name = format!("{}.{ending}", place.name);
            let kind = stored_as(kind, &name, &tensor.size());
            entries.push(Entry { name, tensor, kind });
        }
    }
    let metadata = [
        ("general.architecture".to_owned(), names::architecture(config)?.into()),
        ("general.type".to_owned(), "adapter".into()),
        ("general.file_type".to_owned(), GgufValue::Unsigned(file_type(kind))),
        ("adapter.type".to_owned(), "lora".into()),
        ("adapter.lora.alpha".to_owned(), GgufValue::F32(alpha)),
    ];
    write(path, &metadata, &entries)
}

/// A checkpoint saved from the bare base class lacks the prefix ("wte.weight" for "transformer.wte.weight").
fn place<'a>(
    places: &'a BTreeMap<String, Place>,
    config: &Config,
    name: &str,
) -> Option<&'a Place> {
    places.get(name).or_else(|| places.get(&format!("{}{name}", config.names.base)))
}

fn unnamed(path: &Path, name: &str) -> ModelError {
    let reason =
        format!("GGUF has no name for {name}\nhelp: export to safetensors (`tunesmith merge`)");
    ModelError::BadWeights { path: path.into(), reason }
}
