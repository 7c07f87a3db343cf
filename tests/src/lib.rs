//! End-to-end and golden tests: what they share.
//!
//! The expected numbers lie in `tests/golden`, whose README says which Python made them.

pub mod hostile;
pub mod mutate;
mod place;

pub use place::{Place, Ran, binary};

use serde_json::Value;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{LoadOptions, Pass, Ragged, TensorFile, Transformer};
use tunesmith_tokens::{Example, IGNORE};

/// A path inside `tests/golden`.
pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join(path)
}

/// The folder of real models and data named by `TUNESMITH_PARTS`, or `None` with the reason printed.
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
pub fn parts() -> Option<PathBuf> {
    let folder =
        std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty()).map(PathBuf::from);
    if folder.is_none() {
        eprintln!(
            "skipped: TUNESMITH_PARTS is not set (the folder with smollm2-135m-instruct/ and stories15m/)"
        );
    }
    folder
}

/// A JSON file of `tests/golden`.
///
/// # Panics
/// If it is missing or malformed.
pub fn golden_json(path: &str) -> Value {
    let text = std::fs::read_to_string(golden(path)).expect(path);
    serde_json::from_str(&text).expect(path)
}

/// A safetensors file of `tests/golden`.
///
/// # Panics
/// If it is missing or malformed.
pub fn golden_tensors(path: &str) -> TensorFile {
    TensorFile::open(&golden(path)).expect(path)
}

/// The names of the small models in `tests/golden/models`, in order.
///
/// # Panics
/// If the folder is missing.
pub fn small_models() -> Vec<String> {
    let entries = std::fs::read_dir(golden("models")).expect("tests/golden/models");
    let mut names: Vec<String> = entries
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

/// The model in `dir`, in fp32 on the CPU.
///
/// # Panics
/// With the message of the error that loading it met.
pub fn load(dir: &Path, trainable: bool) -> Transformer {
    let options = match trainable {
        true => LoadOptions::trained(Kind::Float, Device::Cpu),
        false => LoadOptions::frozen(Kind::Float, Device::Cpu),
    };
    Transformer::load(dir, options).unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
}

/// Logits of every position of the documents, (N, V), fp32.
///
/// # Panics
/// If the model refuses the tokens.
pub fn logits(model: &Transformer, docs: &[&[u32]]) -> Tensor {
    let (ragged, mut pass) = (Ragged::new(docs, model.device()), Pass::default());
    let hidden = model.hidden(&ragged, &mut pass).expect("tokens of the vocabulary");
    model.head().logits(&hidden, &pass)
}

/// Largest absolute difference of two tensors of one shape.
///
/// # Panics
/// If the shapes differ.
pub fn max_abs_diff(a: &Tensor, b: &Tensor) -> f64 {
    assert_eq!(a.size(), b.size(), "shapes differ");
    (a.to_kind(Kind::Double) - b.to_kind(Kind::Double)).abs().max().double_value(&[])
}

/// Largest absolute difference over the largest absolute value of `b`.
///
/// # Panics
/// If the shapes differ.
pub fn relative_diff(a: &Tensor, b: &Tensor) -> f64 {
    max_abs_diff(a, b) / b.abs().max().double_value(&[]).max(f64::MIN_POSITIVE)
}

/// The ids in a tensor or a JSON list.
pub trait Ids {
    /// As the model and the tokenizer count them.
    fn ids(&self) -> Vec<u32>;
}

impl Ids for Tensor {
    fn ids(&self) -> Vec<u32> {
        self.iter::<i64>().expect("a list of i64").map(|id| id as u32).collect()
    }
}

impl Ids for Value {
    fn ids(&self) -> Vec<u32> {
        let list = self.as_array().expect("a list");
        list.iter().map(|id| id.as_u64().expect("a token id") as u32).collect()
    }
}

/// A document of the goldens: its labels stand unshifted, as in transformers.
///
/// # Panics
/// If it has no ids or labels.
pub fn example(document: &Value) -> Example {
    let labels = document["labels"].as_array().expect("a list of labels");
    let trained = labels.iter().map(|label| label.as_i64() != Some(IGNORE)).collect();
    Example { ids: document["ids"].ids(), trained, ..Example::default() }
}
