//! Tokens that a model did not have: rows as transformers makes them, trained and saved as PEFT does.
//!
//! What is saved here stays under the target directory's `tmp/saved`, where `tests/golden/saved.py` loads it.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    Config, LoadOptions, Pass, Ragged, TensorFile, Transformer, adapter_vocab_size,
};
use tunesmith_tests::*;

const CASES: [(&str, &str); 4] =
    [("llama", "llama3"), ("qwen2", "qwen2"), ("llama-rows", "llama3"), ("qwen2-rows", "qwen2")];

fn logits_with(model: &Transformer, ids: &[u32], adapter: Option<usize>) -> Tensor {
    let mut pass = Pass { adapter, ..Pass::default() };
    tch::no_grad(|| {
        let hidden = model.hidden(&Ragged::new(&[ids], model.device()), &mut pass).unwrap();
        model.head().logits(&hidden, &pass)
    })
}

fn grown(base: &str, adapter: &Path) -> Transformer {
    let dir = golden(&format!("models/{base}"));
    let config = Config::from_dir(&dir).unwrap();
    let rows = adapter_vocab_size(adapter, &config).unwrap().unwrap();
    let options = LoadOptions::frozen(Kind::Float, Device::Cpu);
    Transformer::load_as(config.with_vocab(rows), &dir, options, 0).unwrap()
}

#[test]
fn adapters_that_bring_tokens_are_read_and_written_back() {
    let saved = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("saved");
    for (name, base) in CASES {
        let adapter = golden(&format!("grown/{name}"));
        let expected = golden_tensors(&format!("grown/{name}/logits.safetensors"));
        let ids = expected.tensor("ids").unwrap().ids();
        let plain = load(&golden(&format!("models/{base}")), false);
        let n_old = plain.config.vocab_size;

        let mut model = grown(base, &adapter);
        let n_new = model.config.vocab_size - n_old;
        assert_eq!(n_new, 5);
        let spread = Vec::<f32>::try_from(expected.tensor("spread").unwrap()).unwrap();
        for (param, spread) in model
            .base_params()
            .iter()
            .filter(|param| param.tensor.size()[0] == n_old + n_new)
            .zip(spread)
        {
            let old = param.tensor.narrow(0, 0, n_old);
            let new = param.tensor.narrow(0, n_old, n_new);
            let off = (&new - old.mean_dim([0i64].as_slice(), true, Kind::Float)).abs().max();
            let ratio = off.double_value(&[]) / f64::from(spread);
            assert!(
                (0.3..3.0).contains(&ratio),
                "{name}: {}: {ratio} of transformers' spread",
                param.name
            );
            assert_ne!(new.get(0), new.get(1), "{name}: rows must differ to be told apart");
        }
        // The old tokens do not notice; that is what is saved, too.
        let old_ids: Vec<u32> = ids.iter().map(|id| id % n_old as u32).collect();
        let on_old = logits_with(&model, &old_ids, None).narrow(1, 0, n_old);
        assert!(max_abs_diff(&on_old, &logits(&plain, &[&old_ids])) <= 1e-5, "{name}");
        let whole = saved.join("grown-whole").join(name);
        std::fs::create_dir_all(&whole).unwrap();
        model.save(&whole, &golden(&format!("models/{base}"))).unwrap();
        let again = logits(&load(&whole, false), &[&ids]);
        assert_eq!(again, logits_with(&model, &ids, None), "{name}: saved and loaded");

        let number = model.load_adapter(&adapter, false).unwrap_or_else(|e| panic!("{name}: {e}"));
        let diff = relative_diff(
            &logits_with(&model, &ids, Some(number)),
            &expected.tensor("logits").unwrap(),
        );
        assert!(diff <= 1e-5, "{name}: logits differ by {diff}");

        let written = saved.join("grown").join(name);
        std::fs::create_dir_all(&written).unwrap();
        model.save_adapter(number, &written, base, &golden(&format!("models/{base}"))).unwrap();
        let [ours, peft] = [&written, &adapter]
            .map(|dir| TensorFile::open(&dir.join("adapter_model.safetensors")).unwrap());
        let copies = |name: &String| {
            // Rows of a tied head are those of the embedding.
            name.contains(".modules_to_save.")
                || name.contains(".original_module.")
                || base == "qwen2" && name.contains("lm_head.token_adapter.trainable_tokens_delta")
        };
        let mut names = peft.names();
        names.retain(|name| !copies(name));
        names.sort();
        let mut found = ours.names();
        found.sort();
        assert_eq!(found, names, "{name}");
        for tensor in &names {
            assert_eq!(
                ours.tensor(tensor).unwrap(),
                peft.tensor(tensor).unwrap(),
                "{name}: {tensor}"
            );
        }
    }
}

#[test]
fn an_adapter_that_brings_tokens_needs_a_base_that_has_grown() {
    let mut model = load(&golden("models/llama3"), false);
    let error = model.load_adapter(&golden("grown/llama"), false).unwrap_err().to_string();
    assert!(error.contains("embed_tokens.weight") && error.contains("[101, 32]"), "{error}");
}

/// The command line: tokens are added, trained, saved with their tokenizer, and known again.
#[test]
fn new_tokens_are_trained_and_travel_with_the_model() {
    let place = Place::new();
    let rows: Vec<String> = (0..16)
        .map(|i| json!({"text": format!("<|ask|> {i} and {i} <|reply|> {}", i + i)}).to_string())
        .collect();
    place.write("rows.jsonl", rows.join("\n") + "\n");
    let line = |recipe: &str, more: &str| {
        format!(
            "finetune --recipe {recipe} --model tiny --dataset rows.jsonl --out runs/{recipe} --max-steps 8 --seq-len 64 \
             --lr 3e-3 --set samples.count=0 --set data.on_mismatch=warn --save-every 4 \
             --set model.new_tokens=[\"<|ask|>\",\"<|im_end|>\",\"<|reply|>\"] {more}"
        )
    };
    place.ok(&line("sft-full", ""));
    let config = place.json("runs/sft-full/final/config.json");
    assert_eq!(config["vocab_size"], 2050, "one of the three was there already");
    assert!(config.get("tunesmith_stored_vocab_size").is_none(), "{config}");
    let tokenizer = place.json("runs/sft-full/final/tokenizer.json");
    let id = |text: &str| {
        let added = tokenizer["added_tokens"].as_array().unwrap();
        added.iter().find(|token| token["content"] == text).map(|token| token["id"].clone())
    };
    assert_eq!([id("<|ask|>"), id("<|reply|>")], [Some(json!(2048)), Some(json!(2049))]);
    let losses = place.losses("runs/sft-full");
    assert!(losses[7] < losses[0], "{losses:?}");
    place.ok("generate --model runs/sft-full --prompt <|ask|> --max-new-tokens 3");

    // An adapter trains both tables whole where it is asked to, and else the rows of these tokens alone.
    let whole = "--set model.dtype=fp32 --set adapter.modules_to_save=[\"embed_tokens\"]";
    place.ok(&line("sft-lora", whole).replace("--out runs/sft-lora", "--out runs/whole"));
    let config = place.json("runs/whole/final/adapter_config.json");
    assert_eq!(config["modules_to_save"], json!(["embed_tokens", "lm_head"]));
    assert!(config.get("trainable_token_indices").is_none(), "{config}");
    place.ok(&line("sft-lora", "--set model.dtype=fp32"));
    let config = place.json("runs/sft-lora/final/adapter_config.json");
    assert_eq!(config["modules_to_save"], Value::Null);
    let im_end = id("<|im_end|>").unwrap();
    assert_eq!(config["trainable_token_indices"], json!([2048, im_end, 2049]));
    let size =
        |run: &str| place.bytes(&format!("runs/{run}/final/adapter_model.safetensors")).len();
    assert!(size("sft-lora") < size("whole") / 2, "{} {}", size("sft-lora"), size("whole"));
    let score = |model: &str| -> Value {
        let line = place
            .ok(&format!("score {model} --data rows.jsonl --rows 1 --json --dtype fp32"))
            .stdout;
        serde_json::from_str(line.lines().next().unwrap()).unwrap()
    };
    place.ok("score --model tiny --adapter runs/whole --data rows.jsonl --rows 1");
    let with = score("--model tiny --adapter runs/sft-lora");
    assert!(with["ids"].as_array().unwrap().contains(&json!(2049)), "{with}");
    place.ok("merge --model tiny --adapter runs/sft-lora --out merged --dtype fp32");
    let merged = score("--model merged");
    assert_eq!(with["ids"], merged["ids"]);
    let [a, b] = [&with, &merged].map(|line| line["logprob"].as_f64().unwrap());
    assert!((a / b - 1.0).abs() < 1e-5, "{a} {b}");
    // A checkpoint of such a run can be gone on from.
    place.ok(&format!(
        "{} --resume",
        line("sft-lora", "--set model.dtype=fp32").replace("--max-steps 8", "--max-steps 10")
    ));
    // So can its adapter, whose tokens come with it; further ones would have no rows.
    let from = "finetune --recipe sft-lora --model tiny --dataset rows.jsonl --max-steps 2 --seq-len 64 --set samples.count=0 \
        --set data.on_mismatch=warn --set model.dtype=fp32 --set adapter.from=runs/sft-lora";
    place.ok(&format!("{from} --out runs/on"));
    let config = place.json("runs/on/final/adapter_config.json");
    assert_eq!(config["trainable_token_indices"], json!([2048, im_end, 2049]));
    place.ok(&format!("{from} --out runs/again --set model.new_tokens=[\"<|reply|>\"]"));
    let refused =
        place.run(&format!("{from} --out runs/no --set model.new_tokens=[\"<|third|>\"]"));
    assert!(
        refused.code == Some(78) && refused.stderr.contains("has no row for \"<|third|>\""),
        "{refused:?}"
    );
    let refused = place.run("export --model tiny --adapter runs/sft-lora --out x.gguf");
    assert!(refused.stderr.contains("merge it"), "{refused:?}");
    // An adapter whose tokens lie elsewhere was trained on another model.
    let path = "runs/sft-lora/final/tokenizer.json";
    let mut tokenizer = place.json(path);
    for token in tokenizer["added_tokens"].as_array_mut().unwrap() {
        if token["content"] == "<|reply|>" {
            token["id"] = json!(2055);
        }
    }
    place.write(path, tokenizer.to_string());
    let refused =
        place.run("score --model tiny --adapter runs/sft-lora --data rows.jsonl --rows 1");
    assert!(
        refused.code == Some(65)
            && refused.stderr.contains("`<|reply|>` has id 2055 instead of 2049")
            && refused.stderr.contains("help: name the model"),
        "{refused:?}"
    );
    let refused = place.run(
        "finetune --recipe sft-lora --model llama3 --dataset rows.jsonl --out runs/x --max-steps 1 --set model.new_tokens=[\"<x>\"]",
    );
    assert!(
        refused.code == Some(78) && refused.stderr.contains("no tokenizer.json"),
        "{refused:?}"
    );
}
