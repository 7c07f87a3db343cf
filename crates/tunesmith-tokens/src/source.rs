//! Where a trainer gets its batches from, whoever makes them.

use crate::Batch;
use serde::{Deserialize, Serialize};

/// A position in a [`BatchSource`], small enough to stand in a checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Cursor {
    /// Whole passes over the rows.
    pub epoch: u64,
    /// Windows of shuffled rows consumed in this epoch.
    pub window: u64,
    /// Packed rows consumed in this window.
    pub pack: u64,
}

/// What a source may fail with; the trainer passes it on.
pub type SourceError = Box<dyn std::error::Error + Send + Sync>;

/// A deterministic, seekable stream of micro-batches.
pub trait BatchSource {
    /// The next micro-batch, or `None` after the last epoch.
    ///
    /// # Errors
    /// A row that cannot be read or encoded, named by the error.
    fn next(&mut self) -> Result<Option<Batch>, SourceError>;

    /// Where the next micro-batch starts.
    fn cursor(&self) -> Cursor;

    /// Continues at `cursor`, exactly as if everything before it had been consumed.
    ///
    /// # Errors
    /// A cursor that lies outside the data.
    fn seek(&mut self, cursor: Cursor) -> Result<(), SourceError>;

    /// Epochs consumed so far, with the fraction of the current one: 1.25 is a quarter into the second pass.
    fn epoch(&self) -> f64;
}
