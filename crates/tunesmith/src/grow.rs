//! Tokens that a model did not have: a model directory with a larger tokenizer and the same weights.
//!
//! The directory holds `config.json` and `tokenizer.json` with the new tokens, and links to everything else of the model's
//! own; rows for the new tokens are made when its weights are loaded. It lies in the cache, under what it is made of.

use crate::exit::{Exit, Failure};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    collections::HashSet,
    fs,
    path::{Path, PathBuf},
};
use tunesmith_model::{Config, adapter_vocab_size};

/// Changes with what is written here, so that no older directory is taken for a newer one.
const FORMAT: u32 = 1;
const TOKENIZER: &str = "tokenizer.json";
const CONFIG: &str = "config.json";

/// The model directory `dir` with `tokens` as special tokens, those of them that it lacks.
pub(crate) fn with_tokens(dir: &Path, tokens: &[String]) -> Result<PathBuf> {
    let entry = |content: &String| {
        json!({
            "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
            "special": true,
        })
    };
    grown(dir, tokens.iter().map(entry).collect(), 0)
}

/// The model directory `dir` with the tokens that an adapter brings: those of its tokenizer that the model's lacks, and
/// as many rows as its embedding has.
pub(crate) fn with_adapter(dir: &Path, adapter: &Path) -> Result<PathBuf> {
    let config = Config::from_dir(dir)?;
    let rows = adapter_vocab_size(adapter, &config)?.unwrap_or(0);
    let [own, theirs] = [dir, adapter].map(|dir| dir.join(TOKENIZER));
    let mut new = Vec::new();
    if own.is_file() && theirs.is_file() {
        let known = contents(&read(&own)?);
        new = added(&read(&theirs)?);
        new.retain(|token| content(token).is_some_and(|content| !known.contains(content)));
        new.sort_by_key(|token| token["id"].as_u64());
    }
    if new.is_empty() && rows <= config.vocab_size {
        return Ok(dir.to_owned());
    }
    grown(dir, new, rows)
}

fn grown(dir: &Path, tokens: Vec<Value>, rows: i64) -> Result<PathBuf> {
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
    let (text, n_ids) = match path.is_file() {
        true => {
            let (tokenizer, n_ids) = extended(read(&path)?, tokens);
            (Some(serde_json::to_string_pretty(&tokenizer)? + "\n"), n_ids)
        }
        false => (None, 0),
    };
    let config = config.with_vocab(rows.max(n_ids)).to_json_beside_stored();
    let mut hasher = blake3::Hasher::new();
    for part in
        [&FORMAT.to_string(), &dir.display().to_string(), &config, text.as_ref().unwrap_or(&config)]
    {
        hasher.update(part.as_bytes()).update(b"\n");
    }
    let name = hasher.finalize().to_hex();
    let target = tunesmith_data::cache_dir().join("grown").join(&name.as_str()[..16]);
    if !target.join(CONFIG).is_file() {
        // Whole or not at all: another run may make the same at the same time.
        let staging = target.with_extension(format!("tmp-{}", std::process::id()));
        fill(&staging, &dir, text.as_deref(), &config)
            .with_context(|| staging.display().to_string())?;
        if let Err(error) = fs::rename(&staging, &target) {
            let _ = fs::remove_dir_all(&staging); // what is left of it is in nobody's way
            if !target.join(CONFIG).is_file() {
                return Err(error).with_context(|| target.display().to_string());
            }
        }
    }
    Ok(target)
}

/// Makes `staging` the directory: two files of its own, and links to everything else in `dir`.
fn fill(staging: &Path, dir: &Path, tokenizer: Option<&str>, config: &str) -> std::io::Result<()> {
    fs::create_dir_all(staging)?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if ![TOKENIZER, CONFIG].iter().any(|name| entry.file_name() == *name) {
            std::os::unix::fs::symlink(entry.path(), staging.join(entry.file_name()))?;
        }
    }
    if let Some(tokenizer) = tokenizer {
        fs::write(staging.join(TOKENIZER), tokenizer)?;
    }
    fs::write(staging.join(CONFIG), config)
}

/// A tokenizer.json with `tokens` behind its own, each under the next free id or the one that it has in the vocabulary;
/// and how many ids there are.
fn extended(mut tokenizer: Value, tokens: Vec<Value>) -> (Value, i64) {
    let vocabulary = vocabulary(&tokenizer);
    let mut own = added(&tokenizer);
    let ids = own.iter().filter_map(|token| token["id"].as_i64());
    let last = ids.chain(vocabulary.iter().map(|(_, id)| *id)).max().unwrap_or(-1);
    let mut next = last + 1;
    for mut token in tokens {
        if own.iter().any(|other| content(other) == content(&token)) {
            continue;
        }
        let known = vocabulary.iter().find(|(text, _)| content(&token) == Some(text));
        let id = known.map_or(next, |(_, id)| *id);
        next = next.max(id + 1);
        token["id"] = id.into();
        own.push(token);
    }
    tokenizer["added_tokens"] = own.into();
    (tokenizer, next)
}

/// Texts of a tokenizer's vocabulary with their ids: an object of BPE and WordPiece, a list of Unigram.
fn vocabulary(tokenizer: &Value) -> Vec<(String, i64)> {
    match &tokenizer["model"]["vocab"] {
        Value::Object(vocabulary) => {
            let pair = |(text, id): (&String, &Value)| Some((text.clone(), id.as_i64()?));
            vocabulary.iter().filter_map(pair).collect()
        }
        Value::Array(pieces) => {
            let text = |piece: &Value| piece.get(0)?.as_str().map(str::to_owned);
            (0..).zip(pieces).filter_map(|(id, piece)| Some((text(piece)?, id))).collect()
        }
        _ => Vec::new(),
    }
}

/// Every text that is one token.
fn contents(tokenizer: &Value) -> HashSet<String> {
    let added = added(tokenizer);
    let own = added.iter().filter_map(|token| content(token).map(str::to_owned));
    own.chain(vocabulary(tokenizer).into_iter().map(|(text, _)| text)).collect()
}

fn added(tokenizer: &Value) -> Vec<Value> {
    tokenizer["added_tokens"].as_array().cloned().unwrap_or_default()
}

fn content(token: &Value) -> Option<&str> {
    token["content"].as_str()
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn new_tokens_come_behind_all_ids_and_known_ones_stay() {
        let tokenizer = json!({
            "added_tokens": [{"id": 7, "content": "<s>"}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<x>": 2}},
        });
        let tokens = ["<s>", "<x>", "<new>", "<newer>"].map(|content| json!({"content": content}));
        let (grown, n_ids) = extended(tokenizer, tokens.to_vec());
        let found: Vec<_> = added(&grown)
            .iter()
            .map(|token| (content(token).unwrap().to_owned(), token["id"].as_i64().unwrap()))
            .collect();
        let expected = [("<s>", 7), ("<x>", 2), ("<new>", 8), ("<newer>", 9)];
        assert_eq!(found, expected.map(|(text, id)| (text.to_owned(), id)));
        assert_eq!(n_ids, 10);
    }
}
