//! From a [`Transformer`] to a directory that transformers loads unchanged.

use super::write_tensors;
use crate::{ModelError, Transformer};
use serde_json::Value;
use std::path::Path;
use tch::Kind;

/// What a model directory holds beside weights and config.json, carried over from the model it came from.
const COMPANIONS: &[&str] = &[
    "generation_config.json",
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
    /// What the operating system says.
    pub fn save(&self, dir: &Path, origin: &Path) -> Result<(), ModelError> {
        let tensors = self.params().iter().map(|p| (p.name.clone(), &p.tensor));
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
        for name in COMPANIONS {
            let source = origin.join(name);
            if source.exists() {
                // Contents alone: a read-only original must not make the copy read-only.
                let bytes = std::fs::read(&source).map_err(ModelError::io(source))?;
                std::fs::write(dir.join(name), bytes).map_err(ModelError::io(dir.join(name)))?;
            }
        }
        Ok(())
    }
}
