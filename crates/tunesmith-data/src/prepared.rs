//! A data set as tokens in one file, which a later run maps into memory instead of reading, rendering and tokenising.
//!
//! ```text
//! TSTOKENS  version  rows  index's place          4 numbers of 8 bytes, little-endian as everything here
//! row 0     examples: their number, then of each: length, tokens cut off, piece, flags,
//!           [label], ids (4 bytes each), trained (1 bit each), [weights (4 bytes each)]
//! row 1     …
//! index     where each row starts, and where the last one ends: 8 bytes each
//! ```
//!
//! The file is named after everything that decides what stands in it: the data files, how their rows are read, the
//! model's tokenizer and template, the encoder's options and this format. A row that could not be encoded is marked, and
//! encoded again when it is asked for, so that it fails (or is skipped) as if nothing had been prepared.

use crate::check::BLOCK;
use crate::{DataError, Dataset};
use memmap2::Mmap;
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use tunesmith_tokens::{EncodeKnobs, Encoder, Example};

const MAGIC: &[u8; 8] = b"TSTOKENS";
const VERSION: u64 = 1;
const HEAD: usize = 32;
/// A row that has no examples because it could not be encoded.
const MALFORMED: u32 = u32::MAX;
const TIED: u32 = 1;
const LABEL: u32 = 2;
const WEIGHTS: u32 = 4;

/// A prepared data set, mapped into memory.
#[derive(Debug)]
pub struct Prepared {
    path: PathBuf,
    map: Mmap,
    rows: u64,
    index: usize,
    /// The options of the encoder that made it.
    knobs: EncodeKnobs,
}

/// What [`Dataset::prepare`] wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// Tokens in it.
    pub tokens: u64,
    /// Rows that could not be encoded.
    pub malformed: u64,
    /// Whether it was there already, and nothing was written.
    pub existed: bool,
}

impl Dataset {
    /// The name of this data set's tokens. `model` stands for the tokenizer and the template: a hash of their files.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn prepared_name(&self, model: &str, knobs: EncodeKnobs) -> Result<String, DataError> {
        let mut hasher = blake3::Hasher::new();
        let parts = [
            format!("{VERSION} {} {model}", self.len()),
            self.fingerprint()?,
            self.reading(),
            format!("{knobs:?}"),
        ];
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
        Ok(format!("{}.tokens", &hasher.finalize().to_hex()[..32]))
    }

    /// Encodes all rows into a file in `folder`, unless it is there.
    ///
    /// # Errors
    /// A file that cannot be read or written; malformed rows are counted.
    pub fn prepare(
        &self,
        encoder: &Encoder,
        model: &str,
        folder: &Path,
    ) -> Result<Written, DataError> {
        let path = folder.join(self.prepared_name(model, encoder.knobs())?);
        if let Ok(prepared) = Prepared::open(&path, encoder.knobs()) {
            let bytes = prepared.map.len() as u64;
            return Ok(Written { path, bytes, tokens: 0, malformed: 0, existed: true });
        }
        let io = |error| DataError::io(&path, error);
        std::fs::create_dir_all(folder).map_err(|error| DataError::io(folder, error))?;
        let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = self.write(encoder, &temporary).and_then(|(bytes, tokens, malformed)| {
            std::fs::rename(&temporary, &path).map_err(io)?;
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
            Ok(Written { path: path.clone(), bytes, tokens, malformed, existed: false })
        });
        if written.is_err() {
            _ = std::fs::remove_file(&temporary); // the first error counts
        }
        written
    }

    /// Takes the examples of rows from a prepared file, for encoders of the options it was made with.
    ///
    /// # Errors
    /// A file of another number of rows.
    pub fn with_prepared(mut self, prepared: Prepared) -> Result<Self, DataError> {
        if prepared.rows != self.len() {
            let problem = format!("expected {} rows, found {}", self.len(), prepared.rows);
            return Err(bad(&prepared.path, problem));
        }
        self.prepared = Some(prepared);
        Ok(self)
    }

    fn write(&self, encoder: &Encoder, path: &Path) -> Result<(u64, u64, u64), DataError> {
        let io = |error| DataError::io(path, error);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        file.write_all(&[0; HEAD]).map_err(io)?;
        let (mut at, mut tokens, mut malformed) = (HEAD as u64, 0, 0);
        let mut index = Vec::new();
        let mut start = 0;
        while start < self.len() {
            let block = start..(start + BLOCK).min(self.len());
            start = block.end;
            let rows: Vec<_> =
                block.into_par_iter().map(|row| self.row_examples(row, encoder)).collect();
            for row in rows {
                index.push(at);
                let bytes = match row {
                    Ok(examples) => {
                        tokens += examples.iter().map(|example| example.len() as u64).sum::<u64>();
                        record(&examples)
                    }
                    Err(DataError::Row(_)) => {
                        malformed += 1;
                        MALFORMED.to_le_bytes().to_vec()
                    }
                    Err(other) => return Err(other),
                };
                file.write_all(&bytes).map_err(io)?;
                at += bytes.len() as u64;
            }
        }
        self.unchanged()?;
        index.push(at);
        for place in &index {
            file.write_all(&place.to_le_bytes()).map_err(io)?;
        }
        file.rewind().map_err(io)?;
        file.write_all(MAGIC).map_err(io)?;
        for number in [VERSION, self.len(), at] {
            file.write_all(&number.to_le_bytes()).map_err(io)?;
        }
        let file = file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        Ok((at + 8 * index.len() as u64, tokens, malformed))
    }
}

impl Prepared {
    /// Maps a file that [`Dataset::prepare`] wrote, with encoders of these options.
    ///
    /// # Errors
    /// A file that is not there, of another format or version, or cut off.
    pub fn open(path: &Path, knobs: EncodeKnobs) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: the file is written beside its name and renamed, and nothing of tunesmith changes it afterwards. Who
        // else shortens it while it is mapped ends this process with a signal, as with every mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| DataError::io(path, error))?;
        let number = |at: usize| read_u64(&map, at);
        let is_ours = map.starts_with(MAGIC) && number(8) == Some(VERSION);
        let sizes = (number(16), number(24).and_then(|index| usize::try_from(index).ok()));
        let (Some(rows), Some(index), true) = (sizes.0, sizes.1, is_ours) else {
            return Err(bad(path, "expected prepared tokens of this version, found others".into()));
        };
        let end = rows.checked_add(1).and_then(|n| n.checked_mul(8)?.checked_add(index as u64));
        if end != Some(map.len() as u64) {
            let problem = format!("expected {rows} rows, found a file of {} bytes", map.len());
            return Err(bad(path, problem));
        }
        Ok(Self { path: path.into(), map, rows, index, knobs })
    }

    /// The examples of a row; `None` where it could not be encoded, or not by this encoder.
    pub(crate) fn examples(
        &self,
        row: u64,
        encoder: &Encoder,
    ) -> Result<Option<Vec<Example>>, DataError> {
        if encoder.knobs() != self.knobs {
            return Ok(None);
        }
        let place = |row: u64| read_u64(&self.map, self.index + 8 * row as usize);
        let bytes = match (place(row), place(row + 1)) {
            (Some(start), Some(end)) => self.map.get(start as usize..end as usize),
            _ => None,
        };
        match bytes.and_then(|bytes| examples(bytes, row)) {
            Some(examples) => Ok(examples),
            None => Err(bad(&self.path, format!("row {row} is damaged"))),
        }
    }
}

fn bad(path: &Path, problem: String) -> DataError {
    let help = Some("delete the file, and prepare the data set again".into());
    DataError::Cache { path: path.into(), problem, help }
}

/// A row's examples as bytes.
fn record(examples: &[Example]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let put = |bytes: &mut Vec<u8>, number: u32| bytes.extend(number.to_le_bytes());
    put(&mut bytes, examples.len() as u32);
    for example in examples {
        let flag = |set: bool, flag: u32| if set { flag } else { 0 };
        put(&mut bytes, example.len() as u32);
        put(&mut bytes, example.truncated);
        put(&mut bytes, example.piece);
        put(
            &mut bytes,
            flag(example.tied, TIED)
                | flag(example.label.is_some(), LABEL)
                | flag(example.weights.is_some(), WEIGHTS),
        );
        example.label.iter().for_each(|label| bytes.extend(label.to_le_bytes()));
        example.ids.iter().for_each(|id| bytes.extend(id.to_le_bytes()));
        for eight in example.trained.chunks(8) {
            let bits = eight.iter().enumerate();
            bytes.push(bits.fold(0, |byte, (i, &trained)| byte | u8::from(trained) << i));
        }
        let weights = example.weights.iter().flatten();
        weights.for_each(|weight| bytes.extend(weight.to_le_bytes()));
    }
    bytes
}

/// The inverse: `None` where the bytes are no record, `Some(None)` of a malformed row.
fn examples(mut bytes: &[u8], row: u64) -> Option<Option<Vec<Example>>> {
    let n = take_u32(&mut bytes)?;
    if n == MALFORMED {
        return Some(None);
    }
    let mut examples = Vec::with_capacity((n as usize).min(bytes.len()));
    for _ in 0..n {
        let len = take_u32(&mut bytes)? as usize;
        let (truncated, piece) = (take_u32(&mut bytes)?, take_u32(&mut bytes)?);
        let flags = take_u32(&mut bytes)?;
        let label = match flags & LABEL {
            0 => None,
            _ => Some(f32::from_bits(take_u32(&mut bytes)?)),
        };
        let ids = take(&mut bytes, len.checked_mul(4)?)?.chunks_exact(4);
        let ids = ids.map(|id| u32::from_le_bytes([id[0], id[1], id[2], id[3]])).collect();
        let bits = take(&mut bytes, len.div_ceil(8))?;
        let trained = (0..len).map(|i| bits[i / 8] >> (i % 8) & 1 == 1).collect();
        let weights = match flags & WEIGHTS {
            0 => None,
            _ => {
                let weights = take(&mut bytes, len.checked_mul(4)?)?.chunks_exact(4);
                Some(weights.map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]])).collect())
            }
        };
        let tied = flags & TIED != 0;
        examples.push(Example { ids, trained, weights, label, row, truncated, piece, tied });
    }
    bytes.is_empty().then_some(Some(examples))
}

fn take<'a>(bytes: &mut &'a [u8], n: usize) -> Option<&'a [u8]> {
    let (first, rest) = bytes.split_at_checked(n)?;
    *bytes = rest;
    Some(first)
}

fn take_u32(bytes: &mut &[u8]) -> Option<u32> {
    take(bytes, 4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_le_bytes([
        bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7],
    ]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_damage_is_seen() {
        let plain = Example {
            ids: (0..21).collect(),
            trained: (0..21).map(|i| i % 3 == 0).collect(),
            row: 7,
            ..Example::default()
        };
        let rich = Example {
            weights: Some((0..21).map(|i| i as f32).collect()),
            label: Some(-0.5),
            truncated: 3,
            piece: 2,
            tied: true,
            ..plain.clone()
        };
        let empty = Example { row: 7, ..Example::default() };
        for group in [vec![plain, rich], vec![empty], vec![]] {
            let bytes = record(&group);
            assert_eq!(examples(&bytes, 7), Some(Some(group)));
            for cut in 0..bytes.len() {
                assert_eq!(examples(&bytes[..cut], 7), None);
            }
        }
        assert_eq!(examples(&MALFORMED.to_le_bytes(), 7), Some(None));
    }
}
