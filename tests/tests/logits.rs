//! Logits and mean NLL against transformers, fp32: small random models of every family and form, and real ones.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use tch::Tensor;
use tunesmith_model::{Config, KvCache, Pass, Ragged, TensorFile, Transformer};
use tunesmith_tests::*;

const LOGITS: f64 = 1e-4;
const NLL: f64 = 1e-5;

/// Mean of −ln p(ids[i + 1] | …i), as the trainer and `tunesmith score` compute it.
fn mean_nll(model: &Transformer, ids: &[u32]) -> f64 {
    let mut pass = Pass::default();
    let hidden = model.hidden(&Ragged::new(&[ids], model.device()), &mut pass).unwrap();
    let labels: Vec<i64> = ids[1..].iter().map(|&id| i64::from(id)).collect();
    let hidden = hidden.narrow(0, 0, labels.len() as i64);
    let scores = model.head().score(&hidden, &Tensor::from_slice(&labels), &pass);
    -scores.logprobs.mean(tch::Kind::Double).double_value(&[])
}

fn check_nll(model: &Transformer, golden: &TensorFile, k: usize, what: &str) {
    let Ok(expected) = golden.tensor(&format!("nll.{k}")) else { return }; // one token predicts nothing
    let found = mean_nll(model, &golden.tensor(&format!("ids.{k}")).unwrap().ids());
    let expected = expected.double_value(&[0]);
    assert!(
        (found - expected).abs() <= NLL,
        "{what}, sequence {k}: mean NLL {found}, expected {expected}"
    );
}

fn check_small(model: &Transformer, name: &str, what: &str) {
    let golden = golden_tensors(&format!("logits/{name}.safetensors"));
    for k in 0..3 {
        let ids = golden.tensor(&format!("ids.{k}")).unwrap().ids();
        let diff =
            max_abs_diff(&logits(model, &[&ids]), &golden.tensor(&format!("logits.{k}")).unwrap());
        println!("{what}, {} tokens: {diff:.1e}", ids.len());
        assert!(diff <= LOGITS, "{what}, sequence {k}: logits differ by {diff}");
        check_nll(model, &golden, k, what);
    }
}

#[test]
fn every_family_agrees_with_transformers() {
    tch::no_grad(|| {
        for name in small_models() {
            check_small(&load(&golden(&format!("models/{name}")), false), &name, &name);
        }
    });
}

#[test]
fn configurations_in_older_words_mean_the_same_models() {
    tch::no_grad(|| {
        for name in small_models() {
            let dir = tempfile::tempdir().unwrap();
            for entry in std::fs::read_dir(golden(&format!("models/{name}"))).unwrap() {
                let path = entry.unwrap().path();
                std::fs::copy(&path, dir.path().join(path.file_name().unwrap())).unwrap();
            }
            std::fs::copy(golden(&format!("forms/{name}.json")), dir.path().join("config.json"))
                .unwrap();
            check_small(&load(dir.path(), false), &name, &format!("forms/{name}.json"));
        }
    });
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for entry in std::fs::read_dir(golden("refused")).unwrap() {
        let file = entry.unwrap().file_name().into_string().unwrap();
        let case = golden_json(&format!("refused/{file}"));
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), case["config"].to_string()).unwrap();
        let message = match Config::from_dir(dir.path()) {
            Ok(config) => panic!("{file} was read as {config:?}"),
            Err(error) => error.to_string(),
        };
        for name in case["message_names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            assert!(message.contains(name), "{file}: the message does not name {name}:\n{message}");
        }
    }
}

/// Three documents of one stream see only themselves.
#[test]
fn packed_logits_equal_those_of_each_document_alone() {
    tch::no_grad(|| {
        for name in small_models() {
            let model = load(&golden(&format!("models/{name}")), false);
            let golden = golden_tensors(&format!("logits/{name}.safetensors"));
            let docs: Vec<Vec<u32>> = [2, 0, 1]
                .iter()
                .map(|k| golden.tensor(&format!("ids.{k}")).unwrap().ids())
                .collect();
            let docs: Vec<&[u32]> = docs.iter().map(Vec::as_slice).collect();
            let alone: Vec<Tensor> = docs.iter().map(|doc| logits(&model, &[doc])).collect();
            let diff = relative_diff(&logits(&model, &docs), &Tensor::cat(&alone, 0));
            assert!(diff <= 1e-5, "{name}: packed and alone differ by {diff} relative");
        }
    });
}

/// A prompt of five tokens at once, then one token at a time, beside another sequence that runs out of step.
#[test]
fn reading_through_the_cache_gives_the_same_logits() {
    tch::no_grad(|| {
        for name in small_models() {
            let model = load(&golden(&format!("models/{name}")), false);
            let golden = golden_tensors(&format!("logits/{name}.safetensors"));
            let ids = golden.tensor("ids.2").unwrap().ids();
            let expected = golden.tensor("logits.2").unwrap();
            let mut cache = KvCache::new(&model.config, 2, ids.len(), model.kind(), model.device());
            let mut at = 0;
            while at < ids.len() {
                let n = if at == 0 { 5 } else { 1 };
                let other = [7u32, 8, 9];
                let docs: [&[u32]; 2] =
                    [&ids[at..at + n], if at == 0 { &other } else { &other[..1] }];
                let starts = [cache.lens()[0], cache.lens()[1]];
                let ragged = Ragged::from_positions(&docs, &starts, model.device());
                let hidden = model.hidden(&ragged, &mut Pass::cached(&mut cache)).unwrap();
                let hidden = hidden.narrow(0, 0, n as i64);
                let found = model.head().logits(&hidden, &Pass::default());
                let diff = max_abs_diff(&found, &expected.narrow(0, at as i64, n as i64));
                assert!(diff <= LOGITS, "{name}: logits of token {at} differ by {diff}");
                at += n;
            }
        }
    });
}

#[test]
fn real_models_agree_with_transformers() {
    let Some(parts) = parts() else { return };
    tch::no_grad(|| {
        for (name, part) in
            [("smollm2-135m", "smollm2-135m-instruct"), ("stories15m", "stories15m")]
        {
            let model = load(&parts.join(part), false);
            let golden = golden_tensors(&format!("logits/{name}.safetensors"));
            for k in 0..3 {
                let expected = |what: &str| golden.tensor(&format!("{what}.{k}")).unwrap();
                let found = logits(&model, &[&expected("ids").ids()]);
                let last = found.get(-1);
                let top = max_abs_diff(
                    &last.index_select(0, &expected("top_ids")),
                    &expected("top_logits"),
                );
                let [rows, columns] = [found.size()[0], found.size()[1]];
                let sample = found.slice(0, 0, rows, 8).slice(1, 0, columns, 499);
                let sample = max_abs_diff(&sample, &expected("sample"));
                println!("{name}, {rows} tokens: best 20 {top:.1e}, sample {sample:.1e}");
                assert!(
                    top <= LOGITS && sample <= LOGITS,
                    "{name}, text {k}: logits differ by {top}, {sample}"
                );
                assert_eq!(
                    last.argmax(-1, false).int64_value(&[]),
                    expected("top_ids").int64_value(&[0])
                );
                check_nll(&model, &golden, k, name);
            }
        }
    });
}
