//! From a [`Transformer`] to a directory that transformers loads unchanged.

use super::write_tensors;
use crate::{ModelError, Transformer};
use serde_json::Value;
use std::path::Path;
use tch::Kind;

/// Templates for special purposes, such as tool use, in files of their own.
const TEMPLATE_FOLDER: &str = "additional_chat_templates";

/// What tokenizer and template lie in, carried over from the model they came from.
const COMPANIONS: &[&str] = &[
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
];

impl Transformer {
    /// Writes weights and config.json into `dir`, which exists, and copies tokenizer, template and generation config
    /// from `origin`, the directory the model was loaded from.
    ///
    /// # Errors
    /// What the operating system says; a model whose matrices are quantised.
    pub fn save(&self, dir: &Path, origin: &Path) -> Result<(), ModelError> {
        if !self.is_dense() {
            let reason = "quantised matrices are not written\nhelp: dequantise the model, or merge its adapter";
            return Err(ModelError::BadWeights { path: dir.into(), reason: reason.into() });
        }
        let tensors = self.base_params().iter().map(|p| (p.name.clone(), &p.tensor));
        write_tensors(&dir.join("model.safetensors"), tensors)?;
        let dtype = match self.kind() {
            Kind::BFloat16 => "bfloat16",
            Kind::Half => "float16",
            _ => "float32",
        };
        let mut raw = self.config.raw.clone();
        raw.insert("architectures".into(), Value::from(vec![self.config.architecture.as_str()]));
        // transformers 5 writes `dtype`, transformers 4 `torch_dtype`; each reads both.
        let key = if raw.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        raw.insert(key.into(), Value::from(dtype));
        let path = dir.join("config.json");
        let mut text = format!("{:#}", Value::Object(raw));
        text.push('\n');
        std::fs::write(&path, text).map_err(ModelError::io(path))?;
        let generation = "generation_config.json";
        copy(&origin.join(generation), &dir.join(generation))?;
        copy_companions(origin, dir)
    }
}

/// Copies tokenizer and templates, those that are there.
pub(crate) fn copy_companions(origin: &Path, dir: &Path) -> Result<(), ModelError> {
    for name in COMPANIONS {
        copy(&origin.join(name), &dir.join(name))?;
    }
    for entry in std::fs::read_dir(origin.join(TEMPLATE_FOLDER)).into_iter().flatten().flatten() {
        let folder = dir.join(TEMPLATE_FOLDER);
        std::fs::create_dir_all(&folder).map_err(ModelError::io(&folder))?;
        copy(&entry.path(), &folder.join(entry.file_name()))?;
    }
    Ok(())
}

/// Copies a file, if there is one: contents alone, so that a read-only original makes no read-only copy.
fn copy(from: &Path, to: &Path) -> Result<(), ModelError> {
    if from.is_file() {
        let bytes = std::fs::read(from).map_err(ModelError::io(from))?;
        std::fs::write(to, bytes).map_err(ModelError::io(to))?;
    }
    Ok(())
}
