//! Our own encoding against the `tokenizers` crate: ids and spans of many strings that are made to find differences.

use super::Tokenizer;
use super::bpe::Later;
use std::path::{Path, PathBuf};

/// Strings of the normal test and of the long one, over all tokenizers.
const MANY: u64 = 20_000;
const VERY_MANY: u64 = 1_000_000;

/// Tokenizers of the parts; stories15m has Llama 2's.
const NAMES: [&str; 5] = [
    "tokenizers/gpt2",
    "tokenizers/llama3",
    "tokenizers/qwen2_5",
    "smollm2-135m-instruct",
    "stories15m",
];

/// Pieces that tokenizers stumble over; each string is a row of them, of pieces of real text, and of random characters.
const PIECES: [&str; 61] = [
    " ",
    "  ",
    "   ",
    "\n",
    "\n\n",
    "\r\n",
    "\r",
    "\t",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "\u{85}",
    "\u{200b}",
    "'",
    "'s",
    "'S",
    "'ll",
    "'LL",
    "'Ve",
    "'ſ",
    "’s",
    "a",
    "Z",
    "the",
    " the",
    "don't",
    "0",
    "7",
    "12",
    "345",
    "2024",
    "1234567890",
    "½",
    "²",
    "Ⅷ",
    "٣",
    "四",
    ".",
    "...",
    "?!",
    "--",
    "()",
    "{}",
    "<",
    "<|",
    "|>",
    "<|im_end|>",
    "<|im_start|>",
    "<|endoftext|>",
    "<|eot_id|>",
    "</s>",
    "▁",
    "é",
    "e\u{301}",
    "\u{301}",
    "ﬁ",
    "ß",
    "한국어",
    "🦙",
    "👩‍👩‍👧",
    "\0",
];

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) % n as u64) as usize
    }

    fn character(&mut self) -> char {
        // Half of them from where text is, half from anywhere.
        let limit = [0x80, 0x250, 0x600, 0x3000, 0x1_0000, 0x1_0000, 0x2_0000, 0x11_0000];
        let limit = limit[self.below(limit.len())];
        char::from_u32(self.below(limit) as u32).unwrap_or('\u{FFFD}')
    }

    fn string(&mut self, corpus: &[char]) -> String {
        let mut text = String::new();
        let n_pieces = 1 + self.below(12);
        for _ in 0..n_pieces {
            match self.below(8) {
                0 => text.push(self.character()),
                1 => {
                    let (c, n) = (self.character(), 1 + self.below(70));
                    text.extend(std::iter::repeat_n(c, n));
                }
                2 | 3 if !corpus.is_empty() => {
                    let start = self.below(corpus.len());
                    let end = (start + 1 + self.below(60)).min(corpus.len());
                    text.extend(&corpus[start..end]);
                }
                4 => {
                    let n = 1 + self.below(80);
                    text.extend((0..n).map(|_| char::from(b'a' + self.below(26) as u8)));
                }
                _ => text.push_str(PIECES[self.below(PIECES.len())]),
            }
        }
        text
    }
}

/// The tokenizer's own encoding; none where it has none, or leaves this text to the crate.
fn check(tokenizer: &Tokenizer, name: &str, text: &str) -> bool {
    let Some(found) = tokenizer.own_spans(text) else { return false };
    let expected = super::tokens(&tokenizer.inner.encode(text, false).unwrap());
    if found != expected {
        let place = found.ids.iter().zip(&expected.ids).take_while(|(l, r)| l == r).count();
        panic!(
            "{name}: {text:?}: token {place} is {:?} at {:?} and not {:?} at {:?}",
            found.ids.get(place),
            found.spans.get(place),
            expected.ids.get(place),
            expected.spans.get(place)
        );
    }
    true
}

fn folder(name: &str) -> Option<PathBuf> {
    std::env::var_os("TUNESMITH_PARTS")
        .filter(|parts| !parts.is_empty())
        .map(|parts| Path::new(&parts).join(name))
}

fn compare(n_strings: u64) {
    let parts = NAMES;
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tunesmith-tiny");
    let found = parts.iter().filter_map(|part| folder(part));
    let dirs: Vec<PathBuf> =
        std::iter::once(tiny).chain(found.filter(|dir| dir.exists())).collect();
    let corpus: Vec<char> = include_str!("exact.rs").chars().collect();
    let n_each = n_strings / dirs.len() as u64;
    for (index, dir) in dirs.iter().enumerate() {
        let name = dir.display().to_string();
        let tokenizer = Tokenizer::from_dir(dir).unwrap();
        tokenizer.own.make().unwrap();
        let mut chance = Chance(index as u64);
        let strings = (0..n_each).map(|_| chance.string(&corpus));
        let n_own = strings.filter(|text| check(&tokenizer, &name, text)).count() as u64;
        // The rest held a byte without a token, or something that NFC changes.
        assert!(n_own > n_each / 3, "{name}: {n_own} of {n_each} strings were encoded here");
    }
}

/// SentencePiece's forms: Llama 2's own tokenizer, with what else files of the kind have for spaces.
#[test]
fn as_the_library_however_spaces_are_written() {
    let Some(file) = folder("stories15m/tokenizer.json") else { return };
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let metaspace = |scheme: &str| serde_json::json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": false});
    let idle = serde_json::json!({
        "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false,
    });
    let forms = [
        (serde_json::Value::Null, metaspace("first")),
        (serde_json::Value::Null, metaspace("always")),
        (serde_json::Value::Null, metaspace("never")),
        (json["normalizer"]["normalizers"][1].clone(), idle),
    ];
    let corpus: Vec<char> = include_str!("exact.rs").chars().collect();
    for (normalizer, pre_tokenizer) in forms {
        let mut json = json.clone();
        json["normalizer"] = normalizer;
        json["pre_tokenizer"] = pre_tokenizer;
        let tokenizer = Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap();
        tokenizer.own.make().unwrap();
        let mut chance = Chance(9);
        let strings = (0..500).map(|_| chance.string(&corpus));
        let name = json["pre_tokenizer"].to_string();
        let n_own = strings.filter(|text| check(&tokenizer, &name, text)).count();
        assert!(n_own > 300, "{name}: {n_own} strings were encoded here");
        for text in ["", " ", "  ", "x", " x", "</s>", "</s> x", "x</s>y </s>\n", "é", "\n", "中 "]
        {
            assert!(check(&tokenizer, &name, text));
        }
    }
}

/// Whatever a file has that is not known here leaves all of it to the library.
#[test]
fn files_of_other_forms_are_the_librarys() {
    use serde_json::{Value, json};
    let bytes = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/tokenizers/bytes.json");
    let spaces = folder("stories15m/tokenizer.json");
    let own = |json: &Value| Later::new(json.to_string().as_bytes()).make().is_some();
    for (file, changes) in [
        (
            Some(bytes),
            vec![
                ("/normalizer", json!({"type": "NFKC"})),
                ("/normalizer", json!({"type": "Lowercase"})),
                ("/pre_tokenizer", json!({"type": "Whitespace"})),
                ("/pre_tokenizer", Value::Null),
                ("/model/dropout", json!(0.1)),
                ("/model/unk_token", json!("</s>")),
                ("/model/byte_fallback", json!(true)),
                ("/model/continuing_subword_prefix", json!("##")),
                ("/model/end_of_word_suffix", json!("</w>")),
                ("/added_tokens/0/normalized", json!(true)),
                ("/added_tokens/0/single_word", json!(true)),
                ("/added_tokens/0/lstrip", json!(true)),
                ("/added_tokens/0/rstrip", json!(true)),
            ],
        ),
        (
            spaces.filter(|file| file.exists()),
            vec![
                ("/model/byte_fallback", json!(false)),
                ("/model/ignore_merges", json!(true)),
                ("/model/merges/0", json!("a ▁")),
                ("/model/merges/0", json!("<0x41> a")),
                ("/pre_tokenizer", json!({"type": "Whitespace"})),
                ("/normalizer/normalizers/0/prepend", json!("_")),
                ("/normalizer", json!({"type": "NFC"})),
            ],
        ),
    ] {
        let Some(file) = file else { continue };
        let text = std::fs::read_to_string(&file).unwrap();
        let mut json: Value = serde_json::from_str(&text).unwrap();
        let tokens = json["added_tokens"].as_array_mut().unwrap();
        tokens.retain(|token| token["lstrip"] == false && token["rstrip"] == false);
        assert!(own(&json), "{} is of a known form", file.display());
        for (pointer, value) in changes {
            let mut other = json.clone();
            *other.pointer_mut(pointer).unwrap() = value;
            let value = other.pointer(pointer).unwrap();
            assert!(!own(&other), "{} with {pointer} {value}", file.display());
        }
    }
}

/// The texts of llama.cpp's authors. `tests/encoding.rs` compares the ids with theirs, by way of the library.
#[test]
fn as_the_library_on_the_vectors() {
    let Some(vectors) = folder("templates/tokenizer-vectors/ggml-vocab-gpt-2.gguf.inp") else {
        return; // the fetched parts are not here
    };
    let texts = std::fs::read_to_string(vectors).unwrap();
    for name in NAMES {
        let tokenizer = Tokenizer::from_dir(folder(name).unwrap()).unwrap();
        tokenizer.own.make().unwrap();
        let n_own = texts
            .split("\n__ggml_vocab_test__\n")
            .filter(|text| check(&tokenizer, name, text))
            .count();
        assert!(n_own > 40, "{name}: {n_own} of the texts were encoded here");
    }
}

#[test]
fn as_the_library() {
    compare(MANY);
}

#[test]
#[ignore = "minutes"]
fn as_the_library_on_a_million_strings() {
    compare(VERY_MANY);
}
