//! What a file is: told by its first bytes, then by its name's ending, or by the data set's TOML.

use super::arrow_ipc::{self, ArrowFile};
use super::cache::Cache;
use super::csv::CsvFile;
use super::json::JsonFile;
use super::parquet::ParquetFile;
use super::text::TextFile;
use super::unpack::{Packing, unpack};
use super::{Faulty, Row, TextRows};
use crate::DataError;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// A file format of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Parquet.
    Parquet,
    /// Arrow IPC: a file or a stream.
    Arrow,
    /// One JSON object per line, or an array of them.
    Json,
    /// Separated values with a header.
    Csv,
    /// Plain text.
    Text,
}

impl Format {
    /// Their names in a data set's TOML.
    pub(crate) const NAMES: [&str; 5] = ["parquet", "arrow", "json", "csv", "text"];

    /// What a name's ending tells, whether the file is compressed or not.
    pub fn of_name(path: &Path) -> Option<Self> {
        Some(match ending(path).as_str() {
            "parquet" | "pq" => Self::Parquet,
            "arrow" | "ipc" | "feather" => Self::Arrow,
            "json" | "jsonl" | "ndjson" => Self::Json,
            "csv" | "tsv" => Self::Csv,
            "txt" | "text" => Self::Text,
            _ => return None,
        })
    }
}

/// The ending of a file's name in small letters, without that of a compression.
pub(super) fn ending(path: &Path) -> String {
    let of = |path: &Path| {
        path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default()
    };
    let last = of(path);
    match last.as_str() {
        "gz" | "zst" | "zstd" => of(&path.with_extension("")),
        _ => last,
    }
}

/// How files are read, where they do not say it themselves.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct FileKnobs {
    /// The format; else the file's first bytes and its name decide.
    pub format: Option<Format>,
    /// What separates the cells of a CSV file; else its header decides.
    pub delimiter: Option<char>,
    /// What is a row of a plain text file.
    pub text_rows: TextRows,
    /// Where compressed files are unpacked; else [`cache_dir`](crate::cache_dir).
    pub cache: Option<PathBuf>,
}

/// The rows of one file.
#[derive(Debug)]
pub(super) enum Rows {
    Json(JsonFile),
    Parquet(ParquetFile),
    Arrow(ArrowFile),
    Csv(CsvFile),
    Text(TextFile),
}

impl Rows {
    /// Opens a file, unpacking it first where it is compressed.
    pub(super) fn open(path: &Path, knobs: &FileKnobs, cache: &Cache) -> Result<Self, DataError> {
        let mut real = path.to_path_buf();
        let mut start = first_bytes(path, &real)?;
        if let Some(packing) = Packing::of(&start) {
            let cache = knobs.cache.clone().unwrap_or_else(crate::cache_dir);
            real = unpack(path, packing, &cache)?;
            start = first_bytes(path, &real)?;
        }
        let file = File::open(&real).map_err(|error| DataError::io(path, error))?;
        Ok(match format(path, &start, knobs)? {
            Format::Parquet => Self::Parquet(ParquetFile::open(path, &real, cache)?),
            Format::Arrow => Self::Arrow(ArrowFile::open(path, file, cache)?),
            Format::Json => Self::Json(JsonFile::open(path, file)?),
            Format::Csv => Self::Csv(CsvFile::open(path, file, delimiter(path, knobs)?)?),
            Format::Text => Self::Text(TextFile::open(path, file, knobs.text_rows)?),
        })
    }

    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Json(file) => file.len(),
            Self::Parquet(file) => file.len(),
            Self::Arrow(file) => file.len(),
            Self::Csv(file) => file.len(),
            Self::Text(file) => file.len(),
        }
    }

    /// What it was read as.
    pub(super) fn kind(&self) -> String {
        match self {
            Self::Json(_) => "json".into(),
            Self::Parquet(_) => "parquet".into(),
            Self::Arrow(_) => "arrow".into(),
            Self::Csv(file) => format!("csv {}", file.delimiter()),
            Self::Text(_) => "text".into(),
        }
    }

    /// The columns that the file itself declares.
    pub(super) fn columns(&self) -> Option<Vec<String>> {
        match self {
            Self::Json(_) => None,
            Self::Parquet(file) => Some(file.columns()),
            Self::Arrow(file) => Some(file.columns()),
            Self::Csv(file) => Some(file.columns().to_vec()),
            Self::Text(_) => Some(vec!["text".into()]),
        }
    }

    /// The wanted columns of a row; `global` is its number in the data set.
    pub(super) fn row(
        &self,
        row: u64,
        global: u64,
        wanted: Option<&[String]>,
    ) -> Result<Faulty<Row>, DataError> {
        match self {
            Self::Json(file) => Ok(file.row(row, global, wanted)),
            Self::Parquet(file) => file.row(row, wanted),
            Self::Arrow(file) => file.row(row, wanted),
            Self::Csv(file) => Ok(file.row(row, wanted)),
            Self::Text(file) => Ok(file.row(row)),
        }
    }

    /// The line a row starts on, from 1, where the file has lines.
    pub(super) fn line(&self, row: u64) -> Option<u64> {
        match self {
            Self::Json(file) => file.line(row),
            Self::Csv(file) => file.line(row),
            Self::Text(file) => file.line(row),
            Self::Parquet(_) | Self::Arrow(_) => None,
        }
    }
}

fn first_bytes(path: &Path, real: &PathBuf) -> Result<Vec<u8>, DataError> {
    let io = |error| DataError::io(path, error);
    let mut start = Vec::new();
    File::open(real).map_err(io)?.take(512).read_to_end(&mut start).map_err(io)?;
    Ok(start)
}

fn format(path: &Path, start: &[u8], knobs: &FileKnobs) -> Result<Format, DataError> {
    let bad = |found: &str, help: &str| DataError::BadFile {
        path: path.into(),
        expected: "parquet, Arrow, JSON rows, CSV or plain text in UTF-8".into(),
        found: found.into(),
        help: Some(help.into()),
    };
    let named = knobs.format.or(Format::of_name(path));
    match start {
        [b'P', b'A', b'R', b'1', ..] => return Ok(Format::Parquet),
        start if start.starts_with(arrow_ipc::MAGIC) => return Ok(Format::Arrow),
        [0xff, 0xff, 0xff, 0xff, ..] => return Ok(Format::Arrow),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => {
            return Err(bad("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 FILE"));
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x1f, 0x8b, ..] => {
            return Err(bad("a compressed file inside a compressed file", "unpack it once"));
        }
        [b'B', b'Z', b'h', ..] => return Err(bad("bzip2", "unpack it first: bunzip2 FILE")),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => return Err(bad("xz", "unpack it first: unxz FILE")),
        [b'P', b'K', 3, 4, ..] => return Err(bad("a zip archive", "unpack it first: unzip FILE")),
        start if start.starts_with(b"version https://git-lfs") => {
            return Err(bad(
                "a Git LFS pointer",
                "the data itself was never fetched: git lfs pull",
            ));
        }
        _ => {}
    }
    let solid = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let is_page =
        |tag: &[u8]| solid.len() >= tag.len() && solid[..tag.len()].eq_ignore_ascii_case(tag);
    if named != Some(Format::Text) && (is_page(b"<!doctype html") || is_page(b"<html")) {
        return Err(bad(
            "a web page",
            "the download gave a page instead of the file: log in, or take the address of the raw file",
        ));
    }
    match (named, solid.first()) {
        (Some(named), _) => Ok(named),
        (None, None | Some(b'{' | b'[')) => Ok(Format::Json),
        (None, Some(byte)) => Err(bad(
            &format!("text that starts with `{}`", byte.escape_ascii()),
            "`format = \"csv\"`, `\"text\"` or `\"json\"` in the data set's TOML says what it is",
        )),
    }
}

/// The delimiter where it is known before the header is read.
fn delimiter(path: &Path, knobs: &FileKnobs) -> Result<Option<u8>, DataError> {
    match knobs.delimiter {
        None if ending(path) == "tsv" => Ok(Some(b'\t')),
        None => Ok(None),
        Some(delimiter) if delimiter.is_ascii() => Ok(Some(delimiter as u8)),
        Some(delimiter) => Err(DataError::Setting {
            name: "delimiter",
            expected: "one ASCII character".into(),
            found: format!("`{delimiter}`"),
        }),
    }
}
