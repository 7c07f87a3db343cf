//! Files of rows, and random access to each row by its index.

mod arrow_json;
mod files;
mod json;
mod json_array;
mod json_row;
mod parquet;

pub use files::expand;

use crate::DataError;
use crate::fault::{Fault, Place, RowError};
use json::JsonFile;
use parquet::ParquetFile;
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// The columns of a row, by name.
pub type Row = Map<String, Value>;

/// All files of a data set, one after the other.
#[derive(Debug)]
pub(crate) struct Source {
    files: Vec<Rows>,
    /// `starts[i]` is the first row of file `i`; the last entry is the number of rows.
    starts: Vec<u64>,
}

/// The rows of one file.
#[derive(Debug)]
enum Rows {
    Json(JsonFile),
    Parquet(ParquetFile),
}

impl Source {
    /// Opens the files and counts their rows; no row is parsed yet.
    pub(crate) fn open(paths: &[PathBuf]) -> Result<Self, DataError> {
        let cache = parquet::Cache::default();
        let mut files = Vec::new();
        let mut starts = vec![0];
        for path in paths {
            let file = Rows::open(path, &cache)?;
            starts.push(starts[files.len()] + file.len());
            files.push(file);
        }
        let source = Self { files, starts };
        match paths.first() {
            Some(path) if source.len() == 0 => {
                Err(DataError::NoRows { path: path.clone(), n_files: paths.len() })
            }
            Some(_) => Ok(source),
            None => Err(DataError::NoDataFile { path: PathBuf::new() }),
        }
    }

    pub(crate) fn len(&self) -> u64 {
        self.starts[self.files.len()]
    }

    /// Each file with its columns: of parquet those of its schema, of JSON those of its first rows.
    pub(crate) fn columns(&self) -> Result<Vec<(&Path, Vec<String>)>, DataError> {
        let non_empty = self.files.iter().zip(&self.starts).filter(|(file, _)| file.len() > 0);
        non_empty
            .map(|(file, &start)| match file {
                Rows::Parquet(file) => Ok((file.path(), file.columns())),
                Rows::Json(json) => Ok((json.path(), self.json_columns(json, start)?)),
            })
            .collect()
    }

    /// What occurs in the first sound rows: some columns may be absent in some rows, and a bad row is
    /// reported when it is read, or skipped.
    fn json_columns(&self, json: &JsonFile, start: u64) -> Result<Vec<String>, DataError> {
        let mut columns = Vec::new();
        let mut first_fault = None;
        for row in 0..json.len().min(32) {
            match json.row(row, start + row, None) {
                Ok(row) => columns.extend(row.into_iter().map(|(name, _)| name)),
                Err(fault) => _ = first_fault.get_or_insert((row, fault)),
            }
        }
        match first_fault {
            Some((row, (pointer, fault))) if columns.is_empty() => {
                Err(self.error(start + row, pointer, fault))
            }
            _ => {
                let mut seen = std::collections::HashSet::new();
                columns.retain(|name| seen.insert(name.clone()));
                Ok(columns)
            }
        }
    }

    /// The wanted columns of a row (all without a list).
    pub(crate) fn row(&self, row: u64, wanted: Option<&[String]>) -> Result<Row, DataError> {
        let (file, local) = self.locate(row);
        let read = match &self.files[file] {
            Rows::Json(json) => json.row(local, row, wanted),
            Rows::Parquet(parquet) => parquet.row(local, wanted)?,
        };
        read.map_err(|(pointer, fault)| self.error(row, pointer, fault))
    }

    /// The error that says where `row` stands.
    pub(crate) fn error(&self, row: u64, pointer: String, fault: Fault) -> DataError {
        Box::new(RowError { place: self.place(row), pointer, fault }).into()
    }

    fn place(&self, row: u64) -> Place {
        let (file, local) = self.locate(row);
        match &self.files[file] {
            Rows::Json(json) => Place { path: json.path().into(), row, line: json.line(local) },
            Rows::Parquet(parquet) => Place { path: parquet.path().into(), row, line: None },
        }
    }

    fn locate(&self, row: u64) -> (usize, u64) {
        let file = self
            .starts
            .partition_point(|&start| start <= row)
            .saturating_sub(1)
            .min(self.files.len() - 1);
        (file, row - self.starts[file])
    }
}

/// A fault of a row and the JSON pointer of its place in the row; [`Source::error`] adds the rest.
pub(crate) type Faulty<T> = Result<T, (String, Fault)>;

impl Rows {
    fn open(path: &Path, cache: &parquet::Cache) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let file = File::open(path).map_err(io)?;
        let mut start = Vec::new();
        (&file).take(16).read_to_end(&mut start).map_err(io)?;
        let bad = |found: &str, help: &str| DataError::BadFile {
            path: path.into(),
            expected: "parquet, or JSON rows in UTF-8".into(),
            found: found.into(),
            help: Some(help.into()),
        };
        let named_parquet = path.extension().is_some_and(|e| e.eq_ignore_ascii_case("parquet"));
        match start.as_slice() {
            [b'P', b'A', b'R', b'1', ..] => ParquetFile::open(path, cache).map(Self::Parquet),
            _ if named_parquet => ParquetFile::open(path, cache).map(Self::Parquet),
            [0x1f, 0x8b, ..] => Err(bad("gzip", "unpack it first: gunzip FILE")),
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Err(bad("zstd", "unpack it first: unzstd FILE")),
            [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
                Err(bad("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE"))
            }
            [b'v', b'e', b'r', b's', b'i', b'o', b'n', b' ', b'h', ..] => {
                Err(bad("a Git LFS pointer", "the data itself was never fetched: git lfs pull"))
            }
            _ => {
                let json = JsonFile::open(path, file)?;
                let named_json = path.extension().is_some_and(|e| {
                    ["json", "jsonl", "ndjson"].iter().any(|name| e.eq_ignore_ascii_case(name))
                });
                match json.first_byte() {
                    Some(byte) if !named_json && byte != b'{' && byte != b'[' => Err(bad(
                        &format!("text that starts with `{}`", byte.escape_ascii()),
                        "put each row on a line of its own, e.g. {\"text\": \"…\"}",
                    )),
                    _ => Ok(Self::Json(json)),
                }
            }
        }
    }

    fn len(&self) -> u64 {
        match self {
            Self::Json(file) => file.len(),
            Self::Parquet(file) => file.len(),
        }
    }
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
