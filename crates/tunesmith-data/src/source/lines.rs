//! The lines of a file: where they start, which of them hold something, and the number of each.

use super::offsets::Offsets;
use super::read_at;
use crate::DataError;
use crate::fault::Fault;
use rayon::prelude::*;
use std::fs::File;
use std::path::Path;

/// A longer row is a file without line ends, or not meant for training.
pub(super) const MAX_ROW: u64 = 64 << 20;
const BLOCK: u64 = 8 << 20;
/// Blocks whose line starts are held uncompacted at a time.
const WAVE: u64 = 16;

/// The length of a byte order mark at the start of the file, if there is one.
pub(super) fn mark(file: &File) -> std::io::Result<u64> {
    Ok(if peek(file, 0, 3)? == [0xef, 0xbb, 0xbf] { 3 } else { 0 })
}

/// Where lines start that hold more than white space, found block by block on all cores.
///
/// Only `\n` ends a line: U+2028 and its like occur inside JSON strings.
pub(super) fn starts(path: &Path, file: &File, from: u64, size: u64) -> Result<Offsets, DataError> {
    let n_blocks = (size - from).div_ceil(BLOCK);
    let (mut offsets, mut lines_before) = (Offsets::default(), 0);
    for wave in (0..n_blocks).step_by(WAVE as usize) {
        let blocks: Vec<Block> = (wave..(wave + WAVE).min(n_blocks))
            .into_par_iter()
            .map(|block| in_block(file, from, block, size))
            .collect::<std::io::Result<_>>()
            .map_err(|error| DataError::io(path, error))?;
        for block in blocks {
            for (start, line) in block.starts {
                if !offsets.push(start, lines_before + line) {
                    return Err(too_wide(path));
                }
            }
            lines_before += block.line_ends;
        }
    }
    Ok(offsets)
}

/// What a block of a file holds.
struct Block {
    /// The lines that start in it and hold something: offset, and number counted from 1 at the block's start.
    starts: Vec<(u64, u64)>,
    line_ends: u64,
}

pub(super) fn too_wide(path: &Path) -> DataError {
    DataError::BadFile {
        path: path.into(),
        expected: "rows".into(),
        found: "more than 4 GiB between two of them".into(),
        help: Some("rows end with a line end, or stand in an array with commas between".into()),
    }
}

fn in_block(file: &File, from: u64, block: u64, size: u64) -> std::io::Result<Block> {
    let (start, end) = (from + block * BLOCK, (from + (block + 1) * BLOCK).min(size));
    let bytes = peek(file, start, (end - start) as usize)?;
    let first = (block == 0).then_some((start, 1));
    let mut line_ends = 0;
    let after = memchr::memchr_iter(b'\n', &bytes).map(|newline| {
        line_ends += 1;
        (start + newline as u64 + 1, line_ends + 1)
    });
    let mut starts = Vec::new();
    for (line, number) in first.into_iter().chain(after) {
        let solid = match bytes.get((line - start) as usize) {
            Some(byte) if !byte.is_ascii_whitespace() => true,
            _ => holds_something(file, line)?,
        };
        if solid {
            starts.push((line, number));
        }
    }
    Ok(Block { starts, line_ends })
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
pub(super) fn first_solid(file: &File, from: u64) -> std::io::Result<Option<(u64, u8)>> {
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

/// The line, from 1, that a row starts on; `None` when the file cannot be read any more.
pub(super) fn number(file: &File, rows: &Offsets, row: u64) -> Option<u64> {
    let (mut at, mut line) = rows.known_line(row)?;
    let offset = rows.get(row)?;
    while at < offset {
        let block = peek(file, at, (offset - at).min(BLOCK) as usize)
            .ok()
            .filter(|block| !block.is_empty())?;
        line += memchr::memchr_iter(b'\n', &block).count() as u64;
        at += block.len() as u64;
    }
    Some(line)
}

/// The bytes from `start` to `end`, or to where the file ends now.
pub(super) fn bytes(file: &File, start: u64, end: u64) -> Result<Vec<u8>, Fault> {
    if end - start > MAX_ROW {
        return Err(Fault::TooLong { found: end - start, limit: MAX_ROW });
    }
    peek(file, start, (end - start) as usize)
        .map_err(|error| Fault::Unreadable { problem: error.to_string(), offset: start })
}

/// The text of bytes that stand at `start` of their file.
pub(super) fn text(bytes: &[u8], start: u64) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|error| {
        let place = error.valid_up_to();
        Fault::InvalidUtf8 { byte: bytes[place], offset: start + place as u64 }
    })
}

fn peek(file: &File, offset: u64, len: usize) -> std::io::Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    let read = read_at(file, &mut bytes, offset)?;
    bytes.truncate(read);
    Ok(bytes)
}
