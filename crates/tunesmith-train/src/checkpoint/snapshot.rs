//! A copy of everything a checkpoint holds, which can be written while training goes on.

use super::{Keep, RunState, commit, dir_name, disk::Disk, manifest, manifest::Manifest};
use crate::{AdamW, TrainError};
use std::path::{Path, PathBuf};
use tch::Tensor;
use tunesmith_model::{Transformer, write_tensors_into};

/// Room for headers, the state and the manifest.
const SMALL_FILES: u64 = 1 << 20;

/// What a run was at one step: nothing that training does changes it any more.
pub struct Snapshot {
    state: RunState,
    weights: Vec<(String, Tensor)>,
    moments: Vec<(String, Tensor)>,
}

impl Snapshot {
    /// Copies the trainable parameters of `model` and the state of `optimizer`, on their device.
    pub fn take(state: &RunState, model: &Transformer, optimizer: &AdamW) -> Self {
        let _no_grad = tch::no_grad_guard();
        let Self { state, mut weights, mut moments } = Self::view(state, model, optimizer);
        for (_, tensor) in weights.iter_mut().chain(&mut moments) {
            *tensor = tensor.copy();
        }
        Self { state, weights, moments }
    }

    /// The same tensors without a copy, for whoever changes none of them before it is committed.
    pub fn view(state: &RunState, model: &Transformer, optimizer: &AdamW) -> Self {
        let trained = model.params().iter().filter(|param| param.trainable());
        let weights = trained.map(|p| (p.name.clone(), p.tensor.detach())).collect();
        Self { state: state.clone(), weights, moments: optimizer.state() }
    }

    /// Bytes that [`commit`](Self::commit) writes, at most.
    pub fn n_bytes(&self) -> u64 {
        let bytes = |tensors: &[(String, Tensor)]| {
            let of = |t: &Tensor| (t.numel() * t.kind().elt_size_in_bytes()) as u64;
            tensors.iter().map(|(_, tensor)| of(tensor)).sum::<u64>()
        };
        bytes(&self.weights) + bytes(&self.moments) + SMALL_FILES
    }

    /// Commits it as a checkpoint under `root` (the run's `checkpoints` folder), and removes what `keep` does not keep.
    ///
    /// # Errors
    /// What the operating system says; too little free space, before anything is written. Whatever fails, the
    /// checkpoints that were there stay untouched.
    pub fn commit(&self, disk: &Disk, root: &Path, keep: &Keep) -> Result<PathBuf, TrainError> {
        let target = root.join(dir_name(self.state.step));
        // What a broken-off save left may be the space that is missing.
        commit::sweep(disk, root).map_err(|error| {
            let free = commit::free_bytes(root).unwrap_or_default();
            error.while_writing(&target, self.n_bytes(), free)
        })?;
        commit::commit(disk, &target, self.n_bytes(), |dir| self.write(disk, dir))?;
        keep.prune(disk, root)?;
        Ok(target)
    }

    /// Writes it under `root`, waits for the disk as a commit does, reads it back, and removes it again: what a save
    /// costs on this disk.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn rehearse(&self, root: &Path) -> Result<(), TrainError> {
        let disk = Disk::default();
        commit::sweep(&disk, root)?;
        let target = root.join(".trash-rehearsal"); // swept away if this process is killed
        commit::commit(&disk, &target, self.n_bytes(), |dir| self.write(&disk, dir))?;
        Manifest::read(&disk, &target)?.verify(&disk, &target)?;
        disk.remove_tree(&target)
    }

    fn write(&self, disk: &Disk, dir: &Path) -> Result<(), TrainError> {
        let mut manifest = Manifest::new();
        let [weights, moments, state] = manifest::FILES;
        for (name, tensors) in [(weights, &self.weights), (moments, &self.moments)] {
            let path = dir.join(name);
            let bytes = tensors.iter().map(|(_, t)| t.numel() * t.kind().elt_size_in_bytes());
            manifest.add(disk, dir, name, bytes.sum::<usize>() as u64, |file| {
                let tensors = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
                Ok(write_tensors_into(file, &path, tensors)?)
            })?;
        }
        let path = dir.join(state);
        let text = manifest::to_json(&self.state, &path)?;
        manifest.add(disk, dir, state, text.len() as u64, |file| {
            file.write_all(text.as_bytes()).map_err(TrainError::io(&path))
        })?;
        manifest.write(disk, dir)
    }
}
