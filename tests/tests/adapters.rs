//! Adapters as PEFT writes them: read, applied, merged, and written again byte for byte.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use serde_json::{Map, Value};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    LoadOptions, LoraConfig, LoraInit, Modules, Pass, Ragged, TokenIndices, Transformer,
};
use tunesmith_tests::*;

const CLOSE: f64 = 1e-5;

fn config(dir: &Path) -> Map<String, Value> {
    let text = std::fs::read_to_string(dir.join("adapter_config.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Each adapter's folder and its base's name.
fn cases() -> Vec<(PathBuf, String)> {
    let folders = std::fs::read_dir(golden("adapters")).unwrap();
    let mut folders: Vec<PathBuf> = folders.map(|folder| folder.unwrap().path()).collect();
    folders.sort();
    let base = |dir: &Path| config(dir)["base_model_name_or_path"].as_str().unwrap().to_owned();
    folders.into_iter().map(|dir| (dir.clone(), base(&dir))).collect()
}

fn logits_with(model: &Transformer, ids: &[u32], adapter: Option<usize>) -> Tensor {
    let mut pass = Pass { adapter, ..Pass::default() };
    tch::no_grad(|| {
        let hidden = model.hidden(&Ragged::new(&[ids], model.device()), &mut pass).unwrap();
        model.head().logits(&hidden, &pass)
    })
}

#[test]
fn adapters_of_peft_are_read_applied_merged_and_written_back() {
    for (dir, base) in cases() {
        let name = dir.file_name().unwrap().to_string_lossy();
        let golden_logits = golden_tensors(&format!("adapters/{name}/logits.safetensors"));
        let ids = golden_logits.tensor("ids").unwrap().ids();
        let expected = golden_logits.tensor("logits").unwrap();
        let origin = golden(&format!("models/{base}"));
        let mut model = load(&origin, false);
        let number = model.load_adapter(&dir, false).unwrap_or_else(|e| panic!("{name}: {e}"));
        let on = logits_with(&model, &ids, Some(number));
        let diff = relative_diff(&on, &expected);
        assert!(diff <= CLOSE, "{name}: logits differ by {diff}");
        let off =
            relative_diff(&logits_with(&model, &ids, None), &golden_logits.tensor("base").unwrap());
        assert!(off <= CLOSE, "{name}: logits without the adapter differ by {off}");

        // Written again: the same tensors, byte for byte, and no key of another value.
        // `tests/golden/saved.py` loads them with PEFT.
        let again = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("saved/adapters").join(&*name);
        std::fs::create_dir_all(&again).unwrap();
        model.save_adapter(number, &again, &base, &origin).unwrap();
        let weights = "adapter_model.safetensors";
        assert!(
            std::fs::read(again.join(weights)).unwrap()
                == std::fs::read(dir.join(weights)).unwrap(),
            "{name}: {weights} differs"
        );
        let (written, peft) = (config(&again), config(&dir));
        for (key, value) in &written {
            assert_eq!(Some(value), peft.get(key), "{name}: {key}");
        }
        let text = std::fs::read_to_string(again.join("adapter_config.json")).unwrap();
        assert!(text.starts_with("{\n  \"") && text.ends_with("\n}"), "{name}: {text}");

        // Merged, saved and loaded as a plain model.
        model.merge_adapter();
        let merged = logits_with(&model, &ids, None);
        let plain = tempfile::tempdir().unwrap();
        model.save(plain.path(), &origin).unwrap();
        assert_eq!(
            logits(&load(plain.path(), false), &[&ids]),
            merged,
            "{name}: saved after merging"
        );
        let diff = relative_diff(&merged, &on);
        println!("{name}: on {:.1e}, merged {diff:.1e}", relative_diff(&on, &expected));
        assert!(diff <= CLOSE, "{name}: merging moves the logits by {diff}");
    }
}

fn kinds() -> Vec<LoraConfig> {
    let plain = LoraConfig { r: 4, alpha: 8.0, ..LoraConfig::default() };
    let names = |names: &[&str]| Modules::Names(names.iter().map(|&n| n.to_owned()).collect());
    vec![
        plain.clone(),
        LoraConfig { use_rslora: true, init: LoraInit::Gaussian, ..plain.clone() },
        LoraConfig { use_dora: true, ..plain.clone() },
        LoraConfig { init: LoraInit::Pissa, ..plain.clone() },
        LoraConfig { target_modules: names(&["embed_tokens", "q_proj"]), ..plain.clone() },
        LoraConfig {
            trainable_token_indices: TokenIndices::Embedding(vec![3, 95, 0]),
            ..plain.clone()
        },
        LoraConfig { modules_to_save: vec!["lm_head".into()], ..plain },
    ]
}

#[test]
fn a_fresh_adapter_changes_no_logit() {
    for base in ["llama3", "qwen2"] {
        for config in kinds() {
            let mut model = load(&golden(&format!("models/{base}")), false);
            let ids: Vec<u32> = (0..30).map(|i| i * 7 % 96).collect();
            let before = logits_with(&model, &ids, None);
            let number = model.add_adapter(&config, 5, true).unwrap();
            let after = logits_with(&model, &ids, Some(number));
            assert_eq!(after, before, "{base}: {config:?}");
            assert!(model.params().iter().filter(|p| p.trainable()).count() > 0);
            assert!(model.base_params().iter().all(|p| !p.trainable()));
        }
    }
}

/// Adapters of one base do not see each other, and a pass chooses.
#[test]
fn several_adapters_share_a_base() {
    let mut model = load(&golden("models/llama3"), false);
    let ids: Vec<u32> = (0..30).map(|i| i * 11 % 96).collect();
    let names = ["llama-lora", "llama-dora", "llama-tokens-both", "llama-save", "llama-tokens"];
    let alone: Vec<Tensor> = names
        .iter()
        .map(|name| {
            let mut model = load(&golden("models/llama3"), false);
            model.load_adapter(&golden(&format!("adapters/{name}")), false).unwrap();
            logits_with(&model, &ids, Some(0))
        })
        .collect();
    let base = logits(&model, &[&ids]);
    for name in names {
        model.load_adapter(&golden(&format!("adapters/{name}")), false).unwrap();
    }
    for (number, alone) in alone.iter().enumerate() {
        assert_eq!(&logits_with(&model, &ids, Some(number)), alone, "{}", names[number]);
    }
    assert_eq!(logits_with(&model, &ids, None), base);
}

/// PiSSA leaves as plain LoRA of twice the rank, which says the same on the untouched base.
#[test]
fn pissa_is_saved_as_plain_lora() {
    let origin = golden("models/llama3");
    let config = LoraConfig { r: 3, init: LoraInit::Pissa, ..LoraConfig::default() };
    let mut model = load(&origin, false);
    model.add_adapter(&config, 1, true).unwrap();
    for param in model.adapters()[0].params() {
        tch::no_grad(|| _ = param.tensor.shallow_clone().g_mul_scalar_(1.1));
    }
    let ids: Vec<u32> = (0..30).map(|i| i * 5 % 96).collect();
    let trained = logits_with(&model, &ids, Some(0));
    let dir = tempfile::tempdir().unwrap();
    model.save_adapter(0, dir.path(), "llama3", &origin).unwrap();
    let mut again = load(&origin, false);
    again.load_adapter(dir.path(), false).unwrap();
    let diff = relative_diff(&logits_with(&again, &ids, Some(0)), &trained);
    assert!(diff <= CLOSE, "{diff}");
    assert_eq!(again.adapters()[0].config.r, 6);
    assert!(relative_diff(&trained, &logits_with(&again, &ids, None)) > 1e-3);
}

#[test]
fn bf16_merges_within_its_rounding() {
    let options = LoadOptions::frozen(Kind::BFloat16, Device::Cpu);
    let mut model = Transformer::load(&golden("models/llama3"), options).unwrap();
    model.load_adapter(&golden("adapters/llama-all"), false).unwrap();
    let ids: Vec<u32> = (0..30).map(|i| i * 5 % 96).collect();
    let on = logits_with(&model, &ids, Some(0));
    model.merge_adapter();
    let diff = relative_diff(&logits_with(&model, &ids, None), &on);
    println!("merged in bf16: {diff:.1e} of the largest logit");
    assert!(diff <= 5e-2, "{diff}");
}
