//! An objective of several units: each term is divided by the step's count of its own, however the step is split.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{collections::BTreeMap, sync::atomic::AtomicBool};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, Pass, Transformer};
use tunesmith_tokens::{Batch, BatchSource, Cursor, Example, SourceError};
use tunesmith_train::{
    AdamW, AdamWKnobs, Objective, Reading, Sft, StepOutcome, Term, Terms, TrainError, Unit,
    evaluate, step,
};

static NEVER: AtomicBool = AtomicBool::new(false);

const CONFIG: &str = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":31,"hidden_size":16,
    "intermediate_size":24,"num_hidden_layers":1,"num_attention_heads":2,"initializer_range":0.3}"#;

/// Half the token loss, and twice the squared error of a score read off each labelled document's last token.
struct TokensAndScores;

impl Objective for TokensAndScores {
    fn units(&self) -> &[Unit] {
        &[Unit::Tokens, Unit::Docs]
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let Terms { mut terms, metrics, .. } = Sft.terms(reading)?;
        terms.iter_mut().for_each(|term| term.weight = 0.5);
        terms.push(Term { unit: Unit::Docs, weight: 2.0, sum: squared_errors(reading) });
        Ok(Terms { terms, metrics, ..Terms::default() })
    }
}

fn squared_errors(Reading { hidden, batch, .. }: &Reading<'_>) -> Tensor {
    let labelled = batch.doc_ranges().zip(&batch.docs);
    let (ends, labels): (Vec<i64>, Vec<f32>) =
        labelled.filter_map(|(range, doc)| Some((range.end as i64 - 1, doc.label?))).unzip();
    let scores =
        hidden.index_select(0, &Tensor::from_slice(&ends)).sum_dim_intlist(-1, false, Kind::Float);
    (scores - Tensor::from_slice(&labels)).square().sum(Kind::Float)
}

/// Documents of different length: one without a trained token, one without a label.
fn docs() -> Vec<(Example, Option<f32>)> {
    let doc = |ids: &[u32], trained: bool, label| {
        let trained = vec![trained; ids.len()];
        (Example { ids: ids.to_vec(), trained, ..Example::default() }, label)
    };
    vec![
        doc(&[3, 1, 4, 1, 5], true, None),
        doc(&[9, 2, 6], false, Some(1.5)),
        doc(&[5, 3, 5, 8], true, Some(-0.5)),
    ]
}

fn batches(size: usize) -> Vec<Batch> {
    let lay_out = |docs: &[(Example, Option<f32>)]| {
        let mut batch = Batch::new(docs.iter().map(|(example, _)| example));
        for (doc, (_, label)) in batch.docs.iter_mut().zip(docs) {
            doc.label = *label;
        }
        batch
    };
    docs().chunks(size).map(lay_out).collect()
}

fn model() -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    let options = LoadOptions::trained(Kind::Float, Device::Cpu);
    Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options)
}

/// A step from fresh weights: what it says, and the weights after it.
fn made(batches: &[Batch]) -> (StepOutcome, BTreeMap<String, Tensor>) {
    let model = model();
    // No momentum and a large ε: the update is the gradient, but for a factor.
    let knobs = AdamWKnobs {
        beta1: 0.0,
        beta2: 0.0,
        eps: 1e3,
        max_grad_norm: 0.0,
        ..AdamWKnobs::default()
    };
    let mut optimizer = AdamW::new(knobs, model.params());
    let outcome = step(&model, &mut optimizer, &TokensAndScores, batches, 1.0, 0).unwrap();
    assert_eq!(optimizer.n_steps(), 1);
    let weights = model.params().iter().map(|p| (p.name.clone(), p.tensor.copy())).collect();
    (outcome, weights)
}

/// The definition, written out: half the mean over trained tokens, and twice the mean over labelled documents.
fn loss_by_hand() -> f64 {
    let model = model();
    let batch = &batches(3)[0];
    tch::no_grad(|| {
        let mut pass = Pass::default();
        let reading = Reading::new(&model, batch, &mut pass).unwrap();
        let tokens = reading.token_scores().logprobs;
        assert_eq!(tokens.size(), [7]);
        -0.5 * tokens.sum(Kind::Double).double_value(&[]) / 7.0
            + 2.0 * squared_errors(&reading).double_value(&[]) / 2.0
    })
}

#[test]
fn each_term_is_divided_by_its_own_count_however_the_step_is_split() {
    let (whole, weights) = made(&batches(3));
    let expected = loss_by_hand();
    assert!((whole.loss / expected - 1.0).abs() < 1e-6, "{} against {expected}", whole.loss);
    for size in [1, 2] {
        let (split, weights_of_split) = made(&batches(size));
        assert!((split.loss / whole.loss - 1.0).abs() < 1e-6, "{size}: {split:?}");
        assert!((split.grad_norm / whole.grad_norm - 1.0).abs() < 1e-5, "{size}: {split:?}");
        assert_eq!(split.metrics, whole.metrics);
        for (name, weight) in &weights_of_split {
            let difference = (weight - &weights[name]).abs().max().double_value(&[]);
            assert!(difference < 1e-6, "{size}, {name}: {difference}");
        }
    }
}

struct Fixed(Vec<Batch>, usize);

impl BatchSource for Fixed {
    fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        self.1 += 1;
        Ok(self.0.get(self.1 - 1).cloned())
    }

    fn cursor(&self) -> Cursor {
        Cursor::default()
    }

    fn seek(&mut self, _: Cursor) -> Result<(), SourceError> {
        self.1 = 0;
        Ok(())
    }

    fn epoch(&self) -> f64 {
        0.0
    }
}

#[test]
fn evaluation_is_the_loss_of_one_step() {
    let (model, expected) = (model(), loss_by_hand());
    for size in [1, 2, 3] {
        let found = evaluate(&model, &mut Fixed(batches(size), 0), &TokensAndScores, &NEVER);
        let found = found.unwrap().unwrap();
        assert!((found.loss / expected - 1.0).abs() < 1e-6, "{size}: {found:?}");
    }
}

/// What has nothing to count is not read, and its objective not asked.
struct Unasked(Unit);

impl Objective for Unasked {
    fn units(&self) -> &[Unit] {
        std::slice::from_ref(&self.0)
    }

    fn terms(&self, _: &Reading<'_>) -> Result<Terms, TrainError> {
        unreachable!("nothing to count, nothing to ask")
    }
}

#[test]
fn a_step_that_counts_nothing_is_an_error_and_so_are_such_held_out_rows() {
    let (model, batches) = (model(), batches(3));
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let error = step(&model, &mut optimizer, &Unasked(Unit::Pairs), &batches, 1.0, 0).unwrap_err();
    assert!(matches!(error, TrainError::NothingTrained { step: 1, n_tokens: 12 }), "{error}");
    assert_eq!(optimizer.n_steps(), 0);
    let error =
        evaluate(&model, &mut Fixed(batches, 0), &Unasked(Unit::Pairs), &NEVER).unwrap_err();
    assert!(error.to_string().starts_with("held-out rows: none of their 12 tokens"), "{error}");
}

/// A loss that overflows: what a learning rate far too high leads to.
struct Overflowing;

impl Objective for Overflowing {
    fn units(&self) -> &[Unit] {
        &[Unit::Tokens]
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let Reading { model, batch, pass, hidden, .. } = reading;
        let hidden = hidden * f64::INFINITY;
        Sft.terms(&Reading { model, batch, pass, hidden, statistic: 0.0, known: None })
    }
}

#[test]
fn a_loss_that_is_not_finite_changes_no_weight_and_names_the_rows() {
    let model = model();
    let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    let before: Vec<Tensor> =
        model.params().iter().map(|param| param.tensor.detach().copy()).collect();
    let mut batches = batches(3);
    for (doc, row) in batches.iter_mut().flat_map(|batch| &mut batch.docs).zip([7, 11, 13]) {
        doc.row = row;
    }
    let error = step(&model, &mut optimizer, &Overflowing, &batches, 1.0, 0).unwrap_err();
    let TrainError::NonFinite { step, what, value, module, rows } = &error else {
        panic!("{error}")
    };
    assert_eq!((*step, *what, value.is_finite()), (1, "loss", false));
    assert_eq!(module, "the objective");
    assert_eq!(rows, &[7, 11, 13]);
    assert!(error.to_string().contains("7, 11, 13"), "{error}");
    for (param, before) in model.params().iter().zip(before) {
        assert_eq!(param.tensor, before, "{}", param.name);
    }
    assert_eq!(optimizer.n_steps(), 0);
}

#[test]
fn what_is_not_finite_is_traced_to_its_module_and_rows() {
    let row_of = |batches: &mut [Batch]| {
        let docs = batches.iter_mut().flat_map(|batch| &mut batch.docs);
        docs.zip([7, 11, 13]).for_each(|(doc, row)| doc.row = row);
    };
    let check = |spoil: &dyn Fn(&str, &Tensor), expected: &str, culprits: &[u64]| {
        let model = model();
        let mut batches = batches(3);
        row_of(&mut batches);
        tch::no_grad(|| model.params().iter().for_each(|p| spoil(&p.name, &p.tensor)));
        let mut optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        let error = step(&model, &mut optimizer, &Sft, &batches, 1.0, 0).unwrap_err();
        let TrainError::NonFinite { module, rows, .. } = &error else { panic!("{error}") };
        assert_eq!((module.as_str(), rows.as_slice()), (expected, culprits), "{error}");
    };
    let fill = |tensor: &Tensor, value: f64| _ = tensor.shallow_clone().fill_(value);
    // A weight that is spoilt is named itself.
    let name = "model.layers.0.mlp.up_proj.weight";
    check(
        &|at, tensor| {
            if at == name {
                fill(tensor, f64::NAN)
            }
        },
        name,
        &[7, 11, 13],
    );
    // Weights that are finite and too large: the block that overflows.
    let large = ["model.layers.0.mlp.up_proj.weight", "model.layers.0.mlp.down_proj.weight"];
    check(
        &|at, tensor| {
            if large.contains(&at) {
                fill(tensor, 1e37)
            }
        },
        "model.layers.0",
        &[7, 11, 13],
    );
}
