//! What tunesmith saves is what it loaded: the same tensors under the same names, the same configuration and logits.
//!
//! The saved directories stay under the target directory's `tmp/saved`, where `tests/golden/saved.py` proves that
//! transformers loads them unchanged.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{LoadOptions, TensorFile, Transformer};
use tunesmith_tests::*;

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// All tensors of a model directory, but those that only older checkpoints carry.
fn tensors(dir: &Path) -> BTreeMap<String, Tensor> {
    let mut all = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            let file = TensorFile::open(&path).unwrap();
            all.extend(
                file.names().into_iter().map(|name| (name.clone(), file.tensor(&name).unwrap())),
            );
        }
    }
    all.retain(|name, _| {
        !name.ends_with("inv_freq") && !name.ends_with("attn.bias") || name.ends_with("c_attn.bias")
    });
    all
}

/// The metadata of a safetensors file's header.
fn metadata(path: &Path) -> Value {
    let bytes = std::fs::read(path).unwrap();
    let header_len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    serde_json::from_slice::<Value>(&bytes[8..8 + header_len]).unwrap()["__metadata__"].clone()
}

#[test]
fn a_saved_model_is_the_loaded_one() {
    for name in small_models() {
        let origin = golden(&format!("models/{name}"));
        let kind = if name == "llama-bf16" { Kind::BFloat16 } else { Kind::Float };
        let options = LoadOptions::frozen(kind, Device::Cpu);
        let model = Transformer::load(&origin, options).unwrap();
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("saved").join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        model.save(&dir, &origin).unwrap();

        let (saved, loaded) = (tensors(&dir), tensors(&origin));
        assert!(saved.keys().eq(loaded.keys()), "{name}: {:?} were saved", saved.keys());
        for (tensor_name, tensor) in &saved {
            assert_eq!(tensor.kind(), loaded[tensor_name].kind(), "{name}, {tensor_name}");
            assert_eq!(tensor, &loaded[tensor_name], "{name}, {tensor_name}");
        }
        assert_eq!(
            metadata(&dir.join("model.safetensors")),
            serde_json::json!({"format": "pt"}),
            "{name}"
        );
        assert_eq!(
            json(&dir.join("config.json")),
            json(&origin.join("config.json")),
            "{name}: config.json"
        );
        let generation = "generation_config.json";
        assert_eq!(
            json(&dir.join(generation)),
            json(&origin.join(generation)),
            "{name}: {generation}"
        );

        let ids =
            golden_tensors(&format!("logits/{name}.safetensors")).tensor("ids.2").unwrap().ids();
        let again = logits(&load(&dir, false), &[&ids]);
        assert_eq!(
            again,
            logits(&load(&origin, false), &[&ids]),
            "{name}: logits after saving and loading"
        );
    }
}

/// A model in bf16 saved from fp32 weights says so in its configuration, and its weights are the rounded ones.
#[test]
fn the_configuration_tells_the_dtype_of_the_weights() {
    let origin = golden("models/llama3");
    let options = LoadOptions::frozen(Kind::BFloat16, Device::Cpu);
    let dir = tempfile::tempdir().unwrap();
    Transformer::load(&origin, options).unwrap().save(dir.path(), &origin).unwrap();
    assert_eq!(json(&dir.path().join("config.json"))["dtype"], "bfloat16");
    let loaded = tensors(&origin);
    for (name, tensor) in tensors(dir.path()) {
        assert_eq!(tensor, loaded[&name].to_kind(Kind::BFloat16), "{name}");
    }
}
