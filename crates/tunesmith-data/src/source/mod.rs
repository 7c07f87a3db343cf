//! Files of rows, and random access to each row by its index.

mod arrow_ipc;
mod arrow_json;
mod cache;
mod csv;
mod files;
mod format;
mod json;
mod json_array;
mod json_row;
mod lines;
mod offsets;
mod parquet;
mod text;
mod unpack;

pub use files::expand;
pub use format::{FileKnobs, Format};
pub use text::TextRows;

use crate::DataError;
use crate::fault::{Fault, Place, RowError};
use format::Rows;
use serde_json::{Map, Value};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The columns of a row, by name.
pub type Row = Map<String, Value>;

/// A file by its index and path, with its columns.
type FileColumns<'a> = (usize, &'a Path, Vec<String>);

/// Size and time of a file.
type Stamp = (u64, Option<SystemTime>);

fn stamp(path: &Path) -> Result<Stamp, DataError> {
    let metadata = path.metadata().map_err(|error| DataError::io(path, error))?;
    Ok((metadata.len(), metadata.modified().ok()))
}

/// All files of a data set, one after the other.
#[derive(Debug)]
pub(crate) struct Source {
    files: Vec<(PathBuf, Rows)>,
    /// Size and time of each file when it was opened.
    stamps: Vec<Stamp>,
    /// `starts[i]` is the first row of file `i`; the last entry is the number of rows.
    starts: Vec<u64>,
}

impl Source {
    /// Opens the files and counts their rows; no row is parsed yet.
    pub(crate) fn open(files: &[(PathBuf, &FileKnobs)]) -> Result<Self, DataError> {
        let cache = cache::Cache::default();
        let (mut opened, mut starts, mut stamps) = (Vec::new(), vec![0], Vec::new());
        for (path, knobs) in files {
            stamps.push(stamp(path)?);
            let file = Rows::open(path, knobs, &cache)?;
            starts.push(starts[opened.len()] + file.len());
            opened.push((path.clone(), file));
        }
        let source = Self { files: opened, stamps, starts };
        match files.first() {
            Some((path, _)) if source.len() == 0 => {
                Err(DataError::NoRows { path: path.clone(), n_files: files.len() })
            }
            Some(_) => Ok(source),
            None => Err(DataError::NoDataFile { path: PathBuf::new() }),
        }
    }

    /// How the files are read, as text: their formats, and where rows start in them.
    pub(crate) fn reading(&self) -> String {
        let kinds = self.files.iter().map(|(_, rows)| format!("{} {}", rows.kind(), rows.len()));
        kinds.collect::<Vec<_>>().join(", ")
    }

    /// Whether the files are still those that were opened, by their sizes and times.
    pub(crate) fn unchanged(&self) -> Result<(), DataError> {
        for ((path, _), opened) in self.files.iter().zip(&self.stamps) {
            if stamp(path)? != *opened {
                return Err(DataError::Changed { path: path.clone() });
            }
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> u64 {
        self.starts[self.files.len()]
    }

    /// Each file that holds rows, by its index, with its columns: those of its schema or header, of JSON those of its
    /// first rows.
    pub(crate) fn columns(&self) -> Result<Vec<FileColumns<'_>>, DataError> {
        let non_empty = self.files.iter().zip(&self.starts).enumerate();
        let non_empty = non_empty.filter(|(_, ((_, file), _))| file.len() > 0);
        non_empty
            .map(|(i, ((path, file), &start))| {
                let columns = match file.columns() {
                    Some(columns) => columns,
                    None => self.first_columns(file, start)?,
                };
                Ok((i, path.as_path(), columns))
            })
            .collect()
    }

    /// What occurs in the first sound rows: some columns may be absent in some rows, and a bad row is
    /// reported when it is read, or skipped.
    fn first_columns(&self, file: &Rows, start: u64) -> Result<Vec<String>, DataError> {
        let mut columns: Vec<String> = Vec::new();
        let mut first_fault = None;
        for row in 0..file.len().min(32) {
            match file.row(row, start + row, None)? {
                Ok(row) => {
                    let new: Vec<_> = row
                        .into_iter()
                        .map(|(name, _)| name)
                        .filter(|n| !columns.contains(n))
                        .collect();
                    columns.extend(new);
                }
                Err(fault) => _ = first_fault.get_or_insert((row, fault)),
            }
        }
        match first_fault {
            Some((row, (pointer, fault))) if columns.is_empty() => {
                Err(self.error(start + row, pointer, fault))
            }
            _ => Ok(columns),
        }
    }

    /// The wanted columns of a row (all without a list).
    pub(crate) fn row(&self, row: u64, wanted: Option<&[String]>) -> Result<Row, DataError> {
        let (file, local) = self.locate(row);
        let read = self.files[file].1.row(local, row, wanted)?;
        read.map_err(|(pointer, fault)| self.error(row, pointer, fault))
    }

    /// The error that says where `row` stands.
    pub(crate) fn error(&self, row: u64, pointer: String, fault: Fault) -> DataError {
        let (file, local) = self.locate(row);
        let (path, rows) = &self.files[file];
        let place = Place { path: path.clone(), row, line: rows.line(local) };
        Box::new(RowError { place, pointer, fault }).into()
    }

    /// The file that holds `row`, and the row's number in it.
    pub(crate) fn locate(&self, row: u64) -> (usize, u64) {
        let file = self
            .starts
            .partition_point(|&start| start <= row)
            .saturating_sub(1)
            .min(self.files.len() - 1);
        (file, row - self.starts[file])
    }

    /// The rows that the files of a range of indices hold.
    pub(crate) fn rows_of(&self, files: std::ops::Range<usize>) -> std::ops::Range<u64> {
        self.starts[files.start]..self.starts[files.end]
    }
}

/// A fault of a row and the JSON pointer of its place in the row; [`Source::error`] adds the rest.
pub(crate) type Faulty<T> = Result<T, (String, Fault)>;

/// Runs a parser over a file that may be hostile: a panic inside it becomes an error of this file.
fn guarded<T>(path: &Path, parse: impl FnOnce() -> Result<T, DataError>) -> Result<T, DataError> {
    // What the closure leaves behind after a panic is dropped with the error.
    catch_unwind(AssertUnwindSafe(parse)).unwrap_or_else(|panic| {
        let said = panic.downcast_ref::<String>().map(String::as_str);
        let said = said.or(panic.downcast_ref::<&str>().copied()).unwrap_or("no reason");
        Err(DataError::BadFile {
            path: path.into(),
            expected: "a file that its parser can take".into(),
            found: format!("one that broke it: {said}"),
            help: Some("the file is damaged or hostile; fetch or write it again".into()),
        })
    })
}

/// Reads `buffer.len()` bytes at `offset`, or fewer where the file ends.
fn read_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> std::io::Result<usize> {
    let mut total = 0;
    while !buffer.is_empty() {
        match file.read_at(buffer, offset) {
            Ok(0) => break,
            Ok(n) => {
                total += n;
                offset += n as u64;
                buffer = &mut buffer[n..];
            }
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(total)
}
