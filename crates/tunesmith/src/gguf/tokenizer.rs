//! From GGUF's metadata about the vocabulary to a `tokenizer.json`.
//!
//! GGUF names a pre-tokenizer where `tokenizer.json` describes it; [`PRE`] has both. Files written here also carry the
//! whole `tokenizer.json`, which wins when they are read again.

use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use tunesmith_model::gguf::GgufValue;

pub(super) const WHOLE: &str = "tokenizer.huggingface.json";

/// GGUF's types of tokens.
pub(super) const NORMAL: i64 = 1;
pub(super) const UNKNOWN: i64 = 2;
pub(super) const CONTROL: i64 = 3;
pub(super) const USER_DEFINED: i64 = 4;
pub(super) const BYTE: i64 = 6;

/// GGUF's name of a pre-tokenizer; its regular expression, where it has one; whether single digits are split off; the
/// normalizer; whether words of the vocabulary skip the merges.
pub(super) struct Pre {
    pub(super) name: &'static str,
    regex: Option<&'static str>,
    digits: bool,
    nfc: bool,
    ignore_merges: bool,
}

const PRE: [Pre; 4] = [
    Pre { name: "gpt-2", regex: None, digits: false, nfc: false, ignore_merges: false },
    Pre { name: "smollm", regex: None, digits: true, nfc: false, ignore_merges: false },
    Pre {
        name: "llama-bpe",
        regex: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        digits: false,
        nfc: false,
        ignore_merges: true,
    },
    Pre {
        name: "qwen2",
        regex: Some(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ),
        digits: false,
        nfc: true,
        ignore_merges: false,
    },
];

impl Pre {
    fn pre_tokenizer(&self) -> Value {
        let bytes = json!({
            "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": self.regex.is_none(),
        });
        let first = match self.regex {
            Some(regex) => json!({
                "type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false
            }),
            None if self.digits => json!({"type": "Digits", "individual_digits": true}),
            None => return bytes,
        };
        json!({"type": "Sequence", "pretokenizers": [first, bytes]})
    }

    /// The one that a `tokenizer.json` describes. `trim_offsets` changes no id.
    pub(super) fn of(json: &Value) -> Option<&'static Self> {
        let found = without_offsets(json["pre_tokenizer"].clone());
        let nfc = json["normalizer"]["type"] == "NFC";
        PRE.iter().find(|pre| {
            without_offsets(pre.pre_tokenizer()) == found
                && pre.nfc == nfc
                && (pre.nfc || json["normalizer"].is_null())
        })
    }
}

fn without_offsets(mut value: Value) -> Value {
    if let Some(object) = value.as_object_mut() {
        object.remove("trim_offsets");
        for inner in
            object.get_mut("pretokenizers").and_then(Value::as_array_mut).into_iter().flatten()
        {
            if let Some(inner) = inner.as_object_mut() {
                inner.remove("trim_offsets");
            }
        }
    }
    value
}

/// The `tokenizer.json` that a file's metadata stand for.
///
/// # Errors
/// `None` where the file has no tokenizer; else why its tokenizer cannot be rebuilt.
pub(crate) fn to_json(metadata: &BTreeMap<String, GgufValue>) -> Result<String, Option<String>> {
    if let Some(whole) = metadata.get(WHOLE).and_then(GgufValue::as_str) {
        return Ok(whole.to_owned());
    }
    let get = |key: &str| metadata.get(&format!("tokenizer.ggml.{key}"));
    let Some(tokens) = get("tokens").and_then(GgufValue::as_array) else { return Err(None) };
    let tokens: Vec<&str> = tokens.iter().map(|token| token.as_str().unwrap_or_default()).collect();
    let types: Vec<i64> = get("token_type").and_then(GgufValue::as_array).map_or_else(
        || vec![NORMAL; tokens.len()],
        |types| types.iter().map(|kind| kind.as_f64().map_or(NORMAL, |kind| kind as i64)).collect(),
    );
    let added: Vec<Value> = (tokens.iter().zip(&types).enumerate())
        .filter(|(_, (_, kind))| matches!(**kind, CONTROL | USER_DEFINED | UNKNOWN))
        .map(|(id, (token, kind))| {
            json!({
                "id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": *kind != USER_DEFINED,
            })
        })
        .collect();
    let vocab: Map<String, Value> =
        tokens.iter().enumerate().map(|(id, token)| ((*token).to_owned(), json!(id))).collect();
    let mut json = match get("model").and_then(GgufValue::as_str) {
        Some("gpt2") => byte_level(get("pre"), get("merges"))?,
        Some("llama") => sentence_piece(&tokens, &types, get("scores"), get("add_space_prefix"))?,
        other => return Err(Some(format!("tokenizer.ggml.model {other:?} is not supported"))),
    };
    json["model"]["vocab"] = Value::Object(vocab);
    json["added_tokens"] = Value::Array(added);
    let is_spm = get("model").and_then(GgufValue::as_str) == Some("llama");
    let bos = get("bos_token_id").and_then(GgufValue::as_u64);
    let adds_bos = get("add_bos_token").and_then(GgufValue::as_bool).unwrap_or(is_spm);
    if let Some(bos) = bos.filter(|_| adds_bos)
        && let Some(token) = tokens.get(bos as usize)
    {
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": token, "type_id": 1}}, {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {(*token): {"id": token, "ids": [bos], "tokens": [token]}},
        });
    }
    Ok(json.to_string())
}

/// Byte-level BPE.
fn byte_level(
    pre: Option<&GgufValue>,
    merges: Option<&GgufValue>,
) -> Result<Value, Option<String>> {
    let name = pre.and_then(GgufValue::as_str).unwrap_or("nothing");
    let Some(pre) = PRE.iter().find(|pre| pre.name == name) else {
        let known = PRE.map(|pre| pre.name).join(", ");
        return Err(Some(format!("tokenizer.ggml.pre: expected one of {known}, found {name}")));
    };
    let Some(merges) = merges.and_then(GgufValue::as_array) else {
        return Err(Some("no tokenizer.ggml.merges".into()));
    };
    let merges: Vec<Value> = merges
        .iter()
        .filter_map(|merge| merge.as_str()?.split_once(' '))
        .map(|(left, right)| json!([left, right]))
        .collect();
    let normalizer = if pre.nfc { json!({"type": "NFC"}) } else { Value::Null };
    let bytes = json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true
    });
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer,
        "pre_tokenizer": pre.pre_tokenizer(), "post_processor": null, "decoder": bytes,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": pre.ignore_merges, "merges": merges,
        },
    }))
}

/// SentencePiece's BPE: of two tokens that stand side by side, those are merged first whose union has the best score.
fn sentence_piece(
    tokens: &[&str],
    types: &[i64],
    scores: Option<&GgufValue>,
    prefix: Option<&GgufValue>,
) -> Result<Value, Option<String>> {
    let Some(scores) = scores.and_then(GgufValue::as_array) else {
        return Err(Some("no tokenizer.ggml.scores".into()));
    };
    let ids: HashMap<&str, usize> =
        tokens.iter().enumerate().map(|(id, token)| (*token, id)).collect();
    let mut merges: Vec<(f64, usize, usize, usize)> = Vec::new();
    for (id, (token, score)) in tokens.iter().zip(scores).enumerate() {
        if types.get(id) != Some(&NORMAL) {
            continue;
        }
        let score = score.as_f64().unwrap_or_default();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&left), Some(&right)) = (ids.get(left), ids.get(right)) {
                merges.push((score, id, left, right));
            }
        }
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.1, a.2, a.3).cmp(&(b.1, b.2, b.3))));
    let merges: Vec<Value> = merges
        .into_iter()
        .map(|(_, _, left, right)| json!([tokens[left], tokens[right]]))
        .collect();
    let unknown = types.iter().position(|&kind| kind == UNKNOWN).map(|id| tokens[id]);
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let normalizer = match prefix.and_then(GgufValue::as_bool).unwrap_or(true) {
        true => json!({
            "type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"}, replace]
        }),
        false => replace,
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null, "normalizer": normalizer,
        "pre_tokenizer": null, "post_processor": null,
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "dropout": null, "unk_token": unknown, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": true, "byte_fallback": true,
            "ignore_merges": false, "merges": merges,
        },
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gguf::vocabulary::to_metadata;
    use tunesmith_tokens::Tokenizer;

    const TEXTS: [&str; 6] = [
        "Hello, world! It's 2024 — isn't it?",
        "  leading and   many spaces\n\nand\tlines \r\n",
        "Ünïcödé 日本語 🦀 ß\u{0301}",
        "fn main() { println!(\"{}\", 1_000_000); }",
        "<|im_start|>user\nHi<|im_end|>",
        "",
    ];

    /// A tokenizer that has been through GGUF's own metadata gives the same ids.
    #[test]
    fn a_rebuilt_tokenizer_is_the_original() {
        let Some(parts) = std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty())
        else {
            tracing::warn!("skipped: TUNESMITH_PARTS is not set");
            return;
        };
        let parts = std::path::PathBuf::from(parts);
        let cases = [
            ("smollm2-135m-instruct", 49152, "<|im_start|>"),
            ("tokenizers/gpt2", 50257, "<|endoftext|>"),
            ("tokenizers/llama3", 128_256, "<|begin_of_text|>"),
            ("tokenizers/qwen2_5", 151_936, "<|endoftext|>"),
            ("stories15m", 32000, "<s>"),
        ];
        for (name, vocab_size, bos) in cases {
            let text = std::fs::read_to_string(parts.join(name).join("tokenizer.json")).unwrap();
            let special = [("bos", bos.to_owned())];
            let (metadata, note) = to_metadata(&text, vocab_size, &special).unwrap();
            assert_eq!(note, None, "{name}");
            let whole: BTreeMap<String, GgufValue> = metadata.into_iter().collect();
            assert_eq!(to_json(&whole).unwrap(), text, "{name}: what tunesmith wrote is whole");
            let mut bare = whole;
            bare.remove(WHOLE);
            let folder = tempfile::tempdir().unwrap();
            let read = |text: String| {
                let path = folder.path().join("tokenizer.json");
                std::fs::write(&path, text).unwrap();
                Tokenizer::from_file(&path).unwrap()
            };
            let (rebuilt, original) = (read(to_json(&bare).unwrap()), read(text));
            for text in TEXTS {
                let ids = |tokenizer: &Tokenizer| tokenizer.encode_with_special(text).unwrap();
                assert_eq!(ids(&rebuilt), ids(&original), "{name}: {text:?}");
            }
        }
    }

    #[test]
    fn what_cannot_be_rebuilt_is_named() {
        let metadata = |pre: &str| -> BTreeMap<String, GgufValue> {
            let entries = [
                ("model", "gpt2".into()),
                ("pre", pre.into()),
                ("tokens", GgufValue::strings(["a"])),
            ];
            entries
                .into_iter()
                .map(|(key, value)| (format!("tokenizer.ggml.{key}"), value))
                .collect()
        };
        let problem = to_json(&metadata("deepseek-v9")).unwrap_err().unwrap();
        assert!(problem.contains("llama-bpe") && problem.contains("deepseek-v9"), "{problem}");
        assert_eq!(to_json(&BTreeMap::new()), Err(None));
    }
}
