//! From a `tokenizer.json` to GGUF's metadata about the vocabulary.

use super::tokenizer::{BYTE, CONTROL, NORMAL, Pre, UNKNOWN, USER_DEFINED, WHOLE};
use serde_json::Value;
use std::collections::HashMap;
use tunesmith_model::gguf::{GgufValue, Metadata};

/// GGUF's metadata for a `tokenizer.json`, and what readers other than tunesmith will not know.
///
/// `vocab_size`: rows of the model's embedding; what has no token is filled up. `special`: (name in GGUF, token).
pub(crate) fn to_metadata(
    text: &str,
    vocab_size: usize,
    special: &[(&str, String)],
) -> Result<(Metadata, Option<String>), serde_json::Error> {
    let json: Value = serde_json::from_str(text)?;
    let model = &json["model"];
    let mut tokens: Vec<String> = (0..vocab_size).map(|id| format!("[PAD{id}]")).collect();
    let mut types = vec![5; vocab_size]; // unused
    let mut put = |id: Option<u64>, token: &str, kind: i64| {
        if let Some(id) = id.and_then(|id| usize::try_from(id).ok()).filter(|&id| id < vocab_size) {
            token.clone_into(&mut tokens[id]);
            types[id] = kind;
        }
    };
    let is_spm = model["byte_fallback"] == true;
    for (token, id) in model["vocab"].as_object().into_iter().flatten() {
        let is_byte =
            is_spm && token.len() == 6 && token.starts_with("<0x") && token.ends_with('>');
        put(id.as_u64(), token, if is_byte { BYTE } else { NORMAL });
    }
    for added in json["added_tokens"].as_array().into_iter().flatten() {
        let content = added["content"].as_str().unwrap_or_default();
        let kind = match added["special"] == true {
            true if model["unk_token"] == content && is_spm => UNKNOWN,
            true => CONTROL,
            false => USER_DEFINED,
        };
        put(added["id"].as_u64(), content, kind);
    }
    let merges: Vec<(String, String)> = model["merges"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|merge| match merge {
            Value::String(text) => text.split_once(' ').map(|(l, r)| (l.into(), r.into())),
            pair => Some((pair[0].as_str()?.into(), pair[1].as_str()?.into())),
        })
        .collect();
    let mut metadata = Vec::new();
    let mut set =
        |key: &str, value: GgufValue| metadata.push((format!("tokenizer.ggml.{key}"), value));
    let mut unknown = None;
    if is_spm {
        let first: HashMap<String, usize> = (merges.iter().enumerate().rev())
            .map(|(rank, (left, right))| (format!("{left}{right}"), rank))
            .collect();
        // Single characters come last: nothing is merged into them.
        let score = |token: &String| -(first.get(token).map_or(merges.len(), |&rank| rank) as f32);
        set("model", "llama".into());
        set("pre", "default".into());
        let scores = tokens.iter().map(|token| GgufValue::F32(score(token)));
        set("scores", GgufValue::Array(scores.collect()));
        let prefix = json["normalizer"].to_string().contains("Prepend")
            || json["pre_tokenizer"].to_string().contains("\"prepend_scheme\":\"first\"");
        set("add_space_prefix", GgufValue::Bool(prefix));
    } else {
        let pre = Pre::of(&json);
        if pre.is_none() {
            unknown = Some(
                "llama.cpp has no name for this model's pre-tokenizer: other readers may split text otherwise".into(),
            );
        }
        set("model", "gpt2".into());
        set("pre", pre.map_or("default", |pre| pre.name).into());
        let merges: Vec<String> = merges.iter().map(|(l, r)| format!("{l} {r}")).collect();
        set("merges", GgufValue::strings(merges.iter().map(String::as_str)));
    }
    let bos = special.iter().find(|(name, _)| *name == "bos").map(|(_, token)| token.as_str());
    let adds_bos = bos.is_some_and(|bos| {
        json["post_processor"]["single"].to_string().contains(&format!("{bos:?}"))
    });
    set("add_bos_token", GgufValue::Bool(adds_bos));
    for (name, token) in special {
        if let Some(id) = tokens.iter().position(|known| known == token) {
            set(&format!("{name}_token_id"), GgufValue::Unsigned(id as u64));
        }
    }
    set("tokens", GgufValue::strings(tokens.iter().map(String::as_str)));
    set("token_type", GgufValue::Array(types.into_iter().map(GgufValue::Signed).collect()));
    metadata.push((WHOLE.to_owned(), text.into()));
    Ok((metadata, unknown))
}
