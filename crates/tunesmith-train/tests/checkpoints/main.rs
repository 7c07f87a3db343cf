//! Checkpoints under every fault of the disk: operations that fail, power cuts, bits that flip.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod damage;
mod faults;
mod power;

use std::{fs, path::Path};
use tch::{Device, Kind};
use tempfile::TempDir;
use tunesmith_model::{Config, LoadOptions, Transformer};
use tunesmith_tokens::{Batch, Cursor, Example};
use tunesmith_train::*;

const CONFIG: &str = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":31,"hidden_size":8,
    "intermediate_size":8,"num_hidden_layers":1,"num_attention_heads":2,"initializer_range":0.3}"#;

/// A folder in memory where there is one: these tests wait for the disk thousands of times.
fn folder() -> TempDir {
    match Path::new("/dev/shm") {
        memory if is_writable(memory) => tempfile::tempdir_in(memory).unwrap(),
        _ => tempfile::tempdir().unwrap(),
    }
}

/// A run at one step: what is saved, and what must come back.
struct At {
    model: Transformer,
    optimizer: AdamW,
    state: RunState,
}

impl At {
    fn start() -> Self {
        let dir = folder();
        fs::write(dir.path().join("config.json"), CONFIG).unwrap();
        let options = LoadOptions::trained(Kind::Float, Device::Cpu);
        let model = Transformer::fresh(Config::from_dir(dir.path()).unwrap(), 7, options);
        let optimizer = AdamW::new(AdamWKnobs::default(), model.params());
        Self { model, optimizer, state: RunState::default() }
    }

    fn after(n_steps: u64) -> Self {
        let mut at = Self::start();
        let example =
            Example { ids: (1..30).collect(), trained: vec![true; 29], ..Example::default() };
        let batch = Batch::new([&example]);
        for _ in 0..n_steps {
            step(&at.model, &mut at.optimizer, &Sft, std::slice::from_ref(&batch), 1e-2, 0)
                .unwrap();
        }
        let cursor = Cursor { epoch: 1, window: 2, pack: n_steps };
        at.state =
            RunState { step: n_steps, num_tokens: 29 * n_steps, cursor, ..RunState::default() };
        at
    }

    fn snapshot(&self) -> Snapshot {
        Snapshot::take(&self.state, &self.model, &self.optimizer)
    }

    /// Everything that a checkpoint brings back, bit by bit.
    fn bits(&self) -> Vec<(String, Vec<u32>)> {
        let weights =
            self.model.params().iter().map(|p| (p.name.clone(), p.tensor.shallow_clone()));
        let bits = |tensor: tch::Tensor| {
            let values = Vec::<f32>::try_from(tensor.detach().flatten(0, -1)).unwrap();
            values.into_iter().map(f32::to_bits).collect()
        };
        weights.chain(self.optimizer.state()).map(|(name, tensor)| (name, bits(tensor))).collect()
    }
}

/// The runs after one, two and three steps.
fn three() -> [At; 3] {
    [At::after(1), At::after(2), At::after(3)]
}

const KEEP: Keep = Keep { last: 2, every: 0, best: None };

/// The newest checkpoint loads, and is bit for bit the run at its step, which is returned. `runs[i]` is at step i + 1.
fn loads(root: &Path, runs: &[At]) -> u64 {
    let checkpoint = Checkpoint::newest(&Disk::default(), root).unwrap().expect("a checkpoint");
    let mut back = At::start();
    checkpoint.restore(&back.model, &mut back.optimizer).unwrap();
    let expected = &runs[checkpoint.state.step as usize - 1];
    assert_eq!(checkpoint.state, expected.state);
    assert!(back.bits() == expected.bits(), "step {}: other bits", checkpoint.state.step);
    assert_eq!(back.optimizer.n_steps(), expected.optimizer.n_steps());
    checkpoint.state.step
}

/// Names in a folder, sorted.
fn names(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.collect();
    names.sort();
    names
}

/// A copy of a folder with everything below it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() { copy(&from, &to) } else { _ = fs::copy(from, to).unwrap() }
    }
}
