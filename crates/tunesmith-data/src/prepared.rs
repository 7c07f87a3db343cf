//! A data set as tokens in one file, which a later run maps into memory instead of reading, rendering and tokenising.
//!
//! ```text
//! TSTOKENS  version  rows  index's place  sums' place    numbers of 8 bytes, little-endian as everything here
//! key       4 hashes of 32 bytes: data files, rules for reading rows, tokenizer and template, options
//! row 0     examples: their number, then of each: length, tokens cut off, piece, flags,
//!           [label], [weight], ids (4 bytes each), trained (1 bit each), [weights (4 bytes each)]
//! row 1     …
//! index     where each row starts, and where the last one ends: 8 bytes each
//! sums      BLAKE3 of each 128 KiB of rows
//! seal      BLAKE3 of all that is no row
//! ```
//!
//! The file is named after its key, which is everything that decides what stands in it. A row that could not be encoded
//! is marked, and encoded again when it is asked for, so that it fails (or is skipped) as if nothing had been prepared.
//!
//! A fault of tunesmith that was mended since must not live on in the file: before the first row is taken from it, some
//! rows are encoded again, and all of it is refused where one of them differs.

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

/// Rows that are encoded again before prepared tokens are used: enough to see what concerns all rows, few enough that
/// nobody waits for them.
const PROBES: u64 = 16;

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
    /// Encodes all rows into a file in `folder`, unless it is there with the tokens that `encoder` makes. `model` as in
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
        let found = Prepared::open(&path, &key).and_then(|found| self.with_probes(found));
        if let Ok(prepared) = found
            && prepared.probe(encoder).is_ok()
        {
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
    /// The first encoder that asks for a row makes 16 rows again, spread evenly over the data set. Where one of them
    /// comes out otherwise than it stands in the file, every row fails with [`DataError::Cache`].
    ///
    /// # Errors
    /// A file of another number of rows; rows that cannot be read any more.
    pub fn with_prepared(mut self, prepared: Prepared) -> Result<Self, DataError> {
        self.prepared = Some(self.with_probes(prepared)?);
        Ok(self)
    }

    /// Gives prepared tokens the samples that tell whether they are still what an encoder makes.
    fn with_probes(&self, mut prepared: Prepared) -> Result<Prepared, DataError> {
        let rows = self.len();
        if prepared.rows != rows {
            let problem = format!("expected {rows} rows, found {}", prepared.rows);
            return Err(bad(&prepared.path, problem));
        }
        let n = PROBES.min(rows);
        for i in 0..n {
            let row = i * (rows - 1) / (n - 1).max(1); // the first one and the last one too
            let sample = match self.sample(row) {
                Ok(sample) => Some(sample),
                Err(DataError::Row(_)) => None,
                Err(other) => return Err(other),
            };
            prepared.probes.push((row, sample));
        }
        Ok(prepared)
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
