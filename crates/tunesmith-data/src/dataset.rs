//! A data set: files, the shape of their rows, and the sample that each row becomes.

use crate::error::DataError;
use crate::fault::Fault;
use crate::mix::Mix;
use crate::prepared::Prepared;
use crate::shape::{Adapter, Shape, detect};
use crate::source::{FileKnobs, Row, Source, expand};
use crate::{DatasetConfig, fingerprint};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use tunesmith_tokens::Sample;

/// How rows are read, where the files alone do not say it.
#[derive(Debug, Clone, Default)]
pub struct RowKnobs {
    /// The row shape; without it, the columns decide.
    pub shape: Option<Shape>,
    /// The shape's name of a column → the file's name of it.
    pub columns: BTreeMap<String, String>,
    /// The file's name of a role → the template's name of it.
    pub roles: BTreeMap<String, String>,
    /// `role` and `content` → the keys that messages have for them.
    pub keys: BTreeMap<String, String>,
    /// The names of the classes, in the order of their indices.
    pub labels: Vec<String>,
    /// What the files are.
    pub files: FileKnobs,
}

impl From<&DatasetConfig> for RowKnobs {
    fn from(config: &DatasetConfig) -> Self {
        Self {
            shape: config.shape,
            columns: config.columns.clone(),
            roles: config.roles.clone(),
            keys: config.keys.clone(),
            labels: config.labels.clone(),
            files: config.file_knobs(),
        }
    }
}

/// One of several sources of a data set.
#[derive(Debug, Clone)]
pub struct Part {
    /// Files, folders and patterns.
    pub paths: Vec<PathBuf>,
    /// How its rows are read.
    pub knobs: RowKnobs,
    /// How often an epoch takes each of its rows: 2 is twice, 0.5 every other row, other ones in the next epoch.
    pub weight: f64,
}

/// Files of rows with random access to each row. Rows count from 0 over all files.
#[derive(Debug)]
pub struct Dataset {
    files: Vec<PathBuf>,
    source: Source,
    /// How the rows of each part are read, with the first row behind it.
    adapters: Vec<(u64, Adapter)>,
    /// Where an epoch is not simply all rows.
    mix: Option<Mix>,
    /// Where the rows are tokens already.
    pub(crate) prepared: Option<Prepared>,
    /// Rows that are left out, in their order, and why.
    pub(crate) dropped: Vec<(u64, &'static str)>,
    n_rows: u64,
    /// Computed once: it reads all files, and they must not change.
    fingerprint: OnceLock<String>,
}

impl Dataset {
    /// Opens files, folders and patterns in the order given, and finds the shape of their rows.
    ///
    /// # Errors
    /// A path that names nothing, a file that is no data, columns that fit no shape or not the one asked for, no row.
    pub fn open<P: AsRef<Path>>(paths: &[P], knobs: &RowKnobs) -> Result<Self, DataError> {
        let paths = paths.iter().map(|path| path.as_ref().to_path_buf()).collect();
        Self::mix(&[Part { paths, knobs: knobs.clone(), weight: 1.0 }])
    }

    /// Opens several sources, of which an epoch takes as many rows as their weights say.
    ///
    /// # Errors
    /// As [`open`](Self::open); a weight that is negative or no number, or weights that leave no row.
    pub fn mix(parts: &[Part]) -> Result<Self, DataError> {
        let (mut files, mut ends) = (Vec::new(), Vec::new());
        for part in parts {
            if !(part.weight >= 0.0 && part.weight.is_finite()) {
                return Err(DataError::Setting {
                    name: "weight",
                    expected: "a number of at least 0".into(),
                    found: part.weight.to_string(),
                });
            }
            files.extend(expand(&part.paths)?.into_iter().map(|path| (path, &part.knobs.files)));
            ends.push(files.len());
        }
        let source = Source::open(&files)?;
        let files: Vec<PathBuf> = files.into_iter().map(|(path, _)| path).collect();
        let columns = source.columns()?;
        let (mut adapters, mut shares, mut first) = (Vec::new(), Vec::new(), 0);
        for (part, &end) in parts.iter().zip(&ends) {
            let of_part: Vec<_> =
                columns.iter().filter(|(file, ..)| (first..end).contains(file)).collect();
            let rows = source.rows_of(first..end);
            shares.push((rows.clone(), part.weight));
            first = end;
            let knobs = &part.knobs;
            let shape = match (knobs.shape, of_part.first()) {
                (Some(shape), _) => shape,
                (None, Some((_, path, found))) => detect(&knobs.columns, path, found)?,
                (None, None) => continue, // its files hold no rows
            };
            let adapter = Adapter::new(shape, knobs);
            let mut sound = None;
            for (_, path, found) in of_part {
                adapter.check(path, found, sound)?;
                sound = sound.or(Some(path));
            }
            adapters.push((rows.end, adapter));
        }
        let plain = shares.iter().all(|(_, weight)| *weight == 1.0) && parts.len() == 1;
        let mix = (!plain).then(|| Mix::new(shares));
        if mix.as_ref().is_some_and(|mix| mix.len() == 0) {
            return Err(DataError::Setting {
                name: "weight",
                expected: "weights that leave at least one row".into(),
                found: "none".into(),
            });
        }
        let n_rows = source.len();
        tracing::debug!(rows = n_rows, files = files.len(), "opened a data set");
        let (prepared, dropped, fingerprint) = (None, Vec::new(), OnceLock::new());
        Ok(Self { files, source, adapters, mix, prepared, dropped, n_rows, fingerprint })
    }

    /// The same data set without what follows its first `rows` rows (at least one); sources are no longer mixed.
    #[must_use]
    pub fn first(self, rows: u64) -> Self {
        Self { n_rows: rows.clamp(1, self.n_rows), mix: None, prepared: None, ..self }
    }

    /// How many rows it has; at least one.
    #[allow(clippy::len_without_is_empty, reason = "a data set without rows cannot be opened")]
    pub fn len(&self) -> u64 {
        self.n_rows
    }

    /// How many rows an epoch takes: all of them, unless several sources are mixed.
    pub fn draws(&self) -> u64 {
        self.mix.as_ref().map_or(self.n_rows, Mix::len)
    }

    /// The row that an epoch takes at place `draw` (below [`draws`](Self::draws)), before the shuffle.
    pub fn draw(&self, seed: u64, epoch: u64, draw: u64) -> u64 {
        self.mix.as_ref().map_or(draw, |mix| mix.row(seed, epoch, draw))
    }

    /// How its rows are read, as text: what a name of its tokens depends on beside the files.
    pub(crate) fn reading(&self) -> String {
        let parts = self.adapters.iter().map(|(end, adapter)| format!("{end} {adapter:?}"));
        format!("{} {}", parts.collect::<Vec<_>>().join("; "), self.source.reading())
    }

    /// The shape of its rows; of several sources, of the first.
    pub fn shape(&self) -> Shape {
        self.adapter(0).shape
    }

    fn adapter(&self, row: u64) -> &Adapter {
        let part = self.adapters.partition_point(|(end, _)| *end <= row);
        &self.adapters[part.min(self.adapters.len() - 1)].1
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
        let adapter = self.adapter(row);
        let columns = self.source.row(row, Some(&adapter.wanted))?;
        adapter.sample(columns).map_err(|(pointer, mut fault)| {
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
        if let Some(known) = self.fingerprint.get() {
            return Ok(known.clone());
        }
        let fresh = fingerprint::fingerprint(&self.files)?;
        Ok(self.fingerprint.get_or_init(|| fresh).clone())
    }

    /// What its rows are, as a short name: the files' content, how they are read, and how often each part is drawn.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn identity(&self) -> Result<String, DataError> {
        let parts = [self.fingerprint()?, self.reading(), format!("{:?}", self.mix)];
        Ok(blake3::hash(parts.join("\n").as_bytes()).to_hex().to_string())
    }

    /// Why a row is left out, if it is.
    pub(crate) fn left_out(&self, row: u64) -> Option<&'static str> {
        let place = self.dropped.binary_search_by_key(&row, |(row, _)| *row).ok()?;
        Some(self.dropped[place].1)
    }

    /// Whether its files are still those that were opened.
    pub(crate) fn unchanged(&self) -> Result<(), DataError> {
        self.source.unchanged()
    }

    pub(crate) fn error(&self, row: u64, pointer: String, fault: Fault) -> DataError {
        self.source.error(row, pointer, fault)
    }
}
