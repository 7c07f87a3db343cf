//! Which ids begin and end a text, from the configuration files beside a tokenizer.

use super::{Tokenizer, TokenizerError};
use crate::template::{TemplateError, read_json, special_tokens};
use serde_json::Value;
use std::path::Path;

/// The ids that were found.
pub(super) struct Found {
    /// EOS first, then the further ids that end a generation.
    pub(super) eos: Vec<u32>,
    /// BOS.
    pub(super) bos: Option<u32>,
}

/// The tokenizer's own word counts first (`tokenizer_config.json`, `special_tokens_map.json`); the model's
/// (`generation_config.json`, `config.json`) fills what it leaves open, and may list several EOS ids.
pub(super) fn find(dir: &Path, tokenizer: &Tokenizer) -> Result<Found, TokenizerError> {
    let tokens = special_tokens(dir).map_err(file_error)?;
    let by_name = |name: &str| tokens.get(name).and_then(|token| tokenizer.token_to_id(token));
    let mut eos: Vec<u32> = by_name("eos_token").into_iter().collect();
    let mut bos = by_name("bos_token");
    for file in ["generation_config.json", "config.json"] {
        let Some(json) = read_json(&dir.join(file)).map_err(file_error)? else { continue };
        for id in ids(&json["eos_token_id"]) {
            if !eos.contains(&id) {
                eos.push(id);
            }
        }
        bos = bos.or_else(|| ids(&json["bos_token_id"]).first().copied());
    }
    Ok(Found { eos, bos })
}

/// A number or a list of numbers.
fn ids(value: &Value) -> Vec<u32> {
    let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    list.iter().filter_map(|id| u32::try_from(id.as_u64()?).ok()).collect()
}

fn file_error(error: TemplateError) -> TokenizerError {
    match error {
        TemplateError::Read { path, source } => TokenizerError::Read { path, source },
        TemplateError::BadFile { path, reason } => TokenizerError::Invalid { path, reason },
        other => TokenizerError::Encode(other.to_string()),
    }
}
