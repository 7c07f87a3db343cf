//! Checkpoints: everything that continues a run exactly where it stood.
//!
//! ```text
//! checkpoints/step-000000500/
//!   model.safetensors       weights in the model's dtype
//!   optimizer.safetensors   moments, and fp32 masters where the model is not fp32
//!   state.json              step, cursor, counters, and what the caller adds
//!   MANIFEST.json           size and BLAKE3 of each file above; written last
//! ```
//!
//! No random state is stored: every random choice is a pure function of (seed, purpose, step, sample).

mod commit;
mod manifest;

pub use commit::{commit_dir, free_bytes, is_writable};

use crate::{AdamW, TrainError};
use manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};
use tunesmith_model::{TensorFile, Transformer, write_tensors};
use tunesmith_tokens::Cursor;

/// Where a run stands, but for its tensors.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct RunState {
    /// Optimizer steps made.
    pub step: u64,
    /// Tokens read by the model, all epochs.
    pub num_tokens: u64,
    /// Where the data goes on.
    pub cursor: Cursor,
    /// What the caller wants back: the ledger, fingerprints.
    pub extra: serde_json::Value,
}

/// A checkpoint whose every byte has been verified.
#[derive(Debug)]
pub struct Checkpoint {
    dir: PathBuf,
    /// What `state.json` says.
    pub state: RunState,
}

impl Checkpoint {
    /// Commits a checkpoint under `root` (the run's `checkpoints` folder) and prunes all but the newest `keep`.
    ///
    /// # Errors
    /// What the operating system says; too little free space, before anything is written. Whatever fails, the
    /// checkpoints that were there stay untouched.
    pub fn save(
        root: &Path,
        keep: usize,
        state: &RunState,
        model: &Transformer,
        optimizer: &AdamW,
    ) -> Result<PathBuf, TrainError> {
        let weights: usize = model
            .params()
            .iter()
            .map(|p| p.tensor.numel() * p.tensor.kind().elt_size_in_bytes())
            .sum();
        let needed = weights as u64 + optimizer.n_bytes() + (1 << 20);
        let target = root.join(dir_name(state.step));
        commit_dir(&target, needed, |dir| {
            let tensors = model.params().iter().map(|p| (p.name.clone(), &p.tensor));
            write_tensors(&dir.join("model.safetensors"), tensors)?;
            optimizer.save(&dir.join("optimizer.safetensors"))?;
            let path = dir.join("state.json");
            std::fs::write(&path, manifest::to_json(state, &path)?)
                .map_err(TrainError::io(path))?;
            Manifest::of(dir)?.write(dir)
        })?;
        commit::prune(root, keep.max(2))?;
        Ok(target)
    }

    /// The newest checkpoint under `root` that is whole, `None` where there is none at all.
    ///
    /// A damaged one is set aside as `corrupt-…`, with a warning, and the next older is tried.
    ///
    /// # Errors
    /// Checkpoints exist but none is good: a run never starts again at step 0 in silence.
    pub fn newest(root: &Path) -> Result<Option<Self>, TrainError> {
        let candidates = commit::committed(root)?;
        for dir in candidates.into_iter().rev() {
            match Self::open(&dir) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                // A disk that cannot be read now says nothing of what is on it.
                Err(TrainError::Io { path, source }) if source.kind() != ErrorKind::NotFound => {
                    return Err(TrainError::Io { path, source });
                }
                Err(error) => {
                    let aside = commit::set_aside(&dir)?;
                    tracing::warn!(
                        "{error}; set aside as {}, trying the one before",
                        aside.display()
                    );
                }
            }
        }
        let n_aside = commit::n_aside(root)?;
        if n_aside == 0 {
            return Ok(None);
        }
        let reason = format!(
            "expected a whole checkpoint, found {n_aside} damaged ones\n\
             help: they are kept as corrupt-*; start a new run with another `--out`"
        );
        Err(TrainError::BadCheckpoint { path: root.into(), reason })
    }

    fn open(dir: &Path) -> Result<Self, TrainError> {
        Manifest::read(dir)?.verify(dir)?;
        let path = dir.join("state.json");
        let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let bad = |e: serde_json::Error| TrainError::BadCheckpoint { path, reason: e.to_string() };
        Ok(Self { dir: dir.into(), state: serde_json::from_str(&text).map_err(bad)? })
    }

    /// Puts weights and optimizer state back.
    ///
    /// # Errors
    /// Tensors of another model.
    pub fn restore(&self, model: &Transformer, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let path = self.dir.join("model.safetensors");
        let file = TensorFile::open(&path)?;
        for param in model.params() {
            let (found, expected) = (file.shape(&param.name), param.tensor.size());
            if found.as_ref() != Some(&expected) {
                let reason =
                    format!("{}: expected shape {expected:?}, found {found:?}", param.name);
                return Err(TrainError::BadCheckpoint { path, reason });
            }
            let stored = file.tensor(&param.name)?;
            tch::no_grad(|| param.tensor.shallow_clone().copy_(&stored));
        }
        optimizer.load(&self.dir.join("optimizer.safetensors"), self.state.step)
    }

    /// Where it lies.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

fn dir_name(step: u64) -> String {
    format!("step-{step:09}")
}
