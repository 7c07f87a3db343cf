//! The gradient of one ragged batch, per parameter, against PyTorch's, and against itself in other splits.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use std::collections::BTreeMap;
use tch::{Kind, Tensor};
use tunesmith_model::{Pass, Ragged, Transformer};
use tunesmith_tests::*;
use tunesmith_tokens::{Batch, Example, IGNORE};

const NAMES: [&str; 3] = ["llama3", "qwen3", "gpt2"];

/// Loss (Σ NLL / `n_trained`) and gradients of the examples, `micro_batch` of them at a time.
fn gradients(
    model: &Transformer,
    examples: &[Example],
    micro_batch: usize,
    n_trained: usize,
) -> (f64, BTreeMap<String, Tensor>) {
    let mut loss = 0.0;
    for examples in examples.chunks(micro_batch) {
        let batch = Batch::new(examples);
        let docs: Vec<&[u32]> = batch.doc_ranges().map(|range| &batch.tokens[range]).collect();
        let mut pass = Pass::default();
        let hidden = model.hidden(&Ragged::new(&docs, model.device()), &mut pass).unwrap();
        let rows: Vec<i64> =
            (0..batch.len() as i64).filter(|&i| batch.labels[i as usize] != IGNORE).collect();
        let labels: Vec<i64> = rows.iter().map(|&i| batch.labels[i as usize]).collect();
        let hidden = hidden.index_select(0, &Tensor::from_slice(&rows));
        let scores = model.head().score(&hidden, &Tensor::from_slice(&labels), &pass);
        let part = -scores.logprobs.sum(Kind::Float) / n_trained as f64;
        let leaves: Vec<&Tensor> = model.params().iter().map(|param| &param.tensor).collect();
        for (param, grad) in
            model.params().iter().zip(Tensor::run_backward(&[&part], &leaves, false, false))
        {
            if grad.defined() {
                param.main_grad().accumulate(&grad); // a node has put the others there itself
            }
        }
        loss += part.double_value(&[]);
    }
    let take = |param: &std::rc::Rc<tunesmith_model::Param>| {
        (param.name.clone(), param.main_grad().take().expect("every parameter has a gradient"))
    };
    (loss, model.params().iter().map(take).collect())
}

fn check(
    name: &str,
    what: &str,
    found: &BTreeMap<String, Tensor>,
    expected: &BTreeMap<String, Tensor>,
    bound: f64,
) {
    // Against the largest gradient of the model: some, such as that of a key's bias, are zero but for rounding.
    let scale = expected.values().map(|g| g.abs().max().double_value(&[])).fold(0.0, f64::max);
    assert!(found.keys().eq(expected.keys()), "{name}: other parameters than expected");
    for (parameter, gradient) in found {
        let diff = max_abs_diff(gradient, &expected[parameter]) / scale;
        assert!(diff <= bound, "{name}, {parameter}: {what} differ by {diff} relative");
    }
}

#[test]
fn gradients_agree_with_pytorch_however_the_step_is_split() {
    for name in NAMES {
        let golden_json = golden_json(&format!("gradients/{name}.json"));
        let golden = golden_tensors(&format!("gradients/{name}.safetensors"));
        let expected: BTreeMap<String, Tensor> = golden
            .names()
            .into_iter()
            .map(|name| (name.clone(), golden.tensor(&name).unwrap()))
            .collect();
        let examples: Vec<Example> =
            golden_json["documents"].as_array().unwrap().iter().map(example).collect();
        let n_trained = examples.iter().map(Example::n_trained).sum();
        assert_eq!(golden_json["trained_tokens"], n_trained, "{name}: trained tokens");

        let model = load(&self::golden(&format!("models/{name}")), true);
        let (loss, whole) = gradients(&model, &examples, examples.len(), n_trained);
        let expected_loss = golden_json["loss"].as_f64().unwrap();
        assert!(
            (loss / expected_loss - 1.0).abs() <= 1e-5,
            "{name}: loss {loss}, expected {expected_loss}"
        );
        check(name, "gradients", &whole, &expected, 1e-5);
        for micro_batch in [1, 3] {
            let (_, split) = gradients(&model, &examples, micro_batch, n_trained);
            check(
                name,
                &format!("gradients in micro-batches of {micro_batch}"),
                &split,
                &whole,
                1e-5,
            );
        }
    }
}
