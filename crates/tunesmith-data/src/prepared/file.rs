//! The file of tokens: how it lies on disk, how it is written, and how its bytes are checked before they are used.

use super::key::{BYTES, PreparedKey, VERSION};
use super::record;
use crate::DataError;
use memmap2::Mmap;
use std::fs::File;
use std::io::{BufWriter, Seek, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use tunesmith_tokens::{EncodeKnobs, Encoder, Example, Sample};

const MAGIC: &[u8; 8] = b"TSTOKENS";
/// The magic, four numbers, and the key.
const HEAD: usize = 40 + BYTES;
/// Bytes that have a checksum together: the first row that is read of them costs the hash of all.
const BLOCK: usize = 128 << 10;
const SUM: usize = 32;

/// A prepared data set, mapped into memory.
///
/// Its index is checked when it is opened, a block of rows when one of them is first read.
#[derive(Debug)]
pub struct Prepared {
    pub(super) path: PathBuf,
    map: Mmap,
    pub(super) rows: u64,
    /// The options of the encoder that made it.
    knobs: EncodeKnobs,
    index: Range<usize>,
    sums: Range<usize>,
    /// Blocks whose checksum was found right.
    sound: Vec<AtomicBool>,
    /// Rows to encode again before the first one is used; `None` where nothing can be read in that row.
    pub(super) probes: Vec<(u64, Option<Sample>)>,
    /// Whether they came out as they stand here.
    probed: AtomicBool,
}

impl Prepared {
    /// Maps the tokens of `key` that [`Dataset::prepare`](crate::Dataset::prepare) wrote.
    ///
    /// # Errors
    /// A file that is not there, of another format or version, of another key (with what differs), or damaged.
    pub fn open(path: &Path, key: &PreparedKey) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        #[expect(unsafe_code, reason = "a memory map")]
        // SAFETY: the file is written beside its name and renamed, and nothing of tunesmith changes it afterwards. Who
        // else shortens it while it is mapped ends this process with a signal, as with every mapped file.
        let map = unsafe { Mmap::map(&file) }.map_err(|error| DataError::io(path, error))?;
        let number = |at: usize| read_u64(&map, at);
        if !map.starts_with(MAGIC) || number(8) != Some(VERSION) || map.len() < HEAD + SUM {
            return Err(bad(path, "expected prepared tokens of this version, found others".into()));
        }
        let seal = map.len() - SUM;
        let layout = || {
            let place = |at| usize::try_from(number(at)?).ok();
            let (rows, index, sums) = (number(16)?, place(24)?, place(32)?);
            let ends =
                index.checked_add(usize::try_from(rows.checked_add(1)?).ok()?.checked_mul(8)?);
            let blocks = index.checked_sub(HEAD)?.div_ceil(BLOCK);
            let fits =
                ends == Some(sums) && sums.checked_add(blocks.checked_mul(SUM)?) == Some(seal);
            fits.then_some((rows, index..sums, sums..seal, blocks))
        };
        let Some((rows, index, sums, blocks)) = layout() else {
            let problem = format!("cut off or damaged: found {} bytes", map.len());
            return Err(bad(path, problem));
        };
        if seal_of(&map[..HEAD], &map[index.start..seal]).as_bytes() != &map[seal..] {
            return Err(bad(path, "its index does not have its checksum".into()));
        }
        if let Some(other) = key.differs(&map[40..HEAD]) {
            let help = "prepare the data set again: `tunesmith data prepare`";
            return Err(DataError::Cache {
                path: path.into(),
                problem: format!("expected the tokens of this run, found those of {other}"),
                help: Some(help.into()),
            });
        }
        let sound = (0..blocks).map(|_| AtomicBool::new(false)).collect();
        let (path, knobs) = (path.into(), key.knobs);
        let (probes, probed) = (Vec::new(), AtomicBool::new(false));
        Ok(Self { path, map, rows, knobs, index, sums, sound, probes, probed })
    }

    /// Bytes of the file.
    pub(super) fn size(&self) -> u64 {
        self.map.len() as u64
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
        self.probe(encoder)?;
        record::examples(self.bytes(row)?, row).ok_or_else(|| self.damaged(row))
    }

    /// Whether `encoder` makes what stands here of the rows to be encoded again; found out once.
    ///
    /// # Errors
    /// A row of which it makes something else.
    pub(super) fn probe(&self, encoder: &Encoder) -> Result<(), DataError> {
        // no lock: threads that come at the same time do the same work, and nobody waits
        if self.probed.load(Ordering::Relaxed) {
            return Ok(());
        }
        for (row, sample) in &self.probes {
            let found = self.bytes(*row)?;
            if found == record::malformed() {
                continue; // nothing is taken from here
            }
            let made = sample.as_ref().and_then(|sample| encoder.encode(sample, *row).ok());
            if made.is_none_or(|made| record::record(&made) != found) {
                let problem = format!(
                    "row {row}: expected the tokens that this version of tunesmith makes, found those of another"
                );
                let help = "delete the file, or write it again: `tunesmith data prepare`";
                let (path, help) = (self.path.clone(), Some(help.into()));
                return Err(DataError::Cache { path, problem, help });
            }
        }
        self.probed.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// The record of a row, after its checksum was found right.
    fn bytes(&self, row: u64) -> Result<&[u8], DataError> {
        let place =
            |row: u64| Some(read_u64(&self.map, self.index.start + 8 * row as usize)? as usize);
        let (start, end) = place(row).zip(place(row + 1)).ok_or_else(|| self.damaged(row))?;
        if start < HEAD || end > self.index.start || start >= end {
            return Err(self.damaged(row));
        }
        for block in (start - HEAD) / BLOCK..=(end - 1 - HEAD) / BLOCK {
            self.check(block, row)?;
        }
        Ok(&self.map[start..end])
    }

    fn damaged(&self, row: u64) -> DataError {
        bad(&self.path, format!("row {row} is damaged"))
    }

    /// Whether a block has its checksum; computed once.
    fn check(&self, block: usize, row: u64) -> Result<(), DataError> {
        if self.sound[block].load(Ordering::Relaxed) {
            return Ok(());
        }
        let start = HEAD + block * BLOCK;
        let end = (start + BLOCK).min(self.index.start);
        let sum = self.sums.start + block * SUM;
        if blake3::hash(&self.map[start..end]).as_bytes() != &self.map[sum..sum + SUM] {
            let problem = format!(
                "bytes {start} to {end} do not have their checksum, and row {row} stands there"
            );
            return Err(bad(&self.path, problem));
        }
        self.sound[block].store(true, Ordering::Relaxed);
        Ok(())
    }
}

/// Writes the file of a key, row after row.
pub(super) struct Writer<'a> {
    path: &'a Path,
    file: BufWriter<File>,
    /// Where each row starts.
    index: Vec<u64>,
    at: u64,
    block: blake3::Hasher,
    in_block: usize,
    sums: Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(super) fn create(path: &'a Path) -> Result<Self, DataError> {
        let io = |error| DataError::io(path, error);
        let mut file = BufWriter::with_capacity(1 << 20, File::create(path).map_err(io)?);
        file.write_all(&[0; HEAD]).map_err(io)?;
        let (index, sums) = (Vec::new(), Vec::new());
        let block = blake3::Hasher::new();
        Ok(Self { path, file, index, at: HEAD as u64, block, in_block: 0, sums })
    }

    pub(super) fn row(&mut self, record: &[u8]) -> Result<(), DataError> {
        self.index.push(self.at);
        self.at += record.len() as u64;
        let mut rest = record;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rest.len().min(BLOCK - self.in_block));
            self.block.update(now);
            self.in_block += now.len();
            rest = later;
            if self.in_block == BLOCK {
                self.end_block();
            }
        }
        self.file.write_all(record).map_err(|error| DataError::io(self.path, error))
    }

    fn end_block(&mut self) {
        self.sums.extend(self.block.finalize().as_bytes());
        self.block.reset();
        self.in_block = 0;
    }

    /// Writes what stands around the rows, and waits until all of it is on disk; the file's size.
    pub(super) fn finish(mut self, key: &PreparedKey) -> Result<u64, DataError> {
        if self.in_block > 0 {
            self.end_block();
        }
        let rows = self.index.len() as u64;
        self.index.push(self.at);
        let mut tail: Vec<u8> = self.index.iter().flat_map(|place| place.to_le_bytes()).collect();
        let sums = self.at + tail.len() as u64;
        tail.extend(&self.sums);
        let mut head = MAGIC.to_vec();
        for number in [VERSION, rows, self.at, sums] {
            head.extend(number.to_le_bytes());
        }
        head.extend(key.to_bytes());
        tail.extend(seal_of(&head, &tail).as_bytes());
        let path = self.path;
        let io = |error| DataError::io(path, error);
        self.file.write_all(&tail).map_err(io)?;
        self.file.rewind().map_err(io)?;
        self.file.write_all(&head).map_err(io)?;
        let file = self.file.into_inner().map_err(|error| io(error.into_error()))?;
        file.sync_all().map_err(io)?;
        Ok(self.at + tail.len() as u64)
    }
}

/// The checksum of all that is no row.
fn seal_of(head: &[u8], tail: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(head).update(tail);
    hasher.finalize()
}

pub(super) fn bad(path: &Path, problem: String) -> DataError {
    let help = Some("delete the file, and prepare the data set again".into());
    DataError::Cache { path: path.into(), problem, help }
}

fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(8)?)?;
    bytes.try_into().ok().map(u64::from_le_bytes)
}
