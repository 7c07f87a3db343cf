//! Adapters and settings that cannot be: each is refused with the layer or the setting named.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was counted is shown with --nocapture")]

use serde_json::{Value, json};
use std::path::Path;
use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    LoraConfig, Modules, Pattern, TensorFile,
    TokenIndices::{self, Embedding},
    Transformer, write_tensors,
};
use tunesmith_tests::*;

const WEIGHTS: &str = "adapter_model.safetensors";
const CONFIG: &str = "adapter_config.json";

/// Why `model` does not take the adapter in `dir`; it stays as it was.
fn refusal(model: &mut Transformer, dir: &Path) -> String {
    let n_params = model.n_params();
    let error = model.load_adapter(dir, false).expect_err("a refusal").to_string();
    assert_eq!((model.n_params(), model.adapters().len()), (n_params, 0), "{error}");
    error
}

/// Every tensor of every golden adapter, missing, misshapen, not finite or renamed: four refusals each.
#[test]
fn every_tensor_is_demanded_by_name_shape_and_value() {
    let mut refused = 0;
    for (name, base) in [
        ("llama-all", "llama3"),
        ("llama-dora", "llama3"),
        ("qwen2-bias", "qwen2"),
        ("llama-save", "llama3"),
        ("gpt2-lora", "gpt2"),
        ("llama-embed", "llama3"),
        ("llama-tokens-both", "llama3"),
        ("qwen2-tokens", "qwen2"),
    ] {
        let dir = golden(&format!("adapters/{name}"));
        let file = TensorFile::open(&dir.join(WEIGHTS)).unwrap();
        let mut names = file.names();
        names.sort();
        let tensors: Vec<Tensor> = names.iter().map(|name| file.tensor(name).unwrap()).collect();
        let mut model = load(&golden(&format!("models/{base}")), false);
        let place = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join(CONFIG), place.path().join(CONFIG)).unwrap();
        let mut refuse = |changed: Vec<(String, &Tensor)>, parts: &[&str]| {
            write_tensors(&place.path().join(WEIGHTS), changed).unwrap();
            let error = refusal(&mut model, place.path());
            for part in parts {
                assert!(error.contains(part), "{name}: {error:?} lacks {part:?}");
            }
            refused += 1;
        };
        for i in 0..names.len() {
            let with = |tensor: Option<(String, Tensor)>| {
                let mut all: Vec<(String, Tensor)> =
                    names.iter().cloned().zip(tensors.iter().map(Tensor::shallow_clone)).collect();
                match tensor {
                    Some(tensor) => all[i] = tensor,
                    None => _ = all.remove(i),
                }
                all
            };
            let is_companion = names[i].ends_with("base_layer.weight");
            if !is_companion {
                let all = with(None);
                refuse(
                    all.iter().map(|(n, t)| (n.clone(), t)).collect(),
                    &[&names[i], "no such tensor"],
                );
            }
            let shape = tensors[i].size();
            let mut wrong = shape.clone();
            wrong[0] += 1;
            let all = with(Some((
                names[i].clone(),
                Tensor::zeros(&wrong[..], (Kind::Float, Device::Cpu)),
            )));
            let shapes = [format!("expected shape {shape:?}"), format!("found {wrong:?}")];
            refuse(
                all.iter().map(|(n, t)| (n.clone(), t)).collect(),
                &[&names[i], &shapes[0], &shapes[1]],
            );
            for value in [f64::NAN, f64::INFINITY] {
                let bad = tensors[i].copy();
                let _ = bad.view(-1).get(0).fill_(value);
                let all = with(Some((names[i].clone(), bad)));
                refuse(
                    all.iter().map(|(n, t)| (n.clone(), t)).collect(),
                    &[&names[i], "not finite"],
                );
            }
            let other = format!("{}x", names[i]);
            let mut all = with(None);
            all.push((other.clone(), tensors[i].shallow_clone()));
            refuse(all.iter().map(|(n, t)| (n.clone(), t)).collect(), &[&other, "no place for it"]);
        }
    }
    println!("{refused} refused");
    assert!(refused >= 280, "{refused}");
}

#[test]
fn settings_that_cannot_be_are_named() {
    let names = |names: &[&str]| Modules::Names(names.iter().map(|&n| n.to_owned()).collect());
    let pattern = |text: &str| Pattern::try_from(text.to_owned()).unwrap();
    let plain = || LoraConfig { r: 4, ..LoraConfig::default() };
    let tokens = |trainable_token_indices| LoraConfig { trainable_token_indices, ..plain() };
    let by_module = |lists: &[(&str, &[i64])]| {
        let lists = lists.iter().map(|(name, ids)| ((*name).to_owned(), ids.to_vec()));
        tokens(TokenIndices::Modules(lists.collect()))
    };
    let cases: Vec<(LoraConfig, &[&str])> = vec![
        (
            tokens(Embedding(vec![3, 96])),
            &["model.embed_tokens: expected tokens below 96, found 96"],
        ),
        (tokens(Embedding(vec![-1])), &["`trainable_token_indices`", "at least 0, found -1"]),
        (tokens(Embedding(vec![4, 2, 4])), &["expected each token once, found 4 twice"]),
        (by_module(&[("lm_head", &[])]), &["expected at least one token, found none for lm_head"]),
        (by_module(&[("lm_head", &[200])]), &["lm_head: expected tokens below 96, found 200"]),
        (
            by_module(&[("q_proj", &[1])]),
            &["expected model.embed_tokens or lm_head, found \"q_proj\""],
        ),
        (
            LoraConfig {
                modules_to_save: vec!["embed_tokens".into()],
                ..tokens(Embedding(vec![1]))
            },
            &["model.embed_tokens: is trained whole by `modules_to_save`; choose one"],
        ),
        (
            LoraConfig {
                target_modules: names(&["lm_head", "q_proj"]),
                ..by_module(&[("lm_head", &[1])])
            },
            &["lm_head: is adapted by `target_modules`; choose one"],
        ),
        (LoraConfig { r: 0, ..plain() }, &["`r`", "at least 1", "found 0"]),
        (
            LoraConfig { r: 33, ..plain() },
            &["model.layers.0.self_attn.q_proj: expected a rank of at most 32, found 33"],
        ),
        (
            LoraConfig { r: 17, ..plain() },
            &["model.layers.0.self_attn.k_proj: expected a rank of at most 16, found 17"],
        ),
        (LoraConfig { alpha: 0.0, ..plain() }, &["`alpha`", "above 0"]),
        (LoraConfig { alpha: f64::NAN, ..plain() }, &["`alpha`", "NaN"]),
        (LoraConfig { dropout: 1.0, ..plain() }, &["`dropout`", "below 1"]),
        (LoraConfig { target_modules: names(&[]), ..plain() }, &["`target_modules`", "found none"]),
        (
            LoraConfig { target_modules: names(&["query"]), ..plain() },
            &["no module is named \"query\"", "q_proj"],
        ),
        (
            LoraConfig { target_modules: names(&["q_proj", "c_attn"]), ..plain() },
            &["no module is named \"c_attn\""],
        ),
        (
            LoraConfig { target_modules: Modules::Pattern("q_proj".into()), ..plain() },
            &["matches no module"],
        ),
        (
            LoraConfig { target_modules: Modules::Pattern("(q".into()), ..plain() },
            &["`target_modules`: not a regular expression"],
        ),
        (
            LoraConfig { target_modules: names(&["input_layernorm"]), ..plain() },
            &["input_layernorm", "modules_to_save"],
        ),
        (
            LoraConfig { modules_to_save: vec!["head".to_owned() + "s"], ..plain() },
            &["`modules_to_save`: no module is named \"heads\""],
        ),
        (
            LoraConfig { layers_to_transform: vec![1], ..plain() },
            &["`layers_to_transform`", "list of names"],
        ),
        (
            LoraConfig {
                layers_to_transform: vec![2],
                target_modules: names(&["q_proj"]),
                ..plain()
            },
            &["`layers_to_transform`: 2 is not one of the 2 blocks"],
        ),
        (
            LoraConfig {
                exclude_modules: names(&["q_proj"]),
                target_modules: names(&["q_proj"]),
                ..plain()
            },
            &["matches no module"],
        ),
        (
            LoraConfig { rank_pattern: vec![pattern("q_proj = 0")], ..plain() },
            &["`rank_pattern`", "q_proj = 0"],
        ),
        (
            LoraConfig { rank_pattern: vec![pattern("q_pro = 2")], ..plain() },
            &["`rank_pattern`", "q_pro", "no adapted module"],
        ),
        (
            LoraConfig { rank_pattern: vec![pattern("q_proj = 99")], ..plain() },
            &["q_proj", "found 99"],
        ),
        (
            LoraConfig { alpha_pattern: vec![pattern("q_proj = -1")], ..plain() },
            &["`alpha_pattern`", "q_proj = -1"],
        ),
    ];
    for (config, parts) in cases {
        let mut model = load(&golden("models/llama3"), false);
        let error = model.add_adapter(&config, 0, true).expect_err("a refusal").to_string();
        for part in parts {
            assert!(error.contains(part), "{config:?}: {error:?} lacks {part:?}");
        }
        assert!(model.adapters().is_empty());
    }
}

#[test]
fn configurations_that_cannot_be_are_named() {
    let dir = golden("adapters/llama-lora");
    let mut model = load(&golden("models/llama3"), false);
    let place = tempfile::tempdir().unwrap();
    std::fs::copy(dir.join(WEIGHTS), place.path().join(WEIGHTS)).unwrap();
    let text = std::fs::read_to_string(dir.join(CONFIG)).unwrap();
    let cases: [(&str, Value, &[&str]); 15] = [
        ("peft_type", json!("IA3"), &["`peft_type`", "LORA"]),
        ("r", json!(0), &["`r`"]),
        ("r", json!("four"), &["`r`", "found \"four\""]),
        ("r", json!(200), &["rank of at most"]),
        ("target_modules", json!(["query"]), &["`target_modules` matches no module"]),
        ("target_modules", json!(null), &["`target_modules`"]),
        ("target_modules", json!(7), &["`target_modules`"]),
        ("use_qalora", json!(true), &["`use_qalora`", "does not have it"]),
        ("alora_invocation_tokens", json!([1, 2]), &["`alora_invocation_tokens`"]),
        ("trainable_token_indices", json!("3"), &["`trainable_token_indices`", "token ids"]),
        ("trainable_token_indices", json!([3, 3]), &["`trainable_token_indices`", "3 twice"]),
        ("trainable_token_indices", json!([3]), &["trainable_tokens_delta", "no such tensor"]),
        ("init_lora_weights", json!("olora"), &["`init_lora_weights`"]),
        ("bias", json!("some"), &["`bias`", "lora_only"]),
        ("use_dora", json!(true), &["lora_magnitude_vector", "no such tensor"]),
    ];
    for (key, value, parts) in cases {
        let mut config: Value = serde_json::from_str(&text).unwrap();
        config[key] = value;
        std::fs::write(place.path().join(CONFIG), config.to_string()).unwrap();
        let error = refusal(&mut model, place.path());
        for part in parts {
            assert!(error.contains(part), "{key}: {error:?} lacks {part:?}");
        }
    }
    for file in [CONFIG, WEIGHTS] {
        let place = tempfile::tempdir().unwrap();
        std::fs::copy(dir.join(file), place.path().join(file)).unwrap();
        assert!(refusal(&mut model, place.path()).contains("no such file"));
    }
}

#[test]
fn another_base_is_refused_with_both_shown() {
    // Another shape: the tensors tell.
    let mut model = load(&golden("models/smollm2"), false);
    let error = refusal(&mut model, &golden("adapters/llama-lora"));
    assert!(error.contains("q_proj.lora_A.weight: expected shape"), "{error}");
    // The same shape and other weights: the hash beside the adapter tells.
    let place = Place::new();
    place.copy_model("llama3", "base");
    let mut model = load(&place.path("base"), false);
    model.load_adapter(&golden("adapters/llama-lora"), false).unwrap();
    std::fs::create_dir(place.path("adapter")).unwrap();
    model.save_adapter(0, &place.path("adapter"), "base", &place.path("base")).unwrap();
    load(&place.path("base"), false).load_adapter(&place.path("adapter"), false).unwrap();
    let changed = load(&place.path("base"), false);
    tch::no_grad(|| _ = changed.params()[3].tensor.shallow_clone().g_mul_scalar_(1.01));
    let other = place.path("other");
    std::fs::create_dir(&other).unwrap();
    changed.save(&other, &place.path("base")).unwrap();
    let error = refusal(&mut load(&other, false), &place.path("adapter"));
    assert!(error.contains("has hash") && error.contains("(base)"), "{error}");
}
