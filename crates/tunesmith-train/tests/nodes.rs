//! A run by coarse nodes beside the same run by their plain twins.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, Pass, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{AdamW, AdamWKnobs, Objective, Reading, Sft};

fn model() -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":211,"hidden_size":64,
        "intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
        "rms_norm_eps":1e-5,"tie_word_embeddings":true,"initializer_range":0.1}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    let options = LoadOptions::trained(Kind::Float, Device::Cpu);
    Transformer::fresh(config, 3, options)
}

/// Rows in which a token follows from the one before: a model learns that within 50 steps.
fn batch(step: u32) -> Batch {
    let example = |row: u32| {
        let ids: Vec<u32> = (0..40 + row * 9)
            .scan(step * 17 + row, |id, _| {
                *id = (*id * 5 + 7) % 211;
                Some(*id)
            })
            .collect();
        Example { trained: ids.iter().map(|id| id % 4 > 0).collect(), ids, ..Example::default() }
    };
    Batch::new(&(0..3).map(example).collect::<Vec<_>>())
}

fn losses(plain: bool) -> Vec<f64> {
    let model = model();
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    (0..50)
        .map(|step| {
            let batch = batch(step);
            let mut pass = Pass { plain, ..Pass::default() };
            let terms = Sft.terms(&Reading::new(&model, &batch, &mut pass).unwrap()).unwrap().terms;
            let loss = &terms[0].sum / batch.n_trained() as f64;
            let leaves: Vec<&Tensor> = model.params().iter().map(|p| &p.tensor).collect();
            let grads = Tensor::run_backward(&[&loss], &leaves, false, false);
            for (param, grad) in model.params().iter().zip(grads) {
                if grad.defined() {
                    param.main_grad().accumulate(&grad);
                }
            }
            let gradients = optimizer.take_gradients();
            optimizer.step(gradients, 3e-3);
            loss.double_value(&[])
        })
        .collect()
}

#[test]
fn fifty_steps_lose_as_much_as_the_plain_path() {
    let (found, expected) = (losses(false), losses(true));
    assert!(expected[49] < 0.5 * expected[0], "it learns: {expected:?}");
    for (step, (found, expected)) in found.iter().zip(&expected).enumerate() {
        let apart = (found / expected - 1.0).abs();
        assert!(apart <= 1e-4, "step {step}: {found}, the plain path {expected}");
    }
}
