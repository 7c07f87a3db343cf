//! What a `tokenizer.json` says, if it is a BPE of a known form to the letter.

use super::fold::Folded;
use super::merge::{Merges, Symbols};
use super::split::Split;
use super::{Lead, Normal};
use crate::tokenizer::added::Added;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Value, json};
use std::borrow::Cow;
use std::fmt;

/// What encoding needs of a file.
pub(super) struct Parts {
    pub(super) added: Added,
    pub(super) split: Split,
    pub(super) merges: Merges,
    pub(super) normal: Normal,
}

/// Reads the parts; `None` where anything is not known exactly.
pub(super) fn read(json: &[u8]) -> Option<Parts> {
    let file: File<'_> = serde_json::from_slice(json).ok()?;
    let model = file.model;
    let lead = lead(&file.normalizer, &file.pre_tokenizer);
    let (normal, split, symbols) = match lead {
        Some(lead) if model.byte_fallback && !model.ignore_merges => {
            let symbols = Symbols::characters(&model.vocab.0, &model.merges)?;
            (Normal::Spaces(lead), Split::Spaces { lines: symbols.breaks_lines() }, symbols)
        }
        None if model.unk_token.is_none() && !model.byte_fallback => {
            let normal = match file.normalizer {
                None => Normal::No,
                Some(normalizer) if normalizer == json!({"type": "NFC"}) => Normal::Nfc,
                Some(_) => return None,
            };
            (normal, Split::of(&file.pre_tokenizer?)?, Symbols::bytes(&model.vocab.0))
        }
        _ => return None,
    };
    let is_plain = model.kind.is_none_or(|kind| kind.0 == "BPE")
        && model.dropout.is_none_or(|dropout| dropout == 0.0)
        && model.continuing_subword_prefix.is_none_or(|prefix| prefix.0.is_empty())
        && model.end_of_word_suffix.is_none_or(|suffix| suffix.0.is_empty());
    let added_is_plain = file
        .added_tokens
        .iter()
        .all(|token| !(token.single_word || token.lstrip || token.rstrip || token.normalized));
    if !is_plain || !added_is_plain {
        return None;
    }
    let added = file.added_tokens.into_iter().map(|token| (token.content.0.into_owned(), token.id));
    Some(Parts {
        added: Added::new(added),
        split,
        merges: Merges::new(&model.vocab.0, &model.merges, symbols, model.ignore_merges)?,
        normal,
    })
}

/// Where a space is put in front, if spaces are characters of words as with SentencePiece.
fn lead(normalizer: &Option<Value>, pre_tokenizer: &Option<Value>) -> Option<Lead> {
    let replaced = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepended = json!({"type": "Sequence", "normalizers": [
        {"type": "Prepend", "prepend": "▁"}, replaced,
    ]});
    // It finds nothing to split at, since no space is left.
    let idle = json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
    });
    let metaspace = |scheme: &str| json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    match (normalizer, pre_tokenizer) {
        (Some(normalizer), None) if *normalizer == prepended => Some(Lead::Always),
        (Some(normalizer), Some(split)) if *normalizer == replaced && *split == idle => {
            Some(Lead::Never)
        }
        (None, Some(split)) => {
            let schemes = [
                ("always", Lead::Missing),
                ("first", Lead::MissingAtStart),
                ("never", Lead::Never),
            ];
            schemes
                .into_iter()
                .find(|(scheme, _)| *split == metaspace(scheme))
                .map(|(_, lead)| lead)
        }
        _ => None,
    }
}

#[derive(Deserialize)]
struct File<'a> {
    #[serde(borrow)]
    added_tokens: Vec<AddedToken<'a>>,
    normalizer: Option<Value>,
    pre_tokenizer: Option<Value>,
    #[serde(borrow)]
    model: Bpe<'a>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddedToken<'a> {
    id: u32,
    #[serde(borrow)]
    content: Text<'a>,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    #[expect(dead_code, reason = "a special token is found as any other; decoding asks for it")]
    special: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bpe<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<Text<'a>>,
    dropout: Option<f32>,
    unk_token: Option<Value>,
    #[serde(borrow)]
    continuing_subword_prefix: Option<Text<'a>>,
    #[serde(borrow)]
    end_of_word_suffix: Option<Text<'a>>,
    #[expect(dead_code, reason = "no character is unknown: each is its bytes at worst")]
    #[serde(default)]
    fuse_unk: bool,
    #[serde(default)]
    byte_fallback: bool,
    #[serde(default)]
    ignore_merges: bool,
    #[serde(borrow)]
    vocab: Vocab<'a>,
    #[serde(borrow)]
    merges: Vec<Merge<'a>>,
}

/// A string, borrowed from the file unless it has escapes.
#[derive(Deserialize, PartialEq, Eq, Hash)]
pub(super) struct Text<'a>(#[serde(borrow)] pub(super) Cow<'a, str>);

/// Tokens as the file spells them, with their ids.
struct Vocab<'a>(Folded<Cow<'a, str>, u32>);

impl<'de: 'a, 'a> Deserialize<'de> for Vocab<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocab<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut vocab = Folded::default();
                while let Some((Text(token), id)) = map.next_entry::<Text<'de>, u32>()? {
                    vocab.insert(token, id);
                }
                Ok(Vocab(vocab))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// Two tokens that become one: `["a", "b"]`, or `"a b"` in older files.
pub(super) struct Merge<'a>(pub(super) Cow<'a, str>, pub(super) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Merge<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("two tokens")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                let (left, right) = text.split_once(' ').ok_or_else(|| E::custom("one token"))?;
                if right.contains(' ') || text.starts_with("#version") {
                    return Err(E::custom("not two tokens"));
                }
                Ok(Merge(left.to_owned().into(), right.to_owned().into()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
                let mut next = || {
                    let text: Option<Text<'de>> = seq.next_element()?;
                    text.map(|text| text.0).ok_or_else(|| A::Error::custom("one token"))
                };
                let pair = Merge(next()?, next()?);
                match seq.next_element::<Text<'de>>()? {
                    None => Ok(pair),
                    Some(_) => Err(A::Error::custom("three tokens")),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}
