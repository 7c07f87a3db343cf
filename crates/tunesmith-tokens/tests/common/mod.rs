//! What the golden tests share: reading goldens, the hash that `golden/make.py` writes, and the parts folder.

#![allow(dead_code, reason = "each test binary uses a part of it")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say why they skip"
)]

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tunesmith_tokens::Conversation;

/// A file that `golden/make.py` wrote.
pub(crate) fn golden(name: &str) -> Value {
    let path = golden_path(name);
    serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap()
}

/// Where it lies.
pub(crate) fn golden_path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// The folder of fetched models and templates, or `None` with a printed reason.
pub(crate) fn parts(test: &str) -> Option<PathBuf> {
    match std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty()) {
        Some(dir) => Some(PathBuf::from(dir)),
        None => {
            eprintln!("{test}: skipped, since TUNESMITH_PARTS names no folder of fetched parts");
            None
        }
    }
}

/// The conversations by name, each with whether the generation prompt is added.
pub(crate) fn conversations() -> Vec<(String, Conversation, bool)> {
    let Value::Object(all) = golden("conversations.json") else { panic!("not an object") };
    let read = |(name, value): (String, Value)| {
        let prompt = value["add_generation_prompt"].as_bool().unwrap_or(false);
        (name, serde_json::from_value(value).unwrap(), prompt)
    };
    all.into_iter().map(read).collect()
}

/// 64-bit FNV-1a, in hexadecimal.
pub(crate) fn fnv(bytes: &[u8]) -> String {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// Length and hash of a text, as the goldens store it.
pub(crate) fn text_digest(text: &str) -> Value {
    serde_json::json!([text.len(), fnv(text.as_bytes())])
}

/// Length and hash of token ids.
pub(crate) fn ids_digest(ids: &[u32]) -> Value {
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    serde_json::json!([ids.len(), fnv(&bytes)])
}

/// An object's entries.
pub(crate) fn entries(value: &Value) -> &Map<String, Value> {
    value.as_object().unwrap()
}

/// Token ids of a JSON list.
pub(crate) fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}
