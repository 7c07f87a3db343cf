//! CSV and TSV: a header that names the columns, then rows whose cells are text, quoted where they must be.
//!
//! The delimiter is the one that the header holds most often among comma, semicolon, tab and bar, unless it is given.

use super::offsets::Offsets;
use super::{Faulty, Row, lines};
use crate::DataError;
use crate::fault::Fault;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

/// A file of separated values with the place of each row.
#[derive(Debug)]
pub(super) struct CsvFile {
    file: File,
    size: u64,
    starts: Offsets,
    columns: Vec<String>,
    delimiter: u8,
}

impl CsvFile {
    pub(super) fn open(path: &Path, file: File, delimiter: Option<u8>) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let size = file.metadata().map_err(io)?.len();
        let mark = lines::mark(&file).map_err(io)?;
        let delimiter = match delimiter {
            Some(delimiter) => delimiter,
            None => guess(&file, mark).map_err(io)?,
        };
        let mut whole = BufReader::with_capacity(1 << 20, &file);
        whole.seek(SeekFrom::Start(mark)).map_err(io)?;
        let mut reader = rows(delimiter, whole);
        let broken = |error: csv::Error| match error.into_kind() {
            csv::ErrorKind::Io(error) => DataError::io(path, error),
            other => bad(path, format!("{other:?}")),
        };
        let (mut record, mut starts) = (csv::ByteRecord::new(), Offsets::default());
        let mut columns = Vec::new();
        if reader.read_byte_record(&mut record).map_err(broken)? {
            columns = header(path, &record)?;
        }
        loop {
            let (start, line) = (mark + reader.position().byte(), reader.position().line());
            if !reader.read_byte_record(&mut record).map_err(broken)? {
                return Ok(Self { file, size, starts, columns, delimiter });
            }
            if !starts.push(start, line) {
                return Err(lines::too_wide(path));
            }
        }
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.len()
    }

    pub(super) fn delimiter(&self) -> u8 {
        self.delimiter
    }

    pub(super) fn columns(&self) -> &[String] {
        &self.columns
    }

    pub(super) fn row(&self, row: u64, wanted: Option<&[String]>) -> Faulty<Row> {
        let at_row = |fault| (String::new(), fault);
        let start = self.starts.get(row).unwrap_or(self.size);
        let end = self.starts.get(row + 1).unwrap_or(self.size);
        let bytes = lines::bytes(&self.file, start, end).map_err(at_row)?;
        let mut record = csv::ByteRecord::new();
        rows(self.delimiter, &bytes[..]).read_byte_record(&mut record).map_err(|error| {
            at_row(Fault::Unreadable { problem: error.to_string(), offset: start })
        })?;
        if record.len() != self.columns.len() {
            let (expected, found) = (self.columns.len(), record.len());
            return Err(at_row(Fault::CellCount { expected, found }));
        }
        let cells = self.columns.iter().zip(&record);
        let kept = cells.filter(|(name, _)| wanted.is_none_or(|wanted| wanted.contains(name)));
        kept.map(|(name, cell)| match std::str::from_utf8(cell) {
            Ok(text) => Ok((name.clone(), Value::from(text))),
            // quotes may be doubled in the file, so the byte is looked up there
            Err(error) => {
                let byte = cell[error.valid_up_to()];
                let fault = lines::text(&bytes, start).err();
                let fault = fault.unwrap_or(Fault::InvalidUtf8 { byte, offset: start });
                Err((format!("/{name}"), fault))
            }
        })
        .collect()
    }

    /// The line a row starts on, from 1.
    pub(super) fn line(&self, row: u64) -> Option<u64> {
        lines::number(&self.file, &self.starts, row)
    }
}

/// Rows may have other numbers of cells than the header: that is a fault of the row, and no end of the file.
fn rows<R: Read>(delimiter: u8, reader: R) -> csv::Reader<R> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter)
        .buffer_capacity(1 << 16)
        .from_reader(reader)
}

fn header(path: &Path, record: &csv::ByteRecord) -> Result<Vec<String>, DataError> {
    let mut columns: Vec<String> = Vec::with_capacity(record.len());
    for name in record {
        let name = String::from_utf8_lossy(name).into_owned();
        if columns.contains(&name) {
            return Err(bad(path, format!("the column `{name}` twice")));
        }
        columns.push(name);
    }
    Ok(columns)
}

fn bad(path: &Path, found: String) -> DataError {
    DataError::BadFile {
        path: path.into(),
        expected: "a header that names each column once, and rows".into(),
        found,
        help: Some("rename one of them in the first line of the file".into()),
    }
}

/// The delimiter that the first line holds most often; a comma where it holds none.
fn guess(file: &File, from: u64) -> std::io::Result<u8> {
    let mut reader = BufReader::new(file);
    reader.seek(SeekFrom::Start(from))?;
    let mut header = Vec::new();
    reader.take(1 << 16).read_until(b'\n', &mut header)?;
    let count = |delimiter: u8| memchr::memchr_iter(delimiter, &header).count();
    // the last of several equal ones wins
    Ok(*b"|\t;,".iter().max_by_key(|&&delimiter| count(delimiter)).unwrap_or(&b','))
}
