//! Tokens added to a `tokenizer.json`, known or new, in their own places or in those that the model keeps in reserve.

use serde_json::Value;
use std::collections::HashMap;

/// The tokens of an adapter's tokenizer that the model's `own` lacks, in the order of their ids: each has the id of one
/// that the adapter's no longer has, or the next free one. The error says what is otherwise.
pub(super) fn brought(own: &Value, theirs: &Value) -> Result<Vec<Value>, String> {
    let [own_ids, their_ids] = [own, theirs].map(ids);
    let moved = |(text, id): (&String, &i64)| {
        let own = own_ids.get(text).filter(|own| *own != id)?;
        Some((*id, text.clone(), *own))
    };
    if let Some((id, text, own)) = their_ids.iter().filter_map(moved).min() {
        return Err(format!("`{text}` has id {id} instead of {own}"));
    }
    let mut new = added(theirs);
    new.retain(|token| content(token).is_some_and(|text| !own_ids.contains_key(text)));
    new.sort_by_key(|token| token["id"].as_i64());
    let mut old = texts(own);
    let mut next = next_id(own);
    for token in &new {
        let text = content(token).unwrap_or_default();
        let id = token["id"].as_i64().ok_or_else(|| format!("`{text}` has no id"))?;
        match old.remove(&id) {
            Some(piece) if is_merged(own, &piece) => {
                return Err(format!("`{text}` has id {id}, that of `{piece}`, which merges use"));
            }
            Some(_) => {}
            None if id == next => next += 1,
            None => {
                return Err(format!("`{text}` has id {id} instead of {next}, the next free one"));
            }
        }
    }
    Ok(new)
}

/// A tokenizer with further tokens.
pub(super) struct Extended {
    pub(super) tokenizer: Value,
    pub(super) n_ids: i64,
    /// Texts of tokens that are no more, with those which have their ids.
    pub(super) renamed: HashMap<String, String>,
}

/// A tokenizer.json with `tokens`: each under the id that it has in the vocabulary, or that it brings, where it takes the
/// place of what is there; else behind all others, under the next free id.
pub(super) fn extended(mut tokenizer: Value, tokens: Vec<Value>) -> Extended {
    let vocabulary: HashMap<String, i64> = vocabulary(&tokenizer).into_iter().collect();
    let old = texts(&tokenizer);
    let mut own = added(&tokenizer);
    let mut next = next_id(&tokenizer);
    let mut names = HashMap::new();
    let mut renamed = HashMap::new();
    for mut token in tokens {
        if own.iter().any(|other| content(other) == content(&token)) {
            continue;
        }
        let text = content(&token).unwrap_or_default().to_owned();
        let known = vocabulary.get(&text).copied();
        let id = known.or(token["id"].as_i64()).unwrap_or(next);
        next = next.max(id + 1);
        token["id"] = id.into();
        if let Some(old) = old.get(&id).filter(|old| **old != text) {
            renamed.insert(old.clone(), text.clone());
            names.insert(id, text);
        }
        // In its place, since readers may number the tokens by their order.
        match own.iter_mut().find(|other| other["id"].as_i64() == Some(id)) {
            Some(other) => *other = token,
            None => own.push(token),
        }
    }
    tokenizer["added_tokens"] = own.into();
    if let Some(vocabulary) = tokenizer.pointer_mut("/model/vocab") {
        rename_ids(vocabulary, &names);
    }
    Extended { tokenizer, n_ids: next, renamed }
}

/// Gives ids of a vocabulary other texts.
fn rename_ids(vocabulary: &mut Value, names: &HashMap<i64, String>) {
    match vocabulary {
        Value::Object(own) => {
            let name = |(text, id): (String, Value)| {
                let name = id.as_i64().and_then(|id| names.get(&id)).cloned();
                (name.unwrap_or(text), id)
            };
            *own = std::mem::take(own).into_iter().map(name).collect();
        }
        Value::Array(pieces) => {
            for (id, piece) in (0i64..).zip(pieces) {
                if let (Some(name), Some(text)) = (names.get(&id), piece.get_mut(0)) {
                    *text = name.clone().into();
                }
            }
        }
        _ => {}
    }
}

/// Replaces each text that has another name now.
pub(super) fn rename_values(value: &mut Value, names: &HashMap<String, String>) {
    match value {
        Value::String(text) => {
            if let Some(name) = names.get(text.as_str()) {
                text.clone_from(name);
            }
        }
        Value::Array(values) => values.iter_mut().for_each(|value| rename_values(value, names)),
        Value::Object(values) => values.values_mut().for_each(|value| rename_values(value, names)),
        _ => {}
    }
}

/// Whether merges of BPE make `text`, or something of it.
fn is_merged(tokenizer: &Value, text: &str) -> bool {
    let merges = tokenizer["model"]["merges"].as_array();
    merges.into_iter().flatten().any(|merge| {
        let pair = match merge {
            Value::String(pair) => pair.split_once(' '),
            pair => pair[0].as_str().zip(pair[1].as_str()),
        };
        pair.is_some_and(|(a, b)| a == text || b == text || text.strip_prefix(a) == Some(b))
    })
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

/// Every text that is one token, with its id: the vocabulary's where it has one.
fn ids(tokenizer: &Value) -> HashMap<String, i64> {
    let id = |token: Value| Some((content(&token)?.to_owned(), token["id"].as_i64()?));
    added(tokenizer).into_iter().filter_map(id).chain(vocabulary(tokenizer)).collect()
}

fn texts(tokenizer: &Value) -> HashMap<i64, String> {
    ids(tokenizer).into_iter().map(|(text, id)| (id, text)).collect()
}

fn next_id(tokenizer: &Value) -> i64 {
    ids(tokenizer).values().max().map_or(0, |last| last + 1)
}

fn added(tokenizer: &Value) -> Vec<Value> {
    tokenizer["added_tokens"].as_array().cloned().unwrap_or_default()
}

fn content(token: &Value) -> Option<&str> {
    token["content"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Ids 0 to 2 in the vocabulary, 3 to 5 behind it.
    fn base() -> Value {
        json!({
            "added_tokens": [
                {"id": 3, "content": "<s>"}, {"id": 4, "content": "<|reserved_0|>"}, {"id": 5, "content": "<|reserved_1|>"},
            ],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        })
    }

    fn found(tokenizer: &Value) -> Vec<(String, i64)> {
        let pair =
            |token: &Value| (content(token).unwrap().to_owned(), token["id"].as_i64().unwrap());
        added(tokenizer).iter().map(pair).collect()
    }

    fn owned<const N: usize>(pairs: [(&str, i64); N]) -> Vec<(String, i64)> {
        pairs.map(|(text, id)| (text.to_owned(), id)).to_vec()
    }

    #[test]
    fn new_tokens_come_behind_all_ids_and_known_ones_stay() {
        let tokenizer = json!({
            "added_tokens": [{"id": 7, "content": "<s>"}],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "<x>": 2}},
        });
        let tokens = ["<s>", "<x>", "<new>", "<newer>"].map(|content| json!({"content": content}));
        let grown = extended(tokenizer, tokens.to_vec());
        let expected = owned([("<s>", 7), ("<x>", 2), ("<new>", 8), ("<newer>", 9)]);
        assert_eq!(found(&grown.tokenizer), expected);
        assert_eq!(grown.n_ids, 10);
        assert!(grown.renamed.is_empty());
    }

    #[test]
    fn a_token_that_took_a_reserved_place_keeps_its_id() {
        let mut theirs = base();
        theirs["added_tokens"][1] = json!({"id": 4, "content": "<|tool|>", "special": true});
        // Out of order in the file: their ids count.
        let further = [("<|later|>", 7), ("<|call|>", 6)];
        let further = further.map(|(content, id)| json!({"id": id, "content": content}));
        theirs["added_tokens"].as_array_mut().unwrap().extend(further);
        let tokens = brought(&base(), &theirs).unwrap();
        let grown = extended(base(), tokens);
        let expected = owned([
            ("<s>", 3),
            ("<|tool|>", 4),
            ("<|reserved_1|>", 5),
            ("<|call|>", 6),
            ("<|later|>", 7),
        ]);
        assert_eq!(found(&grown.tokenizer), expected);
        assert_eq!(grown.tokenizer["added_tokens"][1]["special"], true, "the adapter's entry");
        assert_eq!(grown.n_ids, 8);
        let mut roles = json!({"pad_token": "<|reserved_0|>", "eos_token": {"content": "<s>"}});
        rename_values(&mut roles, &grown.renamed);
        assert_eq!(roles, json!({"pad_token": "<|tool|>", "eos_token": {"content": "<s>"}}));
    }

    #[test]
    fn a_reserved_place_in_the_vocabulary_is_renamed_there() {
        let object = json!({"model": {"vocab": {"a": 0, "[PAD1]": 1, "c": 2}}});
        let list = json!({"model": {"vocab": [["a", 0.0], ["[PAD1]", -1.0], ["c", -2.0]]}});
        for own in [object, list] {
            let mut theirs = own.clone();
            rename_ids(&mut theirs["model"]["vocab"], &HashMap::from([(1, "<|tool|>".to_owned())]));
            theirs["added_tokens"] = json!([{"id": 1, "content": "<|tool|>"}]);
            let tokens = brought(&own, &theirs).unwrap();
            let grown = extended(own, tokens);
            assert_eq!(grown.tokenizer, theirs);
            assert_eq!((next_id(&grown.tokenizer), grown.n_ids), (3, 3));
        }
    }

    #[test]
    fn tokens_under_other_ids_are_refused() {
        let refused = |place: usize, id: i64, content: &str| {
            let mut theirs = base();
            theirs["added_tokens"][place] = json!({"id": id, "content": content});
            brought(&base(), &theirs).unwrap_err()
        };
        assert_eq!(refused(0, 9, "<s>"), "`<s>` has id 9 instead of 3");
        assert_eq!(refused(1, 7, "<x>"), "`<x>` has id 7 instead of 6, the next free one");
        let mut theirs = base();
        theirs["model"] = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "<x>": 2}, "merges": []});
        theirs["added_tokens"][0] = json!({"id": 2, "content": "<x>"});
        let why = brought(&base(), &theirs).unwrap_err();
        assert_eq!(why, "`<x>` has id 2, that of `ab`, which merges use");
    }

    #[test]
    fn the_same_tokenizer_brings_nothing() {
        assert_eq!(brought(&base(), &base()), Ok(Vec::new()));
    }
}
