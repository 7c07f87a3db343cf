//! A GGUF file as a model directory: what every command can then use like any other.
//!
//! The directory holds `config.json`, `tokenizer.json` and `tokenizer_config.json`, made of the file's metadata, and a
//! link to the file itself, from which weights are read. It lies in the cache, under the file's path, size and time.

mod tokenizer;
pub(crate) mod vocabulary;

use crate::{
    derived::{self, CONFIG},
    exit::{Exit, Failure},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use tunesmith_model::gguf::{Gguf, GgufValue};

/// Changes with what is written here, so that no older directory is taken for a newer one.
const FORMAT: u32 = 2;

/// The directory of a GGUF file, made if it is not there yet.
pub(crate) fn directory(file: &Path) -> Result<PathBuf> {
    let path = file.canonicalize().with_context(|| file.display().to_string())?;
    let about = path.metadata().with_context(|| file.display().to_string())?;
    let time = (about.mtime(), about.mtime_nsec());
    let key = format!("{FORMAT} {} {} {time:?}", path.display(), about.len());
    let cache = tunesmith_data::cache_dir().join("gguf");
    derived::directory(&cache, key.as_bytes(), |dir| unpack(&path, dir))
}

/// Makes `dir`, which exists and is empty, the model directory of a GGUF file.
pub(crate) fn unpack(file: &Path, dir: &Path) -> Result<()> {
    let gguf = Gguf::open(file)?;
    let config = gguf.config_json()?;
    let write = |name: &str, text: String| {
        let path = dir.join(name);
        std::fs::write(&path, text).with_context(|| path.display().to_string())
    };
    let beside = file.with_file_name("tokenizer.json");
    let text = match tokenizer::to_json(gguf.metadata()) {
        Ok(text) => Some(text),
        Err(None) => None,
        Err(Some(_)) if beside.is_file() => {
            tracing::info!("the tokenizer is {}", beside.display());
            Some(std::fs::read_to_string(&beside).with_context(|| beside.display().to_string())?)
        }
        Err(Some(problem)) => {
            let text = format!(
                "{}: {problem}\nhelp: put the model's tokenizer.json beside the file",
                file.display()
            );
            return Err(Failure(Exit::BadConfig, text).into());
        }
    };
    if let Some(text) = text {
        write("tokenizer.json", text)?;
        write("tokenizer_config.json", format!("{:#}\n", tokenizer_config(&gguf)))?;
    }
    let link = dir.join("model.gguf");
    std::os::unix::fs::symlink(file, &link).with_context(|| link.display().to_string())?;
    write(CONFIG, format!("{:#}\n", Value::Object(config)))
}

/// The names of the special tokens, and the chat template.
fn tokenizer_config(gguf: &Gguf) -> Value {
    let metadata = gguf.metadata();
    let tokens = metadata.get("tokenizer.ggml.tokens").and_then(GgufValue::as_array);
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast"});
    for (key, name) in [("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")] {
        let id = metadata.get(&format!("tokenizer.ggml.{name}_token_id"));
        let id = id.and_then(GgufValue::as_u64).and_then(|id| usize::try_from(id).ok());
        let token = id.and_then(|id| tokens?.get(id)?.as_str());
        if let Some(token) = token {
            config[format!("{key}_token")] = json!(token);
        }
    }
    if let Some(template) = metadata.get("tokenizer.chat_template").and_then(GgufValue::as_str) {
        config["chat_template"] = json!(template);
    }
    config
}
