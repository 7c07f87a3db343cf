//! What must hold of every model: packing, caching and saving change nothing.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "helpers of tests fail by panicking and say what they skip"
)]

use std::path::PathBuf;
use tch::{Device, IndexOp, Kind, Tensor};
use tunesmith_kernels::attach_node;
use tunesmith_model::{
    Config, KvCache, LoadOptions, Param, Pass, Prefix, Ragged, Role, Transformer,
};

const FP32: LoadOptions = LoadOptions::frozen(Kind::Float, Device::Cpu);

/// Small configurations that differ in everything the code branches on.
const CONFIGS: &[(&str, &str)] = &[
    (
        "llama",
        r#"{"model_type":"llama","hidden_act":"silu","vocab_size":97,"hidden_size":32,"intermediate_size":48,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"rms_norm_eps":1e-5,
        "tie_word_embeddings":true,"initializer_range":0.3,"attention_bias":true,"mlp_bias":true}"#,
    ),
    (
        "mistral, window 4",
        r#"{"model_type":"mistral","hidden_act":"silu","vocab_size":97,"hidden_size":32,
        "intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
        "sliding_window":4,"initializer_range":0.3}"#,
    ),
    (
        "qwen3",
        r#"{"model_type":"qwen3","hidden_act":"silu","vocab_size":97,"hidden_size":32,"intermediate_size":48,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":1,"head_dim":16,
        "initializer_range":0.3,"rope_parameters":{"rope_type":"linear","factor":2.0,"rope_theta":1000.0}}"#,
    ),
    (
        "gpt2",
        r#"{"model_type":"gpt2","activation_function":"gelu_new","vocab_size":97,"n_embd":32,"n_layer":2,
        "n_head":4,"n_positions":64,"initializer_range":0.3}"#,
    ),
];

fn model(config: &str) -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, FP32)
}

fn ids(n: usize, salt: u32) -> Vec<u32> {
    (0..n as u32).map(|i| (i * 31 + salt * 17 + 5) % 97).collect()
}

fn logits(model: &Transformer, docs: &[&[u32]], cache: Option<&mut KvCache>) -> Tensor {
    let starts = cache.as_ref().map_or(vec![0; docs.len()], |cache| cache.lens().to_vec());
    let ragged = Ragged::from_positions(docs, &starts, Device::Cpu);
    let mut pass = Pass { cache, ..Pass::default() };
    tch::no_grad(|| {
        let hidden = model.hidden(&ragged, &mut pass).unwrap();
        model.head().logits(&hidden, &pass)
    })
}

fn close(name: &str, a: &Tensor, b: &Tensor) {
    let error = ((a - b).abs().max() / b.abs().max()).double_value(&[]);
    assert!(error <= 1e-5, "{name}: relative difference {error:e}");
}

#[test]
fn packed_document_equals_it_alone() {
    for (name, config) in CONFIGS {
        let model = model(config);
        let docs = [ids(9, 1), ids(1, 2), ids(14, 3)];
        let slices: Vec<&[u32]> = docs.iter().map(Vec::as_slice).collect();
        let packed = logits(&model, &slices, None);
        let mut start = 0;
        for doc in slices {
            let n = doc.len() as i64;
            close(name, &packed.i(start..start + n), &logits(&model, &[doc], None));
            start += n;
        }
    }
}

/// What documents begin with may be there once: values and gradients stay.
#[test]
fn a_shared_beginning_reads_as_if_it_were_repeated() {
    let qwen2 = r#"{"model_type":"qwen2","hidden_act":"silu","vocab_size":97,"hidden_size":32,"intermediate_size":48,
        "num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,"initializer_range":0.3}"#;
    for (name, config) in CONFIGS.iter().chain([&("qwen2", qwen2)]) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let options = LoadOptions::trained(Kind::Float, Device::Cpu);
        let model = Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options);
        let (prompt, a, b, c) = (ids(13, 1), ids(9, 2), ids(5, 3), ids(1, 4));
        let other = ids(6, 5);
        let whole = |answer: &[u32]| [&prompt, answer].concat();
        let (of_a, of_b, of_c) = (whole(&a), whole(&b), whole(&c));
        let apart = Ragged::new(&[&other, &of_a, &of_b, &of_c], Device::Cpu);
        // The second answer leaves the last token of the prompt to be its own.
        let docs: [&[u32]; 4] = [&other, &of_a, &of_b[12..], &of_c[13..]];
        let prefix = |n| Some(Prefix { doc: 1, n });
        let shared = Ragged::from_positions(&docs, &[0, 0, 12, 13], Device::Cpu).continuing(vec![
            None,
            None,
            prefix(12),
            prefix(13),
        ]);
        let kept = [(0..28), (40..46), (59..60)]; // rows of `apart` that `shared` has
        let weights = Tensor::randn([35, 97], (Kind::Float, Device::Cpu));
        let run = |ragged: &Ragged, kept: &[std::ops::Range<i64>], plain: bool| {
            let mut pass = Pass { plain, ..Pass::default() };
            let hidden = model.hidden(ragged, &mut pass).unwrap();
            let rows: Vec<Tensor> = kept.iter().map(|range| hidden.i(range.clone())).collect();
            let logprobs =
                model.head().logits(&Tensor::cat(&rows, 0), &pass).log_softmax(-1, Kind::Float);
            let loss = (&logprobs * &weights).sum(Kind::Float);
            let params: Vec<&Tensor> = model.params().iter().map(|param| &param.tensor).collect();
            let grads = Tensor::run_backward(&[&loss], &params, false, false);
            let sums = model.params().iter().zip(grads).map(|(param, grad)| {
                if grad.defined() {
                    param.main_grad().accumulate(&grad);
                }
                (param.name.clone(), param.main_grad().take().unwrap())
            });
            let sums: Vec<_> = sums.collect();
            (logprobs.detach(), sums)
        };
        let expected = run(&apart, &kept, true);
        for plain in [false, true] {
            let found = run(&shared, &[0..28, 28..35], plain);
            close(name, &found.0, &expected.0);
            for ((param, found), (_, expected)) in found.1.iter().zip(&expected.1) {
                close(&format!("{name}, {param}"), found, expected);
            }
        }
    }
}

#[test]
fn cached_steps_equal_one_pass() {
    for (name, config) in CONFIGS {
        let model = model(config);
        let (a, b) = (ids(11, 1), ids(11, 4));
        let mut cache = KvCache::new(&model.config, 2, 16, Kind::Float, Device::Cpu);
        // Two sequences of different progress: prefills of 5 and 2 tokens, a chunk, a rest of `b`, single steps.
        let reads = [
            (0..5, 0..2),
            (5..8, 2..8),
            (8..8, 8..9),
            (8..9, 9..10),
            (9..10, 10..11),
            (10..11, 11..11),
        ];
        let (mut of_a, mut of_b) = (vec![], vec![]);
        for (in_a, in_b) in reads {
            let both = logits(&model, &[&a[in_a.clone()], &b[in_b]], Some(&mut cache));
            of_a.push(both.i(..in_a.len() as i64));
            of_b.push(both.i(in_a.len() as i64..));
        }
        close(name, &Tensor::cat(&of_a, 0), &logits(&model, &[&a], None));
        close(name, &Tensor::cat(&of_b, 0), &logits(&model, &[&b], None));
        assert_eq!(cache.lens(), [11, 11]);
    }
}

#[test]
fn saved_and_loaded_is_the_same() {
    for (name, config) in CONFIGS {
        let original = model(config);
        let dir = tempfile::tempdir().unwrap();
        original.save(dir.path(), dir.path()).unwrap();
        let loaded = Transformer::load(dir.path(), FP32).unwrap();
        let doc = ids(12, 9);
        assert_eq!(logits(&loaded, &[&doc], None), logits(&original, &[&doc], None), "{name}");
        for (a, b) in original.params().iter().zip(loaded.params()) {
            assert_eq!(a.name, b.name);
        }
    }
}

#[test]
fn what_belongs_to_a_model_goes_with_it() {
    let (origin, target) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files =
        ["tokenizer.json", "chat_template.jinja", "additional_chat_templates/tool_use.jinja"];
    std::fs::create_dir(origin.path().join("additional_chat_templates")).unwrap();
    for file in files {
        std::fs::write(origin.path().join(file), file).unwrap();
    }
    model(CONFIGS[0].1).save(target.path(), origin.path()).unwrap();
    for file in files {
        assert_eq!(std::fs::read_to_string(target.path().join(file)).unwrap(), file);
    }
}

#[test]
fn fresh_weights_depend_on_seed_and_name_alone() {
    let (a, b) = (model(CONFIGS[0].1), model(CONFIGS[0].1));
    for (a, b) in a.params().iter().zip(b.params()) {
        assert_eq!(a.tensor, b.tensor);
    }
    let q = a.params().iter().find(|p| p.name.ends_with("0.self_attn.q_proj.weight")).unwrap();
    assert!((q.tensor.std(true).double_value(&[]) - 0.3).abs() < 0.03);
}

fn refusal(model: &Transformer, ids: &[u32]) -> String {
    let ragged = Ragged::new(&[ids], Device::Cpu);
    model.hidden(&ragged, &mut Pass::default()).unwrap_err().to_string()
}

#[test]
fn token_outside_the_vocabulary_is_named() {
    let model = model(CONFIGS[0].1);
    let error = refusal(&model, &[3, 97]);
    assert!(error.contains("token id 97 is outside the vocabulary of 97"), "{error}");
    let model = self::model(CONFIGS[3].1);
    let error = refusal(&model, &ids(65, 0));
    assert!(error.contains("position 64 is beyond the model's 64 positions"), "{error}");
}

/// Reference values of an independent forward pass: `TUNESMITH_PARTS` names the folder of real models.
#[test]
fn stories15m_reads_like_stories() {
    let Some(parts) =
        std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty()).map(PathBuf::from)
    else {
        println!("skipped: TUNESMITH_PARTS is not set");
        return;
    };
    let model = Transformer::load(&parts.join("stories15m"), FP32).unwrap();
    assert_eq!(model.n_params(), 15_191_712);
    // "Once upon a time" in Llama 2's vocabulary.
    let best = logits(&model, &[&[1, 9038, 2501, 263, 931]], None)
        .i(-1)
        .argmax(-1, false)
        .int64_value(&[]);
    assert_eq!(best, 29892, "a comma follows");
}

/// A linear layer as one node: the gradient of its weight goes past autograd, straight into the parameter's sum.
#[test]
fn a_node_may_accumulate_its_weight_gradient_itself() {
    fn randn(shape: [i64; 2]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }
    tch::manual_seed(1);
    let x = randn([5, 3]).set_requires_grad(true);
    let weight = Param::new("weight".into(), Role::Projection, randn([4, 3]), true);
    let expected = {
        let loss = x.linear(&weight.tensor, None::<&Tensor>).square().sum(Kind::Float);
        Tensor::run_backward(&[&loss], &[&x, &weight.tensor], false, false)
    };

    for n_passes in [1, 2] {
        for _ in 0..n_passes {
            let y = tch::no_grad(|| x.linear(&weight.tensor, None::<&Tensor>));
            let (input, value) = (x.detach(), weight.tensor.detach());
            let main_grad = weight.main_grad().clone();
            attach_node(c"linear", &[&x, &weight.tensor], &[&y], move |grads| {
                let Some(grad) = &grads[0] else { return vec![None, None] };
                main_grad.accumulate_with(|sum| _ = sum.addmm_(&grad.tr(), &input));
                vec![Some(grad.matmul(&value)), None]
            })
            .unwrap();
            let loss = y.square().sum(Kind::Float);
            let found = Tensor::run_backward(&[&loss], &[&x, &weight.tensor], false, false);
            close("input", &found[0], &expected[0]);
            assert!(!found[1].defined(), "autograd has no gradient of the weight");
        }
        let sum = weight.main_grad().take().unwrap();
        close("weight", &sum, &(&expected[1] * n_passes));
    }
}
