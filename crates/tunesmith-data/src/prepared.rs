//! A data set as tokens in one file, which a later run maps into memory instead of reading, rendering and tokenising.
//!
//! ```text
//! TSTOKENS  version  rows  index's place  sums' place    numbers of 8 bytes, little-endian as everything here
//! key       4 hashes of 32 bytes: data files, rules for reading rows, tokenizer and template, options
//! row 0     examples: their number, then of each: length, tokens cut off, piece, flags,
//!           [label], ids (4 bytes each), trained (1 bit each), [weights (4 bytes each)]
//! row 1     …
//! index     where each row starts, and where the last one ends: 8 bytes each
//! sums      BLAKE3 of each 128 KiB of rows
//! seal      BLAKE3 of all that is no row
//! ```
//!
//! The file is named after its key, which is everything that decides what stands in it. A row that could not be encoded
//! is marked, and encoded again when it is asked for, so that it fails (or is skipped) as if nothing had been prepared.

mod file;
mod key;
mod record;

pub use file::Prepared;
pub use key::PreparedKey;

use crate::check::BLOCK;
use crate::{DataError, Dataset};
use file::{Writer, bad};
use rayon::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};
use tunesmith_tokens::Encoder;

/// What [`Dataset::prepare`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Rows of the data set.
    pub rows: u64,
    /// Its bytes.
    pub bytes: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// Rows that could not be encoded.
    pub malformed: u64,
    /// Whether it was there already, and nothing was written.
    pub existed: bool,
}

impl Dataset {
    /// Encodes all rows into a file in `folder`, unless it is there. `model` as in
    /// [`prepared_key`](Self::prepared_key).
    ///
    /// # Errors
    /// A file that cannot be read or written; malformed rows are counted.
    pub fn prepare(
        &self,
        encoder: &Encoder,
        model: &str,
        folder: &Path,
    ) -> Result<Written, DataError> {
        let key = self.prepared_key(model, encoder.knobs())?;
        let path = folder.join(key.file_name());
        if let Ok(prepared) = Prepared::open(&path, &key) {
            let (bytes, rows) = (prepared.size(), prepared.rows);
            return Ok(Written { path, rows, bytes, tokens: 0, malformed: 0, existed: true });
        }
        let io = |error| DataError::io(&path, error);
        std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error))?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written =
            self.write(encoder, &key, &temporary).and_then(|(bytes, tokens, malformed)| {
                std::fs::rename(&temporary, &path).map_err(io)?;
                File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
                let rows = self.len();
                Ok(Written { path: path.clone(), rows, bytes, tokens, malformed, existed: false })
            });
        if written.is_err() {
            _ = std::fs::remove_file(&temporary); // the first error counts
        }
        written
    }

    /// Takes the examples of rows from a prepared file, for encoders of the options it was made with.
    ///
    /// # Errors
    /// A file of another number of rows.
    pub fn with_prepared(mut self, prepared: Prepared) -> Result<Self, DataError> {
        if prepared.rows != self.len() {
            let problem = format!("expected {} rows, found {}", self.len(), prepared.rows);
            return Err(bad(&prepared.path, problem));
        }
        self.prepared = Some(prepared);
        Ok(self)
    }

    fn write(
        &self,
        encoder: &Encoder,
        key: &PreparedKey,
        path: &Path,
    ) -> Result<(u64, u64, u64), DataError> {
        let mut writer = Writer::create(path)?;
        let (mut tokens, mut malformed) = (0, 0);
        let mut start = 0;
        while start < self.len() {
            let block = start..(start + BLOCK).min(self.len());
            start = block.end;
            let rows: Vec<_> =
                block.into_par_iter().map(|row| self.row_examples(row, encoder)).collect();
            for row in rows {
                let record = match row {
                    Ok(examples) => {
                        tokens += examples.iter().map(|example| example.len() as u64).sum::<u64>();
                        record::record(&examples)
                    }
                    Err(DataError::Row(_)) => {
                        malformed += 1;
                        record::malformed()
                    }
                    Err(other) => return Err(other),
                };
                writer.row(&record)?;
            }
        }
        self.unchanged()?;
        Ok((writer.finish(key)?, tokens, malformed))
    }
}
