//! Steps that fail: what they leave, and what they do not.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::{path::PathBuf, sync::atomic::AtomicBool};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, Transformer};
use tunesmith_tokens::{Batch, BatchSource, Cursor, Example, SourceError};
use tunesmith_train::*;

const CONFIG: &str = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":31,"hidden_size":16,
    "intermediate_size":24,"num_hidden_layers":1,"num_attention_heads":2,"initializer_range":0.3}"#;

fn start() -> (Transformer, AdamW) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("config.json"), CONFIG).unwrap();
    let options = LoadOptions::trained(Kind::Float, Device::Cpu);
    let model = Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options);
    let optimizer = AdamW::new(AdamWKnobs::default(), model.params());
    (model, optimizer)
}

/// Weights and optimizer state, bit by bit.
fn bits(model: &Transformer, optimizer: &AdamW) -> Vec<Vec<u32>> {
    let weights = model.params().iter().map(|param| param.tensor.shallow_clone());
    let all = weights.chain(optimizer.state().into_iter().map(|(_, tensor)| tensor));
    let bits = |tensor: Tensor| {
        let values = Vec::<f32>::try_from(tensor.detach().flatten(0, -1)).unwrap();
        values.into_iter().map(f32::to_bits).collect()
    };
    all.map(bits).collect()
}

fn batch(row: u64) -> Batch {
    let ids = (0..9).map(|i| (3 + 7 * i + 5 * row as u32) % 31).collect();
    Batch::new([&Example { ids, trained: vec![true; 9], row, ..Example::default() }])
}

/// Rows 0, 1, 2 and so on, one to a batch.
struct Rows(u64);

impl BatchSource for Rows {
    fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        self.0 += 1;
        Ok(Some(batch(self.0 - 1)))
    }

    fn cursor(&self) -> Cursor {
        Cursor { pack: self.0, ..Cursor::default() }
    }

    fn seek(&mut self, cursor: Cursor) -> Result<(), SourceError> {
        self.0 = cursor.pack;
        Ok(())
    }

    fn epoch(&self) -> f64 {
        0.0
    }
}

/// Supervised fine-tuning, but for one row.
struct Spoilt {
    row: u64,
    by: Spoil,
}

enum Spoil {
    /// Its loss is no number.
    Nan,
    /// It is refused.
    Error,
}

impl Objective for Spoilt {
    fn units(&self) -> &[Unit] {
        &[Unit::Tokens]
    }

    fn terms(&self, reading: &Reading<'_>) -> Result<Terms, TrainError> {
        let mut terms = Sft.terms(reading)?;
        match self.by {
            _ if reading.batch.docs[0].row != self.row => {}
            Spoil::Nan => terms.terms[0].sum = &terms.terms[0].sum * f64::NAN,
            Spoil::Error => {
                let (row, reason) = (self.row, "made up".to_owned());
                return Err(TrainError::BadPair { row, reason });
            }
        }
        Ok(terms)
    }
}

#[test]
fn a_step_that_is_no_number_ends_the_run_and_leaves_the_state_before_it() {
    let root = tempfile::tempdir().unwrap();
    let never = AtomicBool::new(false);
    let knobs =
        TrainKnobs { max_steps: 9, accumulate: 2, save_every: 100, ..TrainKnobs::default() };
    let schedule = Schedule::default();
    // Rows 0 to 3 are steps 1 and 2; row 5 is in the second micro-batch of step 3.
    let objective = Spoilt { row: 5, by: Spoil::Nan };
    let (model, mut optimizer) = start();
    let mut broken: Vec<(String, Vec<u64>, Option<PathBuf>)> = Vec::new();
    let mut source = Rows(0);
    let run = Run {
        model: &model,
        source: &mut source,
        held_out: None,
        objective: &objective,
        optimizer: &mut optimizer,
        schedule: &schedule,
        knobs: &knobs,
        checkpoints: Some(root.path()),
        state: RunState::default(),
        seed: 0,
        stop: &never,
    };
    let error = train(run, &mut |event| {
        if let Event::Broken { error, batches, checkpoint } = event {
            let rows = batches.iter().flat_map(|batch| &batch.docs).map(|doc| doc.row).collect();
            broken.push((error.to_string(), rows, checkpoint.map(PathBuf::from)));
        }
        Ok(())
    })
    .unwrap_err();
    let TrainError::NonFinite { step: 3, what: "loss", .. } = &error else { panic!("{error}") };
    let place = Checkpoint::place(root.path(), 2);
    assert_eq!(broken, [(error.to_string(), vec![4, 5], Some(place))]);

    let saved = Checkpoint::newest(&Disk::default(), root.path()).unwrap().unwrap();
    assert_eq!((saved.state.step, saved.state.cursor.pack), (2, 4));
    let (back, mut its_optimizer) = start();
    saved.restore(&back, &mut its_optimizer).unwrap();
    let (expected, mut stepped) = start();
    for step in 0..2 {
        let rate = schedule.at_step(step, knobs.max_steps);
        let batches = [batch(2 * step), batch(2 * step + 1)];
        tunesmith_train::step(&expected, &mut stepped, &Sft, &batches, rate, 0).unwrap();
    }
    assert!(bits(&back, &its_optimizer) == bits(&expected, &stepped), "another state");
}

#[test]
fn a_failed_step_leaves_no_gradient_behind() {
    let good = [batch(0), batch(1)];
    let (expected, mut optimizer) = start();
    step(&expected, &mut optimizer, &Sft, &good, 1e-2, 0).unwrap();
    let expected = bits(&expected, &optimizer);
    for by in [Spoil::Error, Spoil::Nan] {
        let (model, mut optimizer) = start();
        // The first micro-batch has left its part when the second fails.
        let objective = Spoilt { row: 3, by };
        step(&model, &mut optimizer, &objective, &[batch(2), batch(3)], 1e-2, 0).unwrap_err();
        step(&model, &mut optimizer, &Sft, &good, 1e-2, 0).unwrap();
        assert!(bits(&model, &optimizer) == expected, "the failed step shows in the next");
    }
}

#[test]
fn weights_are_refused_by_an_objective_that_does_not_know_them() {
    let (model, mut optimizer) = start();
    let objective = Spoilt { row: u64::MAX, by: Spoil::Nan };
    let mut weighted = batch(7);
    let mut go = |weights: Vec<f32>, objective: &dyn Objective| {
        weighted.weights = Some(weights);
        step(&model, &mut optimizer, objective, std::slice::from_ref(&weighted), 1e-2, 0)
    };
    go(vec![1.0; 9], &objective).unwrap(); // says nothing
    let mut weights = vec![1.0; 9];
    weights[4] = 0.5;
    let error = go(weights.clone(), &objective).unwrap_err();
    assert!(matches!(error, TrainError::Weights { row: 7 }), "{error}");
    go(weights, &Sft).unwrap();
}
