//! Saves in the background: training goes on while a snapshot is written.

use super::{Disk, Keep, Snapshot};
use crate::TrainError;
use std::{
    path::{Path, PathBuf},
    thread::JoinHandle,
};

/// Writes snapshots, one at a time, on a thread of its own.
#[derive(Default)]
pub(crate) struct Saver {
    writing: Option<JoinHandle<Result<PathBuf, TrainError>>>,
}

impl Saver {
    /// Starts to write `snapshot`; whatever was written before has been waited for.
    pub(crate) fn start(
        &mut self,
        snapshot: Snapshot,
        root: &Path,
        keep: Keep,
    ) -> Result<(), TrainError> {
        let root = root.to_owned();
        let write = move || snapshot.commit(&Disk::default(), &root, &keep);
        let thread = std::thread::Builder::new().name("saver".into());
        let spawned = thread.spawn(write).map_err(TrainError::io("a thread that saves"))?;
        self.writing = Some(spawned);
        Ok(())
    }

    /// The place of a checkpoint whose writing has ended since the last call.
    pub(crate) fn poll(&mut self) -> Result<Option<PathBuf>, TrainError> {
        match &self.writing {
            Some(thread) if thread.is_finished() => self.finish(),
            _ => Ok(None),
        }
    }

    /// Waits for what is being written.
    pub(crate) fn finish(&mut self) -> Result<Option<PathBuf>, TrainError> {
        match self.writing.take().map(JoinHandle::join) {
            None => Ok(None),
            Some(Ok(saved)) => saved.map(Some),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Drop for Saver {
    fn drop(&mut self) {
        // Whoever leaves early has an error of its own to tell; the checkpoint is committed or it is not there.
        let _ = self.writing.take().map(JoinHandle::join);
    }
}
