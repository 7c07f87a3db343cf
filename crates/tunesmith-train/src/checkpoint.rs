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
#[serde(default)] // what a later version adds is not in the checkpoints of before
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
        commit::sweep(root)?; // what a broken-off save left may be the space that is missing
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
    /// One that is damaged (a file missing, or of another size or hash) is set aside as `corrupt-…`, with a warning, and
    /// the next older is tried.
    ///
    /// # Errors
    /// Checkpoints exist but none is good: a run never starts again at step 0 in silence. A whole one that cannot be
    /// used, because it has another format or cannot be read now: it stays where it is.
    pub fn newest(root: &Path) -> Result<Option<Self>, TrainError> {
        for dir in commit::committed(root)?.into_iter().rev() {
            let damage = match Manifest::read(&dir).and_then(|manifest| manifest.verify(&dir)) {
                Ok(()) => return Self::read(dir).map(Some),
                Err(error @ TrainError::BadCheckpoint { .. }) => error,
                Err(TrainError::Io { path, source }) if source.kind() == ErrorKind::NotFound => {
                    TrainError::Io { path, source }
                }
                Err(error) => return Err(error),
            };
            let aside = commit::set_aside(&dir)?;
            tracing::warn!("{damage}; set aside as {}, trying the one before", aside.display());
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

    /// What a verified checkpoint says.
    fn read(dir: PathBuf) -> Result<Self, TrainError> {
        let path = dir.join("state.json");
        let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let bad = |e: serde_json::Error| TrainError::BadCheckpoint { path, reason: e.to_string() };
        Ok(Self { state: serde_json::from_str(&text).map_err(bad)?, dir })
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A checkpoint without tensors worth the name.
    fn write(root: &Path, step: u64, state: &str) -> PathBuf {
        let dir = root.join(dir_name(step));
        commit_dir(&dir, 0, |dir| {
            let files = [("model.safetensors", "m"), ("optimizer.safetensors", "o")];
            for (name, text) in files.into_iter().chain([("state.json", state)]) {
                std::fs::write(dir.join(name), text).map_err(TrainError::io(dir))?;
            }
            Manifest::of(dir)?.write(dir)
        })
        .unwrap();
        dir
    }

    fn edit(dir: &Path, from: &str, to: &str) {
        let path = dir.join("MANIFEST.json");
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.contains(from), "{text}");
        std::fs::write(path, text.replace(from, to)).unwrap();
    }

    #[test]
    fn a_damaged_one_is_set_aside_and_the_one_before_is_read() {
        let damages: [fn(&Path); 5] = [
            |dir| std::fs::remove_file(dir.join("MANIFEST.json")).unwrap(),
            |dir| std::fs::write(dir.join("MANIFEST.json"), [0xff, 0xfe]).unwrap(),
            |dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(),
            |dir| std::fs::write(dir.join("model.safetensors"), "n").unwrap(),
            |dir| edit(dir, "optimizer.safetensors", "optimiser.safetensors"),
        ];
        for damage in damages {
            let root = tempfile::tempdir().unwrap();
            // A state of before some of its fields were there.
            write(root.path(), 1, r#"{"step": 1}"#);
            damage(&write(root.path(), 2, r#"{"step": 2}"#));
            let newest = Checkpoint::newest(root.path()).unwrap().unwrap();
            assert_eq!(newest.state, RunState { step: 1, ..RunState::default() });
            assert!(root.path().join("corrupt-step-000000002").exists());
        }
    }

    #[test]
    fn a_whole_one_that_cannot_be_used_stays_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 1, r#"{"step": 1}"#);
        let other = write(root.path(), 2, r#"{"step": 2}"#);
        edit(&other, "\"format\": 1", "\"format\": 7");
        let error = Checkpoint::newest(root.path()).unwrap_err();
        assert!(matches!(error, TrainError::OtherFormat { found: 7, reads: 1, .. }), "{error}");
        edit(&other, "\"files\"", "\"parts\""); // a later format may look quite different
        assert!(matches!(Checkpoint::newest(root.path()), Err(TrainError::OtherFormat { .. })));
        let odd = write(root.path(), 3, r#"{"step": "three"}"#);
        let error = Checkpoint::newest(root.path()).unwrap_err();
        assert!(matches!(error, TrainError::BadCheckpoint { .. }), "{error}");
        assert!(odd.exists() && other.exists());
    }
}
