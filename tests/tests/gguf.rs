//! GGUF: what is exported is the model, and what others wrote is read.
//!
//! The exported files stay under the target directory's `tmp/gguf`, where `tests/golden/exported.py` checks them with
//! the `gguf` package's own reader and names.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::Value;
use std::path::PathBuf;
use tch::Kind;
use tunesmith_model::{
    Pass, Ragged, TensorFile, Transformer,
    gguf::{Gguf, GgufType, export_gguf},
};
use tunesmith_tests::*;

fn folder(name: &str) -> PathBuf {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("gguf").join(name);
    std::fs::create_dir_all(&dir).unwrap();
    dir
}

/// Writes `model` and reads it again.
fn round_trip(model: &Transformer, name: &str, kind: GgufType) -> Transformer {
    let dir = folder(&format!("{name}-{}", kind.name()));
    let file = dir.join("model.gguf");
    let tensors = model.params().iter().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
    export_gguf(&file, &model.config, tensors.collect(), kind, Vec::new()).unwrap();
    let config = Gguf::open(&file).unwrap().config_json().unwrap();
    std::fs::write(dir.join("config.json"), Value::Object(config).to_string()).unwrap();
    std::fs::copy(&file, folder("").join(format!("{name}-{}.gguf", kind.name()))).unwrap();
    load(&dir, false)
}

#[test]
fn an_exported_model_is_the_model() {
    for name in small_models() {
        let model = load(&golden(&format!("models/{name}")), false);
        let written = round_trip(&model, &name, GgufType::F32);
        let n = 24.min(written.config.max_position_embeddings) as u32;
        let ids: Vec<u32> = (0..n).map(|i| i * 7 % model.config.vocab_size as u32).collect();
        let (expected, found) = (logits(&model, &[&ids]), logits(&written, &[&ids]));
        assert_eq!(found, expected, "{name}: fp32 is kept to the last bit");
        // Eight bits: small, and not nothing.
        let quantised = logits(&round_trip(&model, &name, GgufType::Q8_0), &[&ids]);
        let off = relative_diff(&quantised, &expected);
        assert!(off > 0.0 && off < 0.2, "{name}: q8_0 is off by {off}");
    }
}

/// SmolLM2 as llama.cpp's own tools quantised it, against the same weights dequantised by someone else's code.
#[test]
fn a_foreign_file_is_read_as_its_dequantised_twin() {
    let Some(parts) = parts() else { return };
    let dir = parts.join("smollm2-135m-instruct");
    let file = dir.join("SmolLM2-135M-Instruct.Q4_1.gguf");
    let twin = TensorFile::open(&dir.join("model.safetensors")).unwrap();
    let here = folder("smollm2");
    let gguf = Gguf::open(&file).unwrap();
    let config = gguf.config_json().unwrap();
    std::fs::write(here.join("config.json"), Value::Object(config).to_string()).unwrap();
    let _ = std::fs::remove_file(here.join("model.gguf"));
    std::os::unix::fs::symlink(&file, here.join("model.gguf")).unwrap();
    let model = load(&here, false);
    assert_eq!(model.config.position, load(&dir, false).config.position);
    assert_eq!(model.params().len(), twin.names().len());
    for param in model.params() {
        let expected = twin.tensor(&param.name).unwrap().to_kind(Kind::Float);
        let found = param.tensor.to_kind(Kind::BFloat16).to_kind(Kind::Float);
        assert_eq!(found, expected, "{}", param.name);
    }
}

/// Adapters as llama.cpp's LoRA files: whatever scales them, and whatever lies otherwise there.
#[test]
fn an_exported_adapter_is_the_adapter() {
    let ids: Vec<u32> = (0..30).map(|i| i * 7 % 96).collect();
    let logits = |model: &Transformer, number| {
        let mut pass = Pass { adapter: Some(number), ..Pass::default() };
        tch::no_grad(|| {
            let hidden = model.hidden(&Ragged::new(&[&ids], model.device()), &mut pass).unwrap();
            model.head().logits(&hidden, &pass)
        })
    };
    for (name, base) in [
        ("llama-all", "llama3"),
        ("llama-rslora", "llama3"),
        ("llama-pattern", "llama3"),
        ("qwen2-lora", "qwen2"),
        ("gpt2-lora", "gpt2"),
        ("mistral-window", "mistral-window"),
    ] {
        let mut model = load(&golden(&format!("models/{base}")), false);
        let ours = model.load_adapter(&golden(&format!("adapters/{name}")), false).unwrap();
        let file = folder("lora").join(format!("{name}.gguf"));
        model.export_adapter_gguf(ours, &file, GgufType::F32).unwrap();
        let written = model.load_adapter_gguf(&file).unwrap_or_else(|e| panic!("{name}: {e}"));
        let off = relative_diff(&logits(&model, written), &logits(&model, ours));
        assert!(off <= 1e-5, "{name}: {off}");
    }
    // What such a file cannot hold is refused by name.
    for (name, base, said) in [
        ("llama-dora", "llama3", "lora_magnitude_vector"),
        ("llama-save", "llama3", "embed_tokens.weight"),
        ("qwen2-bias", "qwen2", ".bias"),
    ] {
        let mut model = load(&golden(&format!("models/{base}")), false);
        let number = model.load_adapter(&golden(&format!("adapters/{name}")), false).unwrap();
        let file = tempfile::tempdir().unwrap().path().join("x.gguf");
        let error =
            model.export_adapter_gguf(number, &file, GgufType::F32).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("tunesmith merge"), "{name}: {error}");
    }
    let mut other = load(&golden("models/gpt2"), false);
    let error = other.load_adapter_gguf(&folder("lora").join("qwen2-lora.gguf")).unwrap_err();
    assert!(error.to_string().contains("no such matrix"), "{error}");
}

/// The command line writes an adapter and compares what it wrote.
#[test]
fn an_adapter_leaves_as_gguf() {
    let place = Place::new();
    place.write_rows("rows.jsonl", 12);
    place.ok(
        "finetune --model llama3 --dataset rows.jsonl --out runs/x --max-steps 4 --seq-len 32 --lr 1e-2 \
         --set adapter.method=lora --set adapter.r=4",
    );
    let export = "export --model llama3 --adapter runs/x";
    let ran = place.ok(&format!("{export} --out x.gguf"));
    assert!(
        ran.stdout.contains("LoRA") && ran.stdout.contains("stored as   f32"),
        "{}",
        ran.stdout
    );
    assert!(ran.stdout.contains("best token  the same for 100.0 %"), "{}", ran.stdout);
    place.ok(&format!("{export} --out y.gguf --dtype f16"));
    assert_eq!(place.run(&format!("{export} --out x.gguf")).code, Some(73));
    assert_eq!(place.run("export --model gpt2 --adapter runs/x --out z.gguf").code, Some(65));
}

/// The command line, from a model to a file and from the file to an answer.
#[test]
fn a_file_answers_like_its_model() {
    let place = Place::new();
    let ran = place.ok("export --model tiny --out tiny.gguf");
    assert!(ran.stdout.contains("differ by at most 0.000e0"), "{}", ran.stdout);
    let ask = |model: &str| {
        let ran =
            place.ok(&format!("generate --model {model} --prompt Hello --max-new-tokens 8 --json"));
        ran.stdout
    };
    assert_eq!(ask("tiny.gguf"), ask("tiny"));
    let again = place.run("export --model tiny --out tiny.gguf");
    assert_eq!(again.code, Some(73), "{}", again.stderr);
    assert!(again.stderr.contains("--force"), "{}", again.stderr);
    let narrow = place.ok("export --model tiny --out small.gguf --dtype q8_0");
    assert!(narrow.stdout.contains("stored as   q8_0"), "{}", narrow.stdout);
    let wrong = place.run("export --model tiny --out x.gguf --dtype q3_k");
    assert_eq!(wrong.code, Some(78), "{}", wrong.stderr);
    assert!(wrong.stderr.contains("q8_0 or q4_0"), "{}", wrong.stderr);
    let whole = std::fs::read(place.path("tiny.gguf")).unwrap();
    for n in [0, 3, 999, whole.len() - 99] {
        place.write("cut.gguf", &whole[..n]);
        let cut = place.run("generate --model cut.gguf --prompt Hello");
        assert_eq!(cut.code, Some(65), "{n} bytes: {}", cut.stderr);
        assert!(cut.stderr.contains("cut.gguf"), "{}", cut.stderr);
    }
}
