//! What the optimizer keeps is a choice: how far each choice goes from AdamW in fp32, what it weighs, and that it comes
//! back.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stdout, reason = "what was measured is shown with --nocapture")]

use std::path::Path;
use tch::{Device, Kind, Tensor};
use tunesmith_model::{Config, LoadOptions, Transformer};
use tunesmith_tokens::{Batch, Example};
use tunesmith_train::{
    AdamW, AdamWKnobs, Checkpoint, Disk, Keep, Master, MomentKind, RunState, Sft, Snapshot, step,
};

fn model(kind: Kind) -> Transformer {
    let dir = tempfile::tempdir().unwrap();
    let config = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":211,"hidden_size":64,
        "intermediate_size":96,"num_hidden_layers":3,"num_attention_heads":4,"num_key_value_heads":2,
        "rms_norm_eps":1e-5,"tie_word_embeddings":true,"initializer_range":0.1}"#;
    std::fs::write(dir.path().join("config.json"), config).unwrap();
    let config = Config::from_dir(dir.path()).unwrap();
    Transformer::fresh(config, 3, LoadOptions::trained(kind, Device::Cpu))
}

/// Rows of ids that are anything, and after each its half, which the model learns to say.
fn batch(step: u64) -> Batch {
    let draw = |i: u64| tunesmith_kernels::random::mix(step << 32 | i) as u32 % 100;
    let example = |row: u64| {
        let ids: Vec<u32> =
            (0..30).flat_map(|i| [draw(row * 100 + i), 100 + draw(row * 100 + i) / 2]).collect();
        Example { trained: (0..60).map(|i| i % 2 == 1).collect(), ids, ..Example::default() }
    };
    Batch::new(&(0..4).map(example).collect::<Vec<_>>())
}

struct At {
    model: Transformer,
    optimizer: AdamW,
}

impl At {
    fn start((kind, master, moments): Choice) -> Self {
        let model = model(kind);
        let knobs = AdamWKnobs { master, moments, ..AdamWKnobs::default() };
        let optimizer = AdamW::new(knobs, model.params()).seeded(5);
        Self { model, optimizer }
    }

    fn steps(&mut self, steps: std::ops::Range<u64>) -> Vec<f64> {
        let mut made = |i: u64| {
            step(&self.model, &mut self.optimizer, &Sft, &[batch(i)], 1e-3, 0).unwrap().loss
        };
        steps.map(&mut made).collect()
    }

    fn tensors(&self) -> Vec<(String, Tensor)> {
        let weights = self.model.params().iter().map(|p| (p.name.clone(), p.tensor.copy()));
        weights.chain(self.optimizer.state()).collect()
    }

    fn save(&self, root: &Path) {
        let state = RunState { step: self.optimizer.n_steps(), ..RunState::default() };
        let snapshot = Snapshot::take(&state, &self.model, &self.optimizer);
        snapshot.commit(&Disk::default(), root, &Keep { last: 2, every: 0, best: None }).unwrap();
    }
}

type Choice = (Kind, Master, MomentKind);

const EXACT: Choice = (Kind::Float, Master::Fp32, MomentKind::Fp32);
const LEAST: Choice = (Kind::BFloat16, Master::None, MomentKind::Bits8);
/// Every choice with what it weighs per weight: its own bytes, those of moments and of a master.
const CHOICES: [(Choice, f64); 6] = [
    (EXACT, 12.0),
    ((Kind::Float, Master::None, MomentKind::Bits8), 6.03),
    ((Kind::BFloat16, Master::Fp32, MomentKind::Fp32), 14.0),
    ((Kind::BFloat16, Master::None, MomentKind::Fp32), 10.0),
    ((Kind::BFloat16, Master::Fp32, MomentKind::Bits8), 8.03),
    (LEAST, 4.03),
];

/// The mean loss of the last 20 of 200 steps is that of fp32 within 3 %, whatever is kept.
#[test]
fn two_hundred_steps_end_where_those_of_fp32_do() {
    let end = |losses: &[f64]| losses[180..].iter().sum::<f64>() / 20.0;
    let exact = At::start(EXACT).steps(0..200);
    let expected = end(&exact);
    println!("fp32: {:.4} → {expected:.4}", exact[0]);
    assert!(expected < 0.5 * exact[0], "it learns: {} → {expected}", exact[0]);
    for (choice, _) in &CHOICES[1..] {
        let found = end(&At::start(*choice).steps(0..200));
        println!("{choice:?}: {found:.4}, {:+.2} %", 100.0 * (found / expected - 1.0));
        assert!((found / expected - 1.0).abs() < 0.03, "{choice:?}: {found}, fp32 {expected}");
    }
}

/// Nothing else is kept than the choice says; in particular no fp32 copy of weights that are to do without.
#[test]
fn each_choice_weighs_what_it_says() {
    for (choice, expected) in CHOICES {
        let at = At::start(choice);
        let large = |name: &str| {
            let param = at.model.params().iter().find(|p| name.ends_with(&p.name)).unwrap();
            param.tensor.numel() >= 4096
        };
        let bytes = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as f64;
        let of = at.tensors().into_iter().filter(|(name, _)| large(name));
        let total: f64 = of.map(|(_, tensor)| bytes(&tensor)).sum();
        let weights = at.model.params().iter().filter(|p| large(&p.name));
        let n: usize = weights.map(|p| p.tensor.numel()).sum();
        let found = total / n as f64;
        println!("{choice:?}: {found:.3} bytes per weight");
        assert!((found - expected).abs() < 0.01, "{choice:?}: {found}, expected {expected}");
        let small = at.optimizer.state().into_iter().filter(|(name, _)| !large(name));
        assert!(small.into_iter().all(|(_, t)| t.kind() == Kind::Float), "norms stay in fp32");
    }
}

#[test]
fn every_choice_comes_back_bit_by_bit() {
    for (choice, _) in CHOICES {
        let dir = tempfile::tempdir().unwrap();
        let mut whole = At::start(choice);
        whole.steps(0..3);
        whole.save(dir.path());
        let mut back = At::start(choice);
        let checkpoint = Checkpoint::newest(&Disk::default(), dir.path()).unwrap().unwrap();
        checkpoint.restore(&back.model, &mut back.optimizer).unwrap();
        assert_eq!(whole.steps(3..6), back.steps(3..6), "{choice:?}");
        for ((name, a), (_, b)) in whole.tensors().iter().zip(back.tensors()) {
            assert!(a.kind() == b.kind() && *a == b, "{choice:?}: {name}");
        }
    }
}

#[test]
fn another_choice_is_refused() {
    for (saved, asked, said) in [
        (
            EXACT,
            (Kind::Float, Master::Fp32, MomentKind::Bits8),
            "expected Uint8 [211, 64], found Float",
        ),
        (
            LEAST,
            (Kind::BFloat16, Master::None, MomentKind::Fp32),
            "expected Float [211, 64], found Uint8",
        ),
        (
            LEAST,
            (Kind::BFloat16, Master::Fp32, MomentKind::Bits8),
            "expected Float [211, 64], found none",
        ),
        ((Kind::BFloat16, Master::Fp32, MomentKind::Bits8), LEAST, "expected no such tensor"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut at = At::start(saved);
        at.steps(0..1);
        at.save(dir.path());
        let mut other = At::start(asked);
        let before = other.optimizer.state().iter().map(|(_, t)| t.copy()).collect::<Vec<_>>();
        let checkpoint = Checkpoint::newest(&Disk::default(), dir.path()).unwrap().unwrap();
        let error = checkpoint.restore(&other.model, &mut other.optimizer).unwrap_err().to_string();
        assert!(error.contains(said) && error.contains("optimizer.moments"), "{error}");
        let after = other.optimizer.state();
        assert!(before.iter().zip(&after).all(|(a, (_, b))| a == b), "nothing is half restored");
    }
}

/// The seed names the random bits: the same run again is the same, another seed is another.
#[test]
fn rounding_by_chance_is_named_by_the_seed() {
    let run = |seed: u64| {
        let At { model, optimizer } = At::start(LEAST);
        let mut at = At { model, optimizer: optimizer.seeded(seed) };
        at.steps(0..3);
        at.tensors()
    };
    let same =
        |a: &[(String, Tensor)], b: &[(String, Tensor)]| a.iter().zip(b).all(|(a, b)| a.1 == b.1);
    let first = run(1);
    assert!(same(&first, &run(1)));
    assert!(!same(&first, &run(2)));
}
