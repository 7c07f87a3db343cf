//! Coarse nodes against their plain twins: scores and every gradient, in fp32 and bf16, with and without recomputing.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    Config, DropoutKey, LoadOptions, LoraConfig, Pass, Prefix, Ragged, Recompute, Transformer,
};

/// Every form a block may have; `gpt2` has none fused but the head and the embedding.
const CONFIGS: [(&str, &str); 4] = [
    (
        "llama with biases",
        r#"{"model_type":"llama","hidden_act":"silu","vocab_size":97,"hidden_size":32,"intermediate_size":48,
        "num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true,"initializer_range":0.3,"attention_bias":true,"mlp_bias":true}"#,
    ),
    (
        "mistral, window 7",
        r#"{"model_type":"mistral","hidden_act":"silu","vocab_size":97,"hidden_size":32,
        "intermediate_size":48,"num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":2,
        "sliding_window":7,"initializer_range":0.3}"#,
    ),
    (
        "qwen3",
        r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":97,"hidden_size":32,"intermediate_size":48,
        "num_hidden_layers":1,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":16,
        "initializer_range":0.3}"#,
    ),
    (
        "gpt2",
        r#"{"model_type":"gpt2","activation_function":"gelu_new","vocab_size":97,"n_embd":32,"n_layer":1,
        "n_head":4,"n_positions":128,"initializer_range":0.3}"#,
    ),
];

fn model(config: &str, kind: Kind) -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let options = LoadOptions::trained(kind, Device::Cpu);
    Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options)
}

/// Log-probabilities, and the gradient of a weighted sum of them by parameter, in two micro-batches.
fn run(model: &Transformer, plain: bool) -> Vec<(String, Tensor)> {
    let ids =
        |n: u32, salt: u32| (0..n).map(|i| (i * 31 + salt * 17 + 5) % 97).collect::<Vec<u32>>();
    let mut found = Vec::new();
    for salt in [0, 3] {
        let docs = [ids(9, salt), ids(1, salt + 1), ids(70, salt + 2)];
        let docs: Vec<&[u32]> = docs.iter().map(Vec::as_slice).collect();
        // In the second micro-batch two documents continue the third.
        let ragged = match salt {
            0 => Ragged::new(&docs, Device::Cpu),
            _ => Ragged::from_positions(&docs, &[40, 70, 0], Device::Cpu)
                .continuing([40, 70, 0].map(|n| (n > 0).then_some(Prefix { doc: 2, n })).to_vec()),
        };
        let dropout = Some(DropoutKey { seed: 1, step: 2, micro_batch: salt.into() }); // of adapters that drop
        let mut pass = Pass { plain, dropout, ..Pass::default() };
        let hidden = model.hidden(&ragged, &mut pass).unwrap();
        let rows = Tensor::arange_start_step(0, 80, 2, (Kind::Int64, Device::Cpu));
        let labels = (&rows * 7 + 3).remainder(97);
        let scores = model.head().score(&hidden.index_select(0, &rows), &labels, &pass);
        let weights = (rows.to_kind(Kind::Float) * 0.7).sin(); // an objective of both signs
        let loss = (&scores.logprobs * weights).sum(Kind::Float);
        let trained: Vec<_> = model.params().iter().filter(|param| param.trainable()).collect();
        let leaves: Vec<&Tensor> = trained.iter().map(|param| &param.tensor).collect();
        let grads = Tensor::run_backward(&[&loss], &leaves, false, false);
        for (param, grad) in trained.iter().zip(grads) {
            if grad.defined() {
                param.main_grad().accumulate(&grad);
            }
        }
        found.push((format!("logprobs {salt}"), scores.logprobs.detach()));
        found.push((format!("correct {salt}"), scores.correct.to_kind(Kind::Float)));
    }
    let trained = model.params().iter().filter(|param| param.trainable());
    found.extend(trained.map(|param| {
        (param.name.clone(), param.main_grad().take().expect("every parameter has a gradient"))
    }));
    found
}

/// |a − b| / |b| over all elements.
fn distance(a: &Tensor, b: &Tensor) -> f64 {
    let norm = |x: &Tensor| x.to_kind(Kind::Double).norm().double_value(&[]);
    norm(&(a - b)) / norm(b).max(1e-3)
}

#[test]
fn nodes_agree_with_their_twins_in_fp32() {
    for (name, config) in CONFIGS {
        let model = model(config, Kind::Float);
        let found = run(&model, false);
        for ((what, found), (_, expected)) in found.iter().zip(run(&model, true)) {
            let distance = distance(found, &expected);
            assert!(distance <= 1e-5, "{name}, {what}: {distance:e}");
        }
    }
}

/// In bf16 node and twin round in other places: both are held against fp32 with the same weights.
#[test]
fn nodes_are_as_exact_as_their_twins_in_bf16() {
    for (name, config) in CONFIGS {
        let (narrow, wide) = (model(config, Kind::BFloat16), model(config, Kind::Float));
        for (narrow, wide) in narrow.params().iter().zip(wide.params()) {
            tch::no_grad(|| wide.tensor.shallow_clone().copy_(&narrow.tensor));
        }
        let [found, twin] = [false, true].map(|plain| run(&narrow, plain));
        for (((what, found), (_, twin)), (_, exact)) in
            found.iter().zip(&twin).zip(run(&wide, true))
        {
            if what.starts_with("correct") {
                continue; // ties of rounded logits
            }
            let [found, twin] = [found, twin].map(|x| distance(x, &exact));
            println!("{name}, {what}: {found:.1e}, its twin {twin:.1e}");
            assert!(found <= 1.5 * twin + 2e-3, "{name}, {what}: {found:e}, its twin {twin:e}");
        }
    }
}

#[test]
fn what_is_computed_again_is_the_same() {
    let lora = |use_dora| LoraConfig { use_dora, dropout: 0.3, ..LoraConfig::default() };
    let adapters = [None, Some(lora(false)), Some(lora(true))];
    let kinds = [Kind::Float, Kind::BFloat16];
    for (name, config) in CONFIGS {
        let cases = kinds.into_iter().flat_map(|kind| adapters.iter().map(move |a| (kind, a)));
        for (kind, adapter) in cases {
            let mut model = model(config, kind);
            if let Some(adapter) = adapter {
                model.add_adapter(adapter, 3, true).unwrap();
            }
            let kept = run(&model, false);
            for recompute in [Recompute::Mlp, Recompute::Blocks] {
                model.recompute = recompute;
                for ((what, again), (_, kept)) in run(&model, false).iter().zip(&kept) {
                    assert_eq!(again, kept, "{name}, {kind:?}, {recompute:?}, {what}");
                }
            }
        }
    }
}
