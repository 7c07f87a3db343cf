//! Tokens that a model did not have: a model directory with a larger tokenizer and the same weights.
//!
//! The directory holds `config.json` and `tokenizer.json` with the new tokens, and links to everything else of the model's
//! own; rows for the new tokens are made when its weights are loaded. It lies in the cache, under what it is made of.
//! A token that an adapter brings keeps its id, since the adapter was trained with that row; where it is one that the
//! model keeps in reserve, it takes the place of the model's own token.

mod tokenizer;

use crate::{
    derived::{self, CONFIG},
    exit::{Exit, Failure},
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
};
use tokenizer::{brought, extended, rename_values};
use tunesmith_model::{Config, adapter_vocab_size};

/// Changes with what is written here, so that no older directory is taken for a newer one.
const FORMAT: u32 = 2;
const TOKENIZER: &str = "tokenizer.json";
/// Files that tell what tokens are for, by their texts.
const ROLES: [&str; 2] = ["tokenizer_config.json", "special_tokens_map.json"];

/// The model directory `dir` with `tokens` as special tokens, those of them that it lacks.
pub(crate) fn with_tokens(dir: &Path, tokens: &[String]) -> Result<PathBuf> {
    let entry = |content: &String| {
        json!({
            "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    grown(&cache(), dir, tokens.iter().map(entry).collect(), 0)
}

/// The model directory `dir` with the tokens that an adapter brings: those of its tokenizer that the model's lacks, under
/// their ids, and as many rows as its embedding has.
///
/// # Errors
/// [`Exit::BadData`] where the adapter's tokenizer is no extension of the model's.
pub(crate) fn with_adapter(dir: &Path, adapter: &Path) -> Result<PathBuf> {
    let config = Config::from_dir(dir)?;
    let rows = adapter_vocab_size(adapter, &config)?.unwrap_or(0);
    let [own, theirs] = [dir, adapter].map(|dir| dir.join(TOKENIZER));
    let mut new = Vec::new();
    if own.is_file() && theirs.is_file() {
        new = brought(&read(&own)?, &read(&theirs)?).map_err(|why| {
            let text = format!(
                "{}: does not fit {}: {why}\nhelp: name the model that the adapter was trained on",
                theirs.display(),
                own.display()
            );
            Failure(Exit::BadData, text)
        })?;
    }
    if new.is_empty() && rows <= config.vocab_size {
        return Ok(dir.to_owned());
    }
    grown(&cache(), dir, new, rows)
}

fn cache() -> PathBuf {
    tunesmith_data::cache_dir().join("grown")
}

fn grown(cache: &Path, dir: &Path, tokens: Vec<Value>, rows: i64) -> Result<PathBuf> {
    let dir = dir.canonicalize().with_context(|| dir.display().to_string())?;
    let path = dir.join(TOKENIZER);
    if !path.is_file() && !tokens.is_empty() {
        let text = format!(
            "model.new_tokens: {} has no tokenizer.json to add them to\nhelp: use a model with a tokenizer",
            dir.display()
        );
        return Err(Failure(Exit::BadConfig, text).into());
    }
    let config = Config::from_dir(&dir)?;
    let mut files = Vec::new();
    let mut n_ids = 0;
    if path.is_file() {
        let extended = extended(read(&path)?, tokens);
        n_ids = extended.n_ids;
        files.push((TOKENIZER, pretty(&extended.tokenizer)?));
        for name in ROLES {
            let path = dir.join(name);
            if path.is_file() && !extended.renamed.is_empty() {
                let mut roles = read(&path)?;
                rename_values(&mut roles, &extended.renamed);
                files.push((name, pretty(&roles)?));
            }
        }
    }
    files.push((CONFIG, config.with_vocab(rows.max(n_ids)).to_json_beside_stored()));
    let others = others(&dir, &files).with_context(|| dir.display().to_string())?;
    let mut key = format!("{FORMAT}\n{}\n", dir.display());
    for (path, size) in &others {
        key.push_str(&format!("{path:?} {size}\n"));
    }
    for (name, text) in &files {
        key.push_str(&format!("{name}\n{text}\n"));
    }
    derived::directory(cache, key.as_bytes(), |dir| {
        fill(dir, &others, &files).with_context(|| dir.display().to_string())
    })
}

/// Everything in `dir` but `files`, in order, with the sizes of what is a file.
fn others(dir: &Path, files: &[(&str, String)]) -> std::io::Result<Vec<(PathBuf, u64)>> {
    let mut others = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if files.iter().all(|(name, _)| path != dir.join(name)) {
            let metadata = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
            others.push((path, metadata.map_or(0, |metadata| metadata.len())));
        }
    }
    others.sort();
    Ok(others)
}

/// Puts into `dir`: `files` of its own, and links to `others`.
fn fill(dir: &Path, others: &[(PathBuf, u64)], files: &[(&str, String)]) -> std::io::Result<()> {
    for (path, _) in others {
        if let Some(name) = path.file_name() {
            std::os::unix::fs::symlink(path, dir.join(name))?;
        }
    }
    for (name, text) in files {
        fs::write(dir.join(name), text)?;
    }
    Ok(())
}

fn pretty(value: &Value) -> Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_comes_later_makes_another_directory() {
        let folder = tempfile::tempdir().unwrap();
        let [cache, model] = ["cache", "model"].map(|name| folder.path().join(name));
        fs::create_dir(&model).unwrap();
        let config = json!({
            "model_type": "llama", "hidden_act": "silu", "vocab_size": 6, "hidden_size": 16, "intermediate_size": 24,
            "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.02,
        });
        fs::write(model.join(CONFIG), config.to_string()).unwrap();
        let tokenizer = json!({
            "added_tokens": [{"id": 4, "content": "<|reserved_0|>"}, {"id": 5, "content": "<|reserved_1|>"}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "<s>": 3}, "merges": [["a", "b"]]},
        });
        fs::write(model.join(TOKENIZER), tokenizer.to_string()).unwrap();
        fs::write(model.join(ROLES[0]), r#"{"pad_token": "<|reserved_0|>"}"#).unwrap();
        let tokens = vec![json!({"id": 4, "content": "<|tool|>"}), json!({"content": "<|new|>"})];
        let grow = || grown(&cache, &model, tokens.clone(), 0).unwrap();
        let first = grow();
        assert_eq!(grow(), first);
        assert_eq!(read(&first.join(ROLES[0])).unwrap(), json!({"pad_token": "<|tool|>"}));
        assert_eq!(read(&first.join(CONFIG)).unwrap()["vocab_size"], 7);
        let template = "chat_template.jinja";
        fs::write(model.join(template), "{{ messages }}").unwrap();
        let second = grow();
        assert_ne!(second, first);
        assert_eq!(fs::read_to_string(second.join(template)).unwrap(), "{{ messages }}");
        assert_eq!(fs::read_dir(&cache).unwrap().count(), 2, "nothing temporary stays");
    }
}
