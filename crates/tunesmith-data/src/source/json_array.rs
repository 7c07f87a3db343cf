//! Where the elements of a JSON array start, found in one pass without parsing them.

use super::offsets::Offsets;
use super::{lines, read_at};
use crate::DataError;
use std::fs::File;
use std::path::Path;

const BLOCK: usize = 1 << 20;

/// The offset of every element of the array whose first byte after `[` is at `from`.
pub(super) fn starts(path: &Path, file: &File, from: u64) -> Result<Offsets, DataError> {
    let before = prefix_lines(file, from).map_err(|error| DataError::io(path, error))?;
    let mut scan = Scan {
        starts: Offsets::default(),
        wide: false,
        line: before + 1,
        depth: 0,
        state: State::BeforeElement,
        closed: None,
    };
    let mut block = vec![0; BLOCK];
    let mut at = from;
    loop {
        let read = read_at(file, &mut block, at).map_err(|error| DataError::io(path, error))?;
        for (i, &byte) in block[..read].iter().enumerate() {
            scan.byte(byte, at + i as u64).map_err(|found| DataError::BadFile {
                path: path.into(),
                expected: "an array of objects with a comma between each two".into(),
                found: format!("{found} at byte {}", at + i as u64),
                help: None,
            })?;
        }
        at += read as u64;
        if read < BLOCK {
            break;
        }
    }
    if scan.wide {
        return Err(lines::too_wide(path));
    }
    if scan.closed.is_none() {
        let inside = scan.starts.len().saturating_sub(1);
        return Err(DataError::BadFile {
            path: path.into(),
            expected: "an array closed by `]`".into(),
            found: format!("a file of {at} bytes that ends inside row {inside}"),
            help: Some("fetch or write the file again".into()),
        });
    }
    Ok(scan.starts)
}

/// Line ends before the array's first byte.
fn prefix_lines(file: &File, from: u64) -> std::io::Result<u64> {
    let mut bytes = vec![0; from.min(1 << 20) as usize];
    let read = read_at(file, &mut bytes, 0)?;
    Ok(memchr::memchr_iter(b'\n', &bytes[..read]).count() as u64)
}

struct Scan {
    starts: Offsets,
    /// The line of the current byte, from 1.
    line: u64,
    /// Two rows lie too far apart to be rows.
    wide: bool,
    /// Open brackets and braces inside the current element.
    depth: u32,
    state: State,
    closed: Option<u64>,
}

enum State {
    /// An element must come; `]` only where there is none yet.
    BeforeElement,
    InElement,
    InString,
    AfterBackslash,
    AfterElement,
}

impl Scan {
    /// Takes one byte; what is wrong with it, if something is.
    fn byte(&mut self, byte: u8, at: u64) -> Result<(), String> {
        self.line += u64::from(byte == b'\n');
        match self.state {
            _ if self.closed.is_some() => {
                if !byte.is_ascii_whitespace() {
                    return Err(format!("`{}` after the array", byte.escape_ascii()));
                }
            }
            State::InString => match byte {
                b'"' if self.depth == 0 => self.state = State::AfterElement,
                b'"' => self.state = State::InElement,
                b'\\' => self.state = State::AfterBackslash,
                _ => {}
            },
            State::AfterBackslash => self.state = State::InString,
            State::InElement => match byte {
                b'"' => self.state = State::InString,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' if self.depth > 1 => self.depth -= 1,
                b'}' | b']' if self.depth == 1 => {
                    self.depth = 0;
                    self.state = State::AfterElement;
                }
                // depth 0: inside a bare number or word
                b']' => self.closed = Some(at),
                b',' if self.depth == 0 => self.state = State::BeforeElement,
                _ => {}
            },
            State::BeforeElement => match byte {
                byte if byte.is_ascii_whitespace() => {}
                b']' if self.starts.len() == 0 => self.closed = Some(at),
                b',' | b']' | b'}' => {
                    return Err(format!("`{}` where an object must stand", char::from(byte)));
                }
                _ => {
                    self.wide |= !self.starts.push(at, self.line);
                    self.state = match byte {
                        b'"' => State::InString,
                        _ => State::InElement,
                    };
                    self.depth = u32::from(byte == b'{' || byte == b'[');
                }
            },
            State::AfterElement => match byte {
                byte if byte.is_ascii_whitespace() => {}
                b',' => self.state = State::BeforeElement,
                b']' => self.closed = Some(at),
                _ => return Err(format!("`{}` where a comma must stand", byte.escape_ascii())),
            },
        }
        Ok(())
    }
}
