//! Checkpoints: everything that continues a run exactly where it stood.
//!
//! ```text
//! checkpoints/step-000000500/
//!   model.safetensors       trained weights in the model's dtype
//!   optimizer.safetensors   moments, and fp32 masters where the model is not fp32
//!   state.json              step, cursor, counters, and what the caller adds
//!   MANIFEST.json           size and BLAKE3 of each file above; written last
//! ```
//!
//! No random state is stored: every random choice is a pure function of (seed, purpose, step, sample).

mod commit;
mod disk;
mod keep;
mod manifest;
mod saver;
mod snapshot;

pub use commit::{check_space, commit_dir, free_bytes, is_writable};
pub use disk::{Disk, Op, Verdict};
pub use keep::Keep;
pub(crate) use saver::Saver;
pub use snapshot::Snapshot;

use crate::{AdamW, TrainError, spike::Recent};
use manifest::Manifest;
use serde::{Deserialize, Serialize};
use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};
use tunesmith_model::{TensorFile, Transformer};
use tunesmith_tokens::Cursor;

/// Where a run stands, but for its tensors. A checkpoint lies between two optimizer steps, so that there is no position
/// within the micro-batches of one: those of a step that was broken off are read again.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)] // what a later version adds is not in the checkpoints of before
pub struct RunState {
    /// Optimizer steps made.
    pub step: u64,
    /// Tokens read by the model, all epochs; a prompt that answers share counts once.
    pub num_tokens: u64,
    /// Where the data goes on.
    pub cursor: Cursor,
    /// The last step after which the held-out rows were evaluated.
    pub evaluated: u64,
    /// The best evaluation so far.
    pub best: Option<Best>,
    /// Evaluations since.
    pub stale: u64,
    /// Steps whose update was left out because they spiked.
    pub skipped: u64,
    /// How often the run went back to a checkpoint because of a spike.
    pub roll_backs: u64,
    /// What the last steps were like; empty where spikes are ignored.
    pub recent: Recent,
    /// What the caller wants back: the ledger, fingerprints.
    pub extra: serde_json::Value,
}

/// An evaluation that was better than all before it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// After this step.
    pub step: u64,
    /// The loss on the held-out rows.
    pub loss: f64,
}

/// A checkpoint whose every byte has been verified.
pub struct Checkpoint {
    disk: Disk,
    dir: PathBuf,
    /// What `state.json` says.
    pub state: RunState,
}

impl Checkpoint {
    /// The newest checkpoint under `root` that is whole, `None` where there is none at all.
    ///
    /// One that is damaged (a file missing, or of another size or hash) is set aside as `corrupt-…`, with a warning, and
    /// the next older is tried.
    ///
    /// # Errors
    /// Checkpoints exist but none is good: a run never starts again at step 0 in silence. A whole one that cannot be
    /// used, because it has another format or cannot be read now: it stays where it is.
    pub fn newest(disk: &Disk, root: &Path) -> Result<Option<Self>, TrainError> {
        for (step, dir) in commit::committed(disk, root)?.into_iter().rev() {
            let damage = match Self::open(disk, step, &dir) {
                Ok(checkpoint) => return Ok(Some(checkpoint)),
                Err(error @ TrainError::BadCheckpoint { .. }) => error,
                Err(TrainError::Io { path, source }) if source.kind() == ErrorKind::NotFound => {
                    TrainError::Io { path, source }
                }
                Err(error) => return Err(error),
            };
            let aside = commit::set_aside(disk, &dir, "corrupt")?;
            tracing::warn!("{damage}; set aside as {}, trying the one before", aside.display());
        }
        let n_corrupt = commit::n_corrupt(disk, root)?;
        if n_corrupt == 0 {
            return Ok(None);
        }
        let reason = format!(
            "expected a whole checkpoint, found {n_corrupt} damaged ones\n\
             help: they are kept as corrupt-*; start a new run with another `--out`"
        );
        Err(TrainError::BadCheckpoint { path: root.into(), reason })
    }

    /// The checkpoint of one step.
    ///
    /// # Errors
    /// There is none, or it is damaged: it stays where it is, and no other is taken for it.
    pub fn at(disk: &Disk, root: &Path, step: u64) -> Result<Self, TrainError> {
        let committed = commit::committed(disk, root)?;
        if let Some((_, dir)) = committed.iter().find(|(found, _)| *found == step) {
            return Self::open(disk, step, dir);
        }
        let steps: Vec<String> = committed.iter().map(|(s, _)| format!("step-{s}")).collect();
        let found = if steps.is_empty() { "none".into() } else { steps.join(", ") };
        Err(TrainError::NoCheckpoint { root: root.into(), step, found })
    }

    /// Sets aside what was saved after this checkpoint, as `later-…`: a run that goes on from here writes its own, and
    /// removes these as soon as it has come as far ([`Keep::tidy`]).
    ///
    /// # Errors
    /// What the operating system says.
    pub fn leave_later_ones(&self) -> Result<Vec<PathBuf>, TrainError> {
        let Some(root) = self.dir.parent() else { return Ok(Vec::new()) };
        let later = commit::committed(&self.disk, root)?.into_iter();
        let later = later.filter(|(step, _)| *step > self.state.step);
        later.map(|(_, dir)| commit::set_aside(&self.disk, &dir, "later")).collect()
    }

    /// Reads and verifies the whole of `dir`.
    fn open(disk: &Disk, step: u64, dir: &Path) -> Result<Self, TrainError> {
        let manifest = Manifest::read(disk, dir)?;
        manifest.verify(disk, dir)?;
        let path = dir.join("state.json");
        let bad = |reason: String| TrainError::BadCheckpoint { path: path.clone(), reason };
        let bytes = disk.read(&path)?;
        let mut state: RunState = serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        if manifest.is_first_format() {
            state.evaluated = step; // which it did not say: an evaluation always came before the save
        }
        if state.step != step {
            return Err(bad(format!(
                "expected step {step}, as its folder says, found {}",
                state.step
            )));
        }
        Ok(Self { disk: disk.clone(), dir: dir.to_owned(), state })
    }

    /// Puts weights and optimizer state back.
    ///
    /// # Errors
    /// Tensors of another model.
    pub fn restore(&self, model: &Transformer, optimizer: &mut AdamW) -> Result<(), TrainError> {
        let [weights, moments, _] = manifest::FILES.map(|name| self.dir.join(name));
        let file = self.tensors(&weights)?;
        let _no_grad = tch::no_grad_guard();
        for param in model.params().iter().filter(|param| param.trainable()) {
            let (found, expected) = (file.shape(&param.name), param.tensor.size());
            if found.as_ref() != Some(&expected) {
                let reason =
                    format!("{}: expected shape {expected:?}, found {found:?}", param.name);
                return Err(TrainError::BadCheckpoint { path: weights, reason });
            }
            param.tensor.shallow_clone().copy_(&file.tensor(&param.name)?);
        }
        let n_steps = self.state.step - self.state.skipped;
        optimizer.restore(&self.tensors(&moments)?, &moments, n_steps)
    }

    fn tensors(&self, path: &Path) -> Result<TensorFile, TrainError> {
        self.disk.open(path)?; // the map below is not watched
        Ok(TensorFile::open(path)?)
    }

    /// Where the checkpoint of a step lies, once it is there.
    pub fn place(root: &Path, step: u64) -> PathBuf {
        root.join(dir_name(step))
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
    use std::io::Write;

    /// A checkpoint without tensors worth the name.
    fn write(root: &Path, step: u64, state: &str) -> PathBuf {
        let (dir, disk) = (root.join(dir_name(step)), Disk::default());
        commit::commit(&disk, &dir, 0, |dir| {
            let mut manifest = Manifest::new();
            for (name, text) in manifest::FILES.into_iter().zip(["m", "o", state]) {
                let write = |file: &mut dyn Write| {
                    file.write_all(text.as_bytes()).map_err(TrainError::io(dir))
                };
                manifest.add(&disk, dir, name, 0, write)?;
            }
            manifest.write(&disk, dir)
        })
        .unwrap();
        dir
    }

    fn newest(root: &Path) -> Result<Option<RunState>, TrainError> {
        Ok(Checkpoint::newest(&Disk::default(), root)?.map(|checkpoint| checkpoint.state))
    }

    #[test]
    fn a_damaged_one_is_set_aside_and_the_one_before_is_read() {
        let damages: [fn(&Path); 6] = [
            |dir| std::fs::remove_file(dir.join("MANIFEST.json")).unwrap(),
            |dir| std::fs::write(dir.join("MANIFEST.json"), [0xff, 0xfe]).unwrap(),
            |dir| std::fs::remove_file(dir.join("model.safetensors")).unwrap(),
            |dir| std::fs::write(dir.join("model.safetensors"), "n").unwrap(),
            |dir| {
                manifest::rewrite(dir, |manifest| {
                    manifest["files"].as_object_mut().unwrap().remove("optimizer.safetensors");
                });
            },
            |dir| std::fs::rename(dir, dir.with_file_name("step-000000003")).unwrap(),
        ];
        for damage in damages {
            let root = tempfile::tempdir().unwrap();
            // A state of before some of its fields were there.
            write(root.path(), 1, r#"{"step": 1}"#);
            damage(&write(root.path(), 2, r#"{"step": 2}"#));
            let state = newest(root.path()).unwrap().unwrap();
            assert_eq!(state, RunState { step: 1, ..RunState::default() });
            let asides = ["corrupt-step-000000002", "corrupt-step-000000003"];
            assert!(asides.iter().any(|aside| root.path().join(aside).exists()));
        }
    }

    #[test]
    fn a_whole_one_that_cannot_be_used_stays_where_it_is() {
        let root = tempfile::tempdir().unwrap();
        write(root.path(), 1, r#"{"step": 1}"#);
        let other = write(root.path(), 2, r#"{"step": 2}"#);
        manifest::rewrite(&other, |manifest| manifest["format"] = 7.into());
        let error = newest(root.path()).unwrap_err();
        assert!(matches!(error, TrainError::OtherFormat { found: 7, reads: 2, .. }), "{error}");
        // A later format may look quite different.
        manifest::rewrite(&other, |manifest| manifest["files"] = "elsewhere".into());
        assert!(matches!(newest(root.path()), Err(TrainError::OtherFormat { .. })));
        assert!(other.exists());
    }

    #[test]
    fn a_step_can_be_asked_for_by_name() {
        let (root, disk) = (tempfile::tempdir().unwrap(), Disk::default());
        for step in [2, 4, 6] {
            write(root.path(), step, &format!(r#"{{"step": {step}}}"#));
        }
        let four = Checkpoint::at(&disk, root.path(), 4).unwrap();
        assert_eq!(four.state.step, 4);
        let error = Checkpoint::at(&disk, root.path(), 5).err().unwrap().to_string();
        assert!(error.contains("found step-2, step-4, step-6"), "{error}");
        assert_eq!(four.leave_later_ones().unwrap(), [root.path().join("later-step-000000006")]);
        std::fs::write(root.path().join("step-000000004/state.json"), "{}").unwrap();
        assert!(Checkpoint::at(&disk, root.path(), 4).is_err());
        assert!(root.path().join("step-000000004").exists(), "what was asked for is not moved");
    }
}
