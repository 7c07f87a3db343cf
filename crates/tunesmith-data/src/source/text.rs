//! Plain text: every line, paragraph or file is a row with the one column `text`.

use super::offsets::Offsets;
use super::{Faulty, Row, lines};
use crate::DataError;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Seek, SeekFrom};
use std::path::Path;

/// What is a row of a plain text file. The names are those of `datasets` (`sample_by`), and so is the default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TextRows {
    /// Each line that is not blank, without its line end.
    #[default]
    Line,
    /// What stands between blank lines, its inner line ends kept.
    Paragraph,
    /// The whole file, without the line ends it closes with.
    Document,
}

impl TextRows {
    /// Their names in a data set's TOML.
    pub(crate) const NAMES: [&str; 3] = ["line", "paragraph", "document"];
}

/// A text file with the place of each row.
#[derive(Debug)]
pub(super) struct TextFile {
    file: File,
    size: u64,
    starts: Offsets,
}

impl TextFile {
    pub(super) fn open(path: &Path, file: File, rows: TextRows) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let size = file.metadata().map_err(io)?.len();
        let mark = lines::mark(&file).map_err(io)?;
        let starts = match rows {
            TextRows::Line => lines::starts(path, &file, mark, size)?,
            TextRows::Paragraph => paragraphs(path, &file, mark)?,
            TextRows::Document => {
                let mut starts = Offsets::default();
                let is_wide =
                    lines::first_solid(&file, mark).map_err(io)?.is_some() && !starts.push(mark, 1);
                if is_wide {
                    return Err(lines::too_wide(path));
                }
                starts
            }
        };
        Ok(Self { file, size, starts })
    }

    pub(super) fn len(&self) -> u64 {
        self.starts.len()
    }

    pub(super) fn row(&self, row: u64) -> Faulty<Row> {
        let at_row = |fault| (String::new(), fault);
        let start = self.starts.get(row).unwrap_or(self.size);
        let end = self.starts.get(row + 1).unwrap_or(self.size);
        let bytes = lines::bytes(&self.file, start, end).map_err(at_row)?;
        let text = lines::text(&bytes, start).map_err(at_row)?;
        // a row reaches to the next one's start: blank lines lie between
        let text = text.trim_end_matches(|c: char| c.is_ascii_whitespace());
        Ok(Row::from_iter([("text".to_owned(), Value::from(text))]))
    }

    pub(super) fn line(&self, row: u64) -> Option<u64> {
        lines::number(&self.file, &self.starts, row)
    }
}

/// Where lines start that hold something and follow a line that holds nothing, or begin the file.
fn paragraphs(path: &Path, file: &File, from: u64) -> Result<Offsets, DataError> {
    let io = |error| DataError::io(path, error);
    let mut starts = Offsets::default();
    let mut reader = BufReader::with_capacity(1 << 20, file);
    reader.seek(SeekFrom::Start(from)).map_err(io)?;
    // of the line that begins at `line`: whether it holds something so far
    let (mut at, mut line, mut solid, mut after_blank) = (from, from, false, true);
    let mut number = 1;
    loop {
        let bytes = reader.fill_buf().map_err(io)?;
        if bytes.is_empty() {
            return Ok(starts);
        }
        let (len, ends) = match memchr::memchr(b'\n', bytes) {
            Some(newline) => (newline + 1, true),
            None => (bytes.len(), false),
        };
        if !solid && bytes[..len].iter().any(|byte| !byte.is_ascii_whitespace()) {
            solid = true;
            if after_blank && !starts.push(line, number) {
                return Err(lines::too_wide(path));
            }
        }
        at += len as u64;
        reader.consume(len);
        if ends {
            number += 1;
            (line, after_blank, solid) = (at, !solid, false);
        }
    }
}
