//! Ten steps of every objective against TRL and PEFT: the same rows, the same initial weights, every loss and gradient
//! norm. See `tests/golden/objectives.py`.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use serde_json::Value;
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, Pass, Ragged, Transformer};
use tunesmith_tests::*;
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{
    AdamW, AdamWKnobs, Classify, Kto, LossKnobs, Objective, PAIR_LOSSES, Preference, Reference,
    Reward, Sft, StepOutcome, step,
};

const RELATIVE: f64 = 1e-4;

fn number(value: &Value, default: f64) -> f64 {
    value.as_f64().unwrap_or(default)
}

/// The documents of a step; chosen and rejected ones are tied where `pairs`, and have one prompt.
fn batch(step: &Value, pairs: bool) -> Batch {
    Batch::new(&examples(step, pairs))
}

/// The same with one prompt for the two answers of a pair.
fn shared(step: &Value) -> Batch {
    let mut examples = examples(step, true);
    for pair in examples.chunks_mut(2).filter(|pair| pair[0].trained.iter().all(|&t| t)) {
        // The golden of the reward model does not say where prompts end.
        let alike = pair[0].ids.iter().zip(&pair[1].ids).take_while(|(a, b)| a == b).count();
        pair.iter_mut().for_each(|example| example.trained[..alike].fill(false));
    }
    Example::share_prompts(&mut examples);
    Batch::new(&examples)
}

fn examples(step: &Value, pairs: bool) -> Vec<Example> {
    let docs = step["docs"].as_array().unwrap().iter().zip(0usize..);
    docs.map(|(doc, i)| {
        let mut example = match doc["labels"].is_array() {
            true => example(doc),
            false => {
                let (ids, prompt) = (doc["ids"].ids(), doc["prompt"].as_u64().unwrap() as usize);
                let trained = (0..ids.len()).map(|i| i >= prompt).collect();
                Example { ids, trained, ..Example::default() }
            }
        };
        example.label = doc["label"].as_f64().map(|label| label as f32);
        example.tied = pairs && i % 2 == 1;
        example.row = i as u64 / if pairs { 2 } else { 1 };
        example
    })
    .collect()
}

fn knobs(golden: &Value) -> LossKnobs {
    let knobs = &golden["knobs"];
    LossKnobs {
        beta: number(&knobs["beta"], 0.1),
        label_smoothing: number(&knobs["label_smoothing"], 0.0),
        gamma: number(&knobs["gamma"], 0.0),
    }
}

fn preference(golden: &Value, losses: &[(&str, f64)], reference: Option<Reference>) -> Preference {
    let losses: Vec<(String, f64)> = losses.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect();
    Preference::new(&losses, knobs(golden), reference).unwrap()
}

/// The base with the initial adapter of this kind.
fn with_adapter(kind: &str) -> Transformer {
    let dir = golden(if kind == "tokens-tied" { "models/qwen2" } else { "models/llama3" });
    let mut config = Config::from_dir(&dir).unwrap();
    if kind == "score" {
        config = config.into_classifier(&["LABEL_0".to_owned()]);
    }
    let options = LoadOptions::frozen(Kind::Float, Device::Cpu);
    let mut model = Transformer::load_as(config, &dir, options, 1).unwrap();
    model.load_adapter(&golden(&format!("objectives/initial/{kind}")), true).unwrap();
    model
}

/// [`check_with`], for pairs with their prompt repeated and with it shared.
fn check_pairs(name: &str, model: impl Fn() -> Transformer, objective: &dyn Objective) {
    check_with(name, &model(), objective, &|step| batch(step, true));
    let golden = check_with(name, &model(), objective, &shared);
    let tokens = |batch: &dyn Fn(&Value) -> Batch| -> usize {
        golden["steps"].as_array().unwrap().iter().map(|step| batch(step).len()).sum()
    };
    let (once, twice) = (tokens(&shared), tokens(&|step| batch(step, true)));
    assert!(once < twice, "{name}: {once} tokens where the prompt is shared, {twice} where not");
}

fn check(name: &str, model: &Transformer, objective: &dyn Objective) -> Value {
    check_with(name, model, objective, &|step| batch(step, false))
}

/// Makes the golden's steps, each in one batch, and compares losses, norms and metrics; returns the golden.
fn check_with(
    name: &str,
    model: &Transformer,
    objective: &dyn Objective,
    batch: &dyn Fn(&Value) -> Batch,
) -> Value {
    let golden = golden_json(&format!("objectives/{name}.json"));
    let knobs = AdamWKnobs { max_grad_norm: 0.0, ..AdamWKnobs::default() };
    let mut optimizer = AdamW::new(knobs, model.params());
    let mut worst = [0.0f64; 2];
    for (i, expected) in golden["steps"].as_array().unwrap().iter().enumerate() {
        let batches = [batch(expected)];
        let StepOutcome { loss, grad_norm, metrics } =
            step(model, &mut optimizer, objective, &batches, number(&golden["lr"], 0.0), 0)
                .unwrap();
        let found = [loss, grad_norm];
        for ((worst, found), what) in worst.iter_mut().zip(found).zip(["loss", "grad_norm"]) {
            let expected = number(&expected[what], f64::NAN);
            let off = (found / expected - 1.0).abs();
            assert!(off <= RELATIVE, "{name}, step {i}: {what} {found}, expected {expected}");
            *worst = worst.max(off);
        }
        for (metric, value) in expected["metrics"].as_object().unwrap() {
            let value = number(value, f64::NAN);
            let found = metrics.iter().find(|(name, _)| name == metric).map(|(_, found)| *found);
            let Some(found) = found else { panic!("{name}: no metric {metric} in {metrics:?}") };
            let off = (found - value).abs();
            assert!(
                off <= 1e-4 * value.abs().max(1.0),
                "{name}, step {i}: {metric} {found}, expected {value}"
            );
        }
    }
    println!("{name}: loss within {:.1e}, gradient norm within {:.1e}", worst[0], worst[1]);
    golden
}

#[test]
fn every_dpo_loss_agrees_with_trl() {
    for loss in PAIR_LOSSES.iter().filter(|loss| loss.needs_reference) {
        let name = if loss.name == "cdpo" { "cdpo".into() } else { format!("dpo-{}", loss.name) };
        let golden = golden_json(&format!("objectives/{name}.json"));
        let objective = preference(&golden, &[(loss.name, 1.0)], Some(Reference::AdapterOff));
        check_pairs(&name, || with_adapter("lora"), &objective);
    }
}

#[test]
fn sums_of_losses_and_losses_without_a_reference_agree_with_trl() {
    let golden = |name: &str| golden_json(&format!("objectives/{name}.json"));
    let sum = [("sigmoid", 1.0), ("sft", 0.5)];
    let objective = preference(&golden("dpo-sum"), &sum, Some(Reference::AdapterOff));
    check_pairs("dpo-sum", || with_adapter("lora"), &objective);
    let runs: [(&str, &[(&str, f64)]); 3] = [
        ("simpo", &[("simpo", 1.0)]),
        ("cpo", &[("cpo", 1.0), ("sft", 1.0)]),
        ("orpo", &[("orpo", 1.0), ("sft_text", 1.0)]),
    ];
    for (name, losses) in runs {
        check_pairs(name, || with_adapter("lora"), &preference(&golden(name), losses, None));
    }
}

/// Full fine-tuning against a frozen copy, and against its log-probabilities computed before.
#[test]
fn a_copy_and_a_table_are_the_same_reference() {
    let dir = golden("models/llama3");
    let name = "dpo-sigmoid-full";
    let golden = golden_json(&format!("objectives/{name}.json"));
    let loss = [("sigmoid", 1.0)];
    let copy = Reference::Copy(Box::new(load(&dir, false)));
    check_pairs(name, || load(&dir, true), &preference(&golden, &loss, Some(copy)));

    let (model, steps) = (load(&dir, true), golden["steps"].as_array().unwrap());
    let first = batch(&steps[0], true);
    // A table holds whole answers: how prompts stood in the batches that made it does not matter.
    let table = Reference::tabulate(&model, &shared(&steps[0])).unwrap();
    let table = Reference::Table(table.into_iter().collect());
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let objective = preference(&golden, &loss, Some(table));
    let outcome = step(&model, &mut optimizer, &objective, &[first], 1e-3, 0).unwrap();
    assert!((outcome.loss / number(&steps[0]["loss"], 0.0) - 1.0).abs() < 1e-6, "{outcome:?}");
    let mut other = batch(&steps[1], true);
    other.docs.iter_mut().for_each(|doc| doc.row += 100);
    let error = step(&model, &mut optimizer, &objective, &[other], 1e-3, 0).unwrap_err();
    assert!(error.to_string().starts_with("row 100: no reference"), "{error}");
}

#[test]
fn kto_and_its_kind_agree_with_trl() {
    for (name, kl) in [("kto", true), ("kto-apo_zero_unpaired", false)] {
        let golden = golden_json(&format!("objectives/{name}.json"));
        let knobs = &golden["knobs"];
        let objective = Kto {
            beta: number(&knobs["beta"], 0.1),
            desirable_weight: number(&knobs["desirable_weight"], 1.0),
            undesirable_weight: number(&knobs["undesirable_weight"], 1.0),
            kl,
            reference: Reference::AdapterOff,
        };
        check(name, &with_adapter("lora"), &objective);
    }
}

#[test]
fn a_reward_model_agrees_with_trl() {
    let golden = golden_json("objectives/reward.json");
    let center_coefficient = number(&golden["knobs"]["center_coefficient"], 0.0);
    check_pairs("reward", || with_adapter("score"), &Reward { center_coefficient });
}

#[test]
fn adapters_learn_from_conversations_as_in_peft() {
    for kind in ["lora", "dora", "rslora"] {
        check(&format!("sft-{kind}"), &with_adapter(kind), &Sft);
    }
    // Rows of a few tokens: of two tables, and of one that is both embedding and head.
    for (kind, n_rows) in [("tokens", 12 + 9), ("tokens-tied", 12)] {
        let model = with_adapter(kind);
        check(&format!("sft-{kind}"), &model, &Sft);
        // No table has a gradient, nor moments: the rows are all that is trained of 96 tokens.
        assert!(
            model.base_params().iter().all(|p| !p.trainable() && p.main_grad().take().is_none())
        );
        let rows = model.params().iter().filter(|p| p.name.contains("token_adapter"));
        let numbers: usize = rows.map(|p| p.tensor.numel()).sum();
        assert_eq!(numbers, n_rows * model.config.hidden_size as usize, "{kind}");
    }
}

#[test]
fn classifiers_agree_with_transformers_and_are_saved_under_their_class() {
    for (base, class) in
        [("gpt2", "GPT2ForSequenceClassification"), ("llama3", "LlamaForSequenceClassification")]
    {
        for n_labels in [3, 22] {
            let name = format!("classify-{base}-{n_labels}");
            let score = golden_json(&format!("objectives/{name}.json"));
            let score = score["knobs"]["score"].as_array().unwrap();
            let numbers: Vec<f32> = score
                .iter()
                .flat_map(|row| row.as_array().unwrap())
                .map(|x| number(x, 0.0) as f32)
                .collect();
            let labels: Vec<String> = (0..n_labels).map(|i| format!("class {i}")).collect();
            let dir = golden(&format!("models/{base}"));
            let config = Config::from_dir(&dir).unwrap().into_classifier(&labels);
            let options = LoadOptions::trained(Kind::Float, Device::Cpu);
            let model = Transformer::load_as(config, &dir, options, 3).unwrap();
            let head = model.params().iter().find(|p| p.name == "score.weight").unwrap();
            let given = Tensor::from_slice(&numbers).view(&head.tensor.size()[..]);
            tch::no_grad(|| head.tensor.shallow_clone().copy_(&given));
            let golden = check(&name, &model, &Classify);

            // transformers' logits after training; saved and loaded, as `tests/golden/saved.py` does there.
            let saved =
                std::path::PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("saved").join(&name);
            std::fs::create_dir_all(&saved).unwrap();
            model.save(&saved, &dir).unwrap();
            let config: Value =
                serde_json::from_slice(&std::fs::read(saved.join("config.json")).unwrap()).unwrap();
            assert_eq!(config["architectures"][0], class);
            assert_eq!(config["id2label"]["1"], "class 1");
            assert_eq!(config["label2id"]["class 2"], 2);
            let again = load(&saved, false);
            assert_eq!(again.config.labels(), labels);
            let ids = golden["after"]["ids"].ids();
            let (ragged, mut pass) = (Ragged::new(&[&ids], Device::Cpu), Pass::default());
            let hidden = again.hidden(&ragged, &mut pass).unwrap();
            let last = hidden.narrow(0, ids.len() as i64 - 1, 1);
            let found = again.label_scores(&last, &pass).unwrap().squeeze_dim(0);
            let expected: Vec<f32> = golden["after"]["logits"]
                .as_array()
                .unwrap()
                .iter()
                .map(|x| number(x, 0.0) as f32)
                .collect();
            let diff = relative_diff(&found, &Tensor::from_slice(&expected));
            assert!(diff < 1e-3, "{name}: logits after ten steps differ by {diff}");
        }
    }
}

/// Whatever the loss, a fresh adapter says what its base says.
#[test]
fn the_margin_is_zero_before_the_first_step() {
    let golden = golden_json("objectives/dpo-sigmoid.json");
    for kind in ["lora", "dora", "rslora"] {
        let model = with_adapter(kind);
        let objective = preference(&golden, &[("sigmoid", 1.0)], Some(Reference::AdapterOff));
        let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let outcome =
            step(&model, &mut optimizer, &objective, &[batch(&golden["steps"][0], true)], 1e-3, 0)
                .unwrap();
        let margin = outcome.metrics.iter().find(|(name, _)| *name == "rewards/margins").unwrap().1;
        assert!(margin.abs() <= 1e-6, "{kind}: {margin}");
        assert!((outcome.loss - std::f64::consts::LN_2).abs() <= 1e-6);
    }
}

#[test]
fn pairs_that_are_none_are_refused_with_their_row() {
    let golden = golden_json("objectives/dpo-sigmoid.json");
    let model = with_adapter("lora");
    let objective = preference(&golden, &[("sigmoid", 1.0)], Some(Reference::AdapterOff));
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let pair = |a: &[u32], b: &[u32], prompt: usize| {
        let doc = |ids: &[u32], tied| Example {
            ids: ids.to_vec(),
            trained: (0..ids.len()).map(|i| i >= prompt).collect(),
            row: 17,
            tied,
            ..Example::default()
        };
        Batch::new(&[doc(a, false), doc(b, true)])
    };
    let mut refuse = |batch: Batch, part: &str| {
        let error =
            step(&model, &mut optimizer, &objective, &[batch], 1e-3, 0).unwrap_err().to_string();
        assert!(error.starts_with("row 17: ") && error.contains(part), "{error}");
    };
    refuse(pair(&[3, 4, 5], &[3, 4, 5], 2), "chosen and rejected are the same");
    refuse(
        pair(&[3, 4, 5, 9], &[3, 7, 5, 8], 3),
        "prompts of chosen and rejected differ from token 1",
    );
    let mut three = pair(&[3, 4, 5], &[3, 4, 6], 2);
    let more = pair(&[3, 4, 7], &[3, 4, 8], 2);
    three
        .docs
        .extend(more.docs.iter().take(1).map(|doc| tunesmith_tokens::Doc { start: 6, ..*doc }));
    three.tokens.extend(&more.tokens[..3]);
    three.labels.extend(&more.labels[..3]);
    three.positions.extend(&more.positions[..3]);
    refuse(three, "expected one chosen and one rejected answer, found 3");
}

#[test]
fn objectives_that_cannot_be_are_named() {
    let new = |losses: &[(&str, f64)], label_smoothing, reference| {
        let losses: Vec<(String, f64)> =
            losses.iter().map(|(n, w)| ((*n).to_owned(), *w)).collect();
        let knobs = LossKnobs { beta: 0.1, label_smoothing, gamma: 0.5 };
        Preference::new(&losses, knobs, reference).err().expect("a refusal").to_string()
    };
    assert!(new(&[("dpo", 1.0)], 0.0, None).contains("expected one of sigmoid, "));
    assert!(new(&[("sigmoid", 1.0)], 0.0, None).contains("reference model"));
    assert!(new(&[], 0.0, None).contains("at least one loss"));
    assert!(
        new(&[("robust", 1.0)], 0.5, Some(Reference::AdapterOff)).contains("`label_smoothing`")
    );
    assert!(new(&[("exo_pair", 1.0)], 0.0, Some(Reference::AdapterOff)).contains("exo_pair"));
}
