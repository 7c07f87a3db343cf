//! JSON rows: one object per line, or one array of objects, whatever the file is called.
//!
//! # Why rows are read and not mapped
//! A memory map needs `unsafe`, dies by a signal when someone shortens the file, and counts the whole file as memory of
//! this process. One `pread` per row costs about a microsecond; tokenising that row costs a hundred.

use super::json_row::parse;
use super::offsets::Offsets;
use super::{Faulty, Row, json_array, lines};
use crate::DataError;
use crate::fault::Fault;
use std::fs::File;
use std::path::Path;

/// A file of JSON rows with the place of each.
#[derive(Debug)]
pub(super) struct JsonFile {
    file: File,
    size: u64,
    /// Where each row starts. A row reaches to the next one's start; what surrounds it there is white space, or a
    /// comma and brackets in an array.
    starts: Offsets,
    is_array: bool,
}

impl JsonFile {
    pub(super) fn open(path: &Path, file: File) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let size = file.metadata().map_err(io)?.len();
        let mark = lines::mark(&file).map_err(io)?;
        let first = lines::first_solid(&file, mark).map_err(io)?;
        let is_array = matches!(first, Some((_, b'[')));
        let starts = match first {
            None => Offsets::default(),
            Some((start, b'[')) => json_array::starts(path, &file, start + 1)?,
            Some(_) => lines::starts(path, &file, mark, size)?,
        };
        Ok(Self { file, size, starts, is_array })
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.len()
    }

    /// The wanted columns of a row of this file; `global` is its number in the data set.
    pub(super) fn row(&self, row: u64, global: u64, wanted: Option<&[String]>) -> Faulty<Row> {
        let at_row = |fault| (String::new(), fault);
        let start = self.starts.get(row).unwrap_or(self.size);
        let end = self.starts.get(row + 1).unwrap_or(self.size);
        let bytes = lines::bytes(&self.file, start, end).map_err(at_row)?;
        let text = lines::text(&bytes, start).map_err(at_row)?;
        let is_last = row + 1 == self.len();
        parse(text, self.is_array, wanted).map_err(|problem| {
            if problem.is_end && is_last && !self.is_array {
                return at_row(Fault::Truncated { row: global, size: self.size });
            }
            at_row(problem.fault(start))
        })
    }

    /// The line a row starts on, from 1; `None` when the file cannot be read any more.
    pub(super) fn line(&self, row: u64) -> Option<u64> {
        lines::number(&self.file, &self.starts, row)
    }
}
