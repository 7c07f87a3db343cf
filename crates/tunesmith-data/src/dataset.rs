//! A data set: files, the shape of their rows, and the sample that each row becomes.

use crate::error::DataError;
use crate::fault::Fault;
use crate::shape::{Adapter, Shape, detect};
use crate::source::{Row, Source, expand};
use crate::{DatasetConfig, fingerprint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tunesmith_tokens::Sample;

/// How rows are read, where the columns alone do not say it.
#[derive(Debug, Clone, Default)]
pub struct RowKnobs {
    /// The row shape; without it, the columns decide.
    pub shape: Option<Shape>,
    /// The shape's name of a column → the file's name of it.
    pub columns: BTreeMap<String, String>,
    /// The file's name of a role → the template's name of it.
    pub roles: BTreeMap<String, String>,
}

impl From<&DatasetConfig> for RowKnobs {
    fn from(config: &DatasetConfig) -> Self {
        Self { shape: config.shape, columns: config.columns.clone(), roles: config.roles.clone() }
    }
}

/// Files of rows with random access to each row. Rows count from 0 over all files.
#[derive(Debug)]
pub struct Dataset {
    files: Vec<PathBuf>,
    source: Source,
    adapter: Adapter,
    n_rows: u64,
}

impl Dataset {
    /// Opens files, folders and patterns in the order given, and finds the shape of their rows.
    ///
    /// # Errors
    /// A path that names nothing, a file that is no data, columns that fit no shape or not the one asked for, no row.
    pub fn open<P: AsRef<Path>>(paths: &[P], knobs: &RowKnobs) -> Result<Self, DataError> {
        let files = expand(paths)?;
        let source = Source::open(&files)?;
        let columns = source.columns()?;
        let shape = match (knobs.shape, columns.first()) {
            (Some(shape), _) => shape,
            (None, Some((path, found))) => detect(&knobs.columns, path, found)?,
            (None, None) => return Err(DataError::NoDataFile { path: PathBuf::new() }),
        };
        let adapter = Adapter::new(shape, &knobs.columns, &knobs.roles);
        for (path, found) in &columns {
            adapter.check(path, found)?;
        }
        tracing::debug!(
            rows = source.len(),
            files = files.len(),
            shape = shape.name(),
            "opened a data set"
        );
        let n_rows = source.len();
        Ok(Self { files, source, adapter, n_rows })
    }

    /// The same data set without what follows its first `rows` rows (at least one).
    #[must_use]
    pub fn first(self, rows: u64) -> Self {
        Self { n_rows: rows.clamp(1, self.n_rows), ..self }
    }

    /// How many rows it has; at least one.
    #[allow(clippy::len_without_is_empty, reason = "a data set without rows cannot be opened")]
    pub fn len(&self) -> u64 {
        self.n_rows
    }

    /// The shape of its rows.
    pub fn shape(&self) -> Shape {
        self.adapter.shape
    }

    /// Its files, in the order in which rows are counted.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// All columns of a row, as they stand in the file.
    ///
    /// # Errors
    /// A row that cannot be read.
    ///
    /// # Panics
    /// Where `row` is not below [`len`](Self::len).
    pub fn row(&self, row: u64) -> Result<Row, DataError> {
        assert!(row < self.len(), "row {row} of {}", self.len());
        self.source.row(row, None)
    }

    /// What a row holds: a conversation, a text, tokens.
    ///
    /// # Errors
    /// A malformed row, with its place.
    ///
    /// # Panics
    /// Where `row` is not below [`len`](Self::len).
    pub fn sample(&self, row: u64) -> Result<Sample, DataError> {
        assert!(row < self.len(), "row {row} of {}", self.len());
        let columns = self.source.row(row, Some(&self.adapter.wanted))?;
        self.adapter.sample(columns).map_err(|(pointer, mut fault)| {
            // only the wanted columns were read; the message lists them all
            if let (Fault::MissingColumn { found, .. }, "") = (&mut fault, pointer.as_str())
                && let Ok(whole) = self.source.row(row, None)
            {
                *found = whole.keys().cloned().collect();
            }
            self.error(row, pointer, fault)
        })
    }

    /// The fingerprint of its files.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn fingerprint(&self) -> Result<String, DataError> {
        fingerprint::fingerprint(&self.files)
    }

    pub(crate) fn error(&self, row: u64, pointer: String, fault: Fault) -> DataError {
        self.source.error(row, pointer, fault)
    }
}
