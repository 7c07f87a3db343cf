//! Rows that weigh more or less: what judges rows as a whole takes weighted means over them, Σ w·loss / Σ w.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use tch::{Device, Kind};
use tunesmith_model::{Config, LoadOptions, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{
    AdamW, AdamWKnobs, Classify, Kto, LossKnobs, Objective, Preference, Reference, Reward,
    StepOutcome, TrainError, step,
};

const CONFIG: &str = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":31,"hidden_size":16,
    "intermediate_size":24,"num_hidden_layers":1,"num_attention_heads":2,"initializer_range":0.3}"#;

fn model(seed: u64, n_labels: usize) -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    let mut config = Config::from_dir(dir.path()).unwrap();
    if n_labels > 0 {
        let labels: Vec<String> = (0..n_labels).map(|i| format!("label {i}")).collect();
        config = config.into_classifier(&labels);
    }
    Transformer::fresh(config, seed, LoadOptions::trained(Kind::Float, Device::Cpu))
}

/// An answer of `ids` behind a prompt of two tokens.
fn answer(ids: &[u32], label: Option<f32>) -> Example {
    let trained = (0..ids.len()).map(|i| i >= 2).collect();
    Example { ids: ids.to_vec(), trained, label, ..Example::default() }
}

/// Three rows of each kind, as lists of the documents of a row.
fn pairs() -> [Vec<Example>; 3] {
    let pair = |chosen: &[u32], rejected: &[u32], margin| {
        vec![answer(chosen, margin), Example { tied: true, ..answer(rejected, None) }]
    };
    [
        pair(&[3, 1, 4, 1, 5], &[3, 1, 7], Some(0.5)),
        pair(&[9, 2, 6], &[9, 2, 8, 11, 12, 13], None),
        pair(&[5, 3, 5, 8], &[5, 3, 9], None),
    ]
}

fn answers() -> [Vec<Example>; 3] {
    [
        vec![answer(&[3, 1, 4, 1, 5], Some(1.0))],
        vec![answer(&[9, 2, 6], Some(0.0))],
        vec![answer(&[5, 3, 5, 8], Some(1.0))],
    ]
}

fn classes() -> [Vec<Example>; 3] {
    let text = |ids: &[u32], class| Example {
        trained: vec![false; ids.len()],
        ..answer(ids, Some(class))
    };
    [vec![text(&[3], 1.0)], vec![text(&[9, 2, 6], 0.0)], vec![text(&[5, 3, 5, 8], 2.0)]]
}

/// The rows that `weights` give a weight, each row of weight 1 as it is.
fn weigh(rows: &[Vec<Example>], weights: &[f32]) -> Vec<Example> {
    let weighed = |(row, &weight): (&Vec<Example>, &f32)| -> Vec<Example> {
        let mut row = row.clone();
        for example in row.iter_mut().filter(|_| weight != 1.0) {
            example.weight = Some(weight);
            example.weights = Some(vec![weight; example.len()]);
        }
        row
    };
    rows.iter().zip(weights).flat_map(weighed).collect()
}

fn outcome(
    model: &Transformer,
    objective: &dyn Objective,
    batches: &[&[Example]],
) -> Result<StepOutcome, TrainError> {
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let batches: Vec<Batch> = batches.iter().map(|examples| Batch::new(*examples)).collect();
    step(model, &mut optimizer, objective, &batches, 0.0, 0)
}

fn near(what: &str, a: f64, b: f64) {
    assert!((a - b).abs() <= 2e-6 * b.abs().max(1.0), "{what}: {a} and {b}");
}

fn same(what: &str, a: &StepOutcome, b: &StepOutcome) {
    near(&format!("{what}: loss"), a.loss, b.loss);
    near(&format!("{what}: grad_norm"), a.grad_norm, b.grad_norm);
    for ((name, a), (_, b)) in a.metrics.iter().zip(&b.metrics) {
        near(&format!("{what}: {name}"), *a, *b);
    }
    assert_eq!(a.metrics.len(), b.metrics.len(), "{what}");
}

/// An objective with its name, a model and rows for it; whether a row of weight 2 is as the row twice.
type Case = (&'static str, Box<dyn Objective>, Transformer, [Vec<Example>; 3], bool);

fn objectives() -> Vec<Case> {
    let knobs = LossKnobs { beta: 0.3, label_smoothing: 0.0, gamma: 0.0 };
    let reference = || Reference::Copy(Box::new(model(9, 0)));
    let preference = |losses: &[(&str, f64)], reference| {
        let losses: Vec<_> =
            losses.iter().map(|(name, weight)| ((*name).to_owned(), *weight)).collect();
        Box::new(Preference::new(&losses, knobs, reference).unwrap())
    };
    let kto = |kl| {
        let reference = reference();
        Box::new(Kto { beta: 0.3, desirable_weight: 1.0, undesirable_weight: 1.5, kl, reference })
    };
    let dpo = preference(&[("sigmoid", 1.0), ("sft", 0.5)], Some(reference()));
    let orpo = preference(&[("orpo", 1.0), ("sft_text", 1.0)], None);
    vec![
        ("dpo", dpo, model(5, 0), pairs(), true),
        ("orpo", orpo, model(5, 0), pairs(), true),
        ("reward", Box::new(Reward { center_coefficient: 0.05 }), model(5, 1), pairs(), true),
        ("classify", Box::new(Classify), model(5, 3), classes(), true),
        ("apo on single answers", kto(false), model(5, 0), answers(), true),
        // Its KL term pairs each prompt with the answer of the row before, which is another one then.
        ("kto", kto(true), model(5, 0), answers(), false),
    ]
}

#[test]
fn weight_2_is_the_row_twice_and_weight_0_is_no_row() {
    for (name, objective, model, rows, doubles) in objectives() {
        let [a, b, c] = rows;
        let go = |rows: &[Vec<Example>], weights: &[f32]| {
            outcome(&model, &*objective, &[&weigh(rows, weights)]).unwrap()
        };
        let without = go(&[a.clone(), b.clone()], &[1.0; 2]);
        same(name, &go(&[a.clone(), b.clone(), c.clone()], &[1.0, 1.0, 0.0]), &without);
        same(name, &go(&[c.clone(), a.clone(), b.clone()], &[0.0, 1.0, 1.0]), &without);
        let all = go(&[a.clone(), b.clone(), c.clone()], &[1.0; 3]);
        assert!((all.loss - without.loss).abs() > 1e-4, "{name}: the third row teaches nothing");
        same(name, &go(&[a.clone(), b.clone(), c.clone()], &[1.0; 3]), &all);
        if doubles {
            let twice = go(&[a.clone(), a.clone(), b.clone()], &[1.0; 3]);
            same(name, &go(&[a.clone(), b.clone(), c.clone()], &[2.0, 1.0, 0.0]), &twice);
            same(name, &go(&[a, b], &[1.0, 0.5]), &twice);
        }
    }
}

/// Σ w·loss / Σ w, whatever micro-batch a row stands in.
#[test]
fn a_loss_is_the_weighted_mean_of_its_rows() {
    for (name, objective, model, [a, b, _], doubles) in objectives() {
        if name == "dpo" || name == "orpo" || !doubles {
            continue; // of two means over different counts, or with a statistic of the whole step
        }
        let go = |rows: &[&[Example]]| outcome(&model, &*objective, rows).unwrap();
        let (of_a, of_b) = (go(&[&a]).loss, go(&[&b]).loss);
        let [a, b] = [(a, 0.25), (b, 1.75)].map(|(row, weight)| weigh(&[row], &[weight]));
        let together = go(&[&[&a[..], &b[..]].concat()]);
        near(name, together.loss, (0.25 * of_a + 1.75 * of_b) / 2.0);
        let apart = go(&[&a, &b]);
        near(name, apart.loss, together.loss);
        near(name, apart.grad_norm, together.grad_norm);
    }
    // DPO with the chosen answers' likelihood: pairs by Σ w, tokens by Σ w·tokens.
    let (_, objective, model, [a, b, _], _) = objectives().swap_remove(0);
    let nll = |outcome: &StepOutcome| {
        outcome.metrics.iter().find(|(name, _)| *name == "nll_loss").unwrap().1
    };
    let go = |rows: &[Example]| outcome(&model, &*objective, &[rows]).unwrap();
    let (of_a, of_b) = (go(&a), go(&b));
    let [pair_a, pair_b] = [&of_a, &of_b].map(|found| found.loss - 0.5 * nll(found));
    let found = go(&weigh(&[a, b], &[0.25, 1.75]));
    let n = [0.25 * 3.0, 1.75 * 1.0]; // answers of three tokens and of one
    let expected = (n[0] * nll(&of_a) + n[1] * nll(&of_b)) / (n[0] + n[1]);
    near("nll_loss", nll(&found), expected);
    near("dpo", found.loss, (0.25 * pair_a + 1.75 * pair_b) / 2.0 + 0.5 * expected);
}

#[test]
fn what_cannot_be_weighed_is_refused() {
    for (name, objective, model, rows, _) in objectives() {
        let error = outcome(&model, &*objective, &[&weigh(&rows, &[0.0; 3])]).unwrap_err();
        assert!(matches!(error, TrainError::NothingTrained { .. }), "{name}: {error}");
        if name == "classify" {
            continue; // no token is trained
        }
        let mut rows = weigh(&rows, &[1.0, 0.5, 1.0]);
        let last = rows.len() - 1;
        let n = rows[last].len();
        rows[last].weights = Some((0..n).map(|i| if i < 2 { 9.0 } else { 0.5 }).collect());
        rows.iter_mut().for_each(|example| example.row = 7);
        let error = outcome(&model, &*objective, &[&rows]).unwrap_err();
        assert!(matches!(error, TrainError::Weights { row: 7 }), "{name}: {error}");
        // What is read and not trained may say anything.
        rows[last].weights = Some((0..n).map(|i| if i < 2 { 9.0 } else { 1.0 }).collect());
        outcome(&model, &*objective, &[&rows]).unwrap();
    }
}
