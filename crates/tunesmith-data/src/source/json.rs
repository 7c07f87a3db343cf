//! JSON rows: one object per line, or one array of objects, whatever the file is called.
//!
//! # Why rows are read and not mapped
//! A memory map needs `unsafe`, dies by a signal when someone shortens the file, and counts the whole file as memory of
//! this process. One `pread` per row costs about a microsecond; tokenising that row costs a hundred.

use super::json_row::parse;
use super::{Faulty, Row, json_array, read_at};
use crate::DataError;
use crate::fault::Fault;
use rayon::prelude::*;
use std::fs::File;
use std::path::{Path, PathBuf};

/// A longer row is a file without line ends, or not meant for training.
const MAX_ROW: u64 = 64 << 20;
const BLOCK: u64 = 8 << 20;

/// A file of JSON rows with the place of each.
#[derive(Debug)]
pub(super) struct JsonFile {
    path: PathBuf,
    file: File,
    size: u64,
    /// Where each row starts, in bytes. A row reaches to the next one's start; what surrounds it there is white space,
    /// or a comma and brackets in an array.
    starts: Vec<u64>,
    is_array: bool,
    first_byte: Option<u8>,
}

impl JsonFile {
    pub(super) fn open(path: &Path, file: File) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let size = file.metadata().map_err(io)?.len();
        let bom = if peek(&file, 0, 3).map_err(io)? == [0xef, 0xbb, 0xbf] { 3 } else { 0 };
        let first = first_solid(&file, bom).map_err(io)?;
        let is_array = matches!(first, Some((_, b'[')));
        let starts = match first {
            None => Vec::new(),
            Some((start, b'[')) => json_array::starts(path, &file, start + 1)?,
            Some(_) => line_starts(&file, bom, size).map_err(io)?,
        };
        Ok(Self {
            path: path.into(),
            file,
            size,
            starts,
            is_array,
            first_byte: first.map(|(_, byte)| byte),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The first byte that is not white space.
    pub(super) fn first_byte(&self) -> Option<u8> {
        self.first_byte
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.len() as u64
    }

    /// The wanted columns of a row of this file; `global` is its number in the data set.
    pub(super) fn row(&self, row: u64, global: u64, wanted: Option<&[String]>) -> Faulty<Row> {
        let at_row = |fault| (String::new(), fault);
        let start = self.starts[row as usize];
        let end = self.starts.get(row as usize + 1).copied().unwrap_or(self.size);
        if end - start > MAX_ROW {
            return Err(at_row(Fault::TooLong { found: end - start, limit: MAX_ROW }));
        }
        let mut bytes = vec![0; (end - start) as usize];
        let unreadable = |error: std::io::Error| {
            at_row(Fault::Json { problem: error.to_string(), offset: start })
        };
        let read = read_at(&self.file, &mut bytes, start).map_err(unreadable)?;
        bytes.truncate(read);
        let text = std::str::from_utf8(&bytes).map_err(|error| {
            let place = error.valid_up_to();
            at_row(Fault::InvalidUtf8 { byte: bytes[place], offset: start + place as u64 })
        })?;
        let is_last = row + 1 == self.len();
        parse(text, self.is_array, wanted).map_err(|problem| {
            if problem.is_end && is_last && !self.is_array {
                return at_row(Fault::Truncated { row: global, size: self.size });
            }
            (String::new(), problem.fault(start))
        })
    }

    /// The line a row starts on, from 1; `None` when the file cannot be read any more.
    pub(super) fn line(&self, row: u64) -> Option<u64> {
        let start = self.starts[row as usize];
        let mut line = 1;
        let mut at = 0;
        while at < start {
            let block = peek(&self.file, at, (start - at).min(BLOCK) as usize)
                .ok()
                .filter(|block| !block.is_empty())?;
            line += memchr::memchr_iter(b'\n', &block).count() as u64;
            at += block.len() as u64;
        }
        Some(line)
    }
}

/// Where lines start that hold more than white space, found block by block on all cores.
///
/// Only `\n` ends a line: U+2028 and its like occur inside JSON strings.
fn line_starts(file: &File, from: u64, size: u64) -> std::io::Result<Vec<u64>> {
    let n_blocks = (size - from).div_ceil(BLOCK);
    let blocks: Vec<Vec<u64>> = (0..n_blocks)
        .into_par_iter()
        .map(|block| {
            let (start, end) = (from + block * BLOCK, (from + (block + 1) * BLOCK).min(size));
            let bytes = peek(file, start, (end - start) as usize)?;
            let first = (block == 0).then_some(start);
            let after =
                memchr::memchr_iter(b'\n', &bytes).map(|newline| start + newline as u64 + 1);
            let mut starts = Vec::new();
            for line in first.into_iter().chain(after) {
                let solid = match bytes.get((line - start) as usize) {
                    Some(byte) if !byte.is_ascii_whitespace() => true,
                    _ => holds_something(file, line)?,
                };
                if solid {
                    starts.push(line);
                }
            }
            Ok(starts)
        })
        .collect::<std::io::Result<_>>()?;
    Ok(blocks.concat())
}

/// Whether the line at `start` has anything but white space before its end.
fn holds_something(file: &File, start: u64) -> std::io::Result<bool> {
    let mut at = start;
    loop {
        let bytes = peek(file, at, 4096)?;
        match bytes.iter().find(|&&byte| byte == b'\n' || !byte.is_ascii_whitespace()) {
            Some(&byte) => return Ok(byte != b'\n'),
            None if bytes.is_empty() => return Ok(false),
            None => at += bytes.len() as u64,
        }
    }
}

/// The first byte that is not white space, with its offset.
fn first_solid(file: &File, from: u64) -> std::io::Result<Option<(u64, u8)>> {
    let mut at = from;
    loop {
        let bytes = peek(file, at, 4096)?;
        if let Some(place) = bytes.iter().position(|byte| !byte.is_ascii_whitespace()) {
            return Ok(Some((at + place as u64, bytes[place])));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        at += bytes.len() as u64;
    }
}

fn peek(file: &File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = read_at(file, &mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}
