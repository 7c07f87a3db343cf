//! Parquet: rows by index, decoded a slice of a row group at a time and kept in a bounded cache.

use super::{Faulty, Row, arrow_json};
use crate::DataError;
use arrow::array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A slice is decoded in one go: so many rows at most, of about so many bytes.
const SLICE_ROWS: u64 = 4096;
const SLICE_BYTES: u64 = 32 << 20;
/// What all parquet files of a data set keep decoded: a pool of the shuffle (65,536 rows) at 8 KB a row.
const CACHE_BYTES: usize = 512 << 20;

/// A parquet file with the place of each slice.
#[derive(Debug)]
pub(super) struct ParquetFile {
    path: PathBuf,
    metadata: ArrowReaderMetadata,
    slices: Vec<Slice>,
    n_rows: u64,
    /// Tells this file's slices from those of other files in the cache.
    id: usize,
    cache: Cache,
}

#[derive(Debug, Clone, Copy)]
struct Slice {
    group: usize,
    /// First row within the row group, and within the file.
    offset: u64,
    start: u64,
    len: u64,
}

impl ParquetFile {
    pub(super) fn open(path: &Path, cache: &Cache) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|error| DataError::io(path, error))?;
        check_footer(path, &file)?;
        let metadata = ArrowReaderMetadata::load(&file, Default::default())
            .map_err(|error| broken(path, error))?;
        let mut slices = Vec::new();
        let mut start = 0;
        for (group, meta) in metadata.metadata().row_groups().iter().enumerate() {
            let rows = meta.num_rows().max(0) as u64;
            let bytes = meta.total_byte_size().max(1) as u64;
            let step = (rows * SLICE_BYTES / bytes).clamp(1, SLICE_ROWS);
            for offset in (0..rows).step_by(step as usize) {
                slices.push(Slice {
                    group,
                    offset,
                    start: start + offset,
                    len: step.min(rows - offset),
                });
            }
            start += rows;
        }
        Ok(Self {
            path: path.into(),
            metadata,
            slices,
            n_rows: start,
            id: cache.new_file(),
            cache: cache.clone(),
        })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.n_rows
    }

    pub(super) fn columns(&self) -> Vec<String> {
        self.metadata.schema().fields().iter().map(|field| field.name().clone()).collect()
    }

    /// The wanted columns of a row.
    pub(super) fn row(
        &self,
        row: u64,
        wanted: Option<&[String]>,
    ) -> Result<Faulty<Row>, DataError> {
        let slice = self.slices.partition_point(|slice| slice.start <= row).saturating_sub(1);
        let columns: Vec<usize> = self
            .metadata
            .schema()
            .fields()
            .iter()
            .enumerate()
            .filter(|(_, field)| wanted.is_none_or(|wanted| wanted.contains(field.name())))
            .map(|(column, _)| column)
            .collect();
        let key = Key { file: self.id, slice, columns };
        let batch = self.cache.get(&key, || self.decode(self.slices[slice], &key.columns))?;
        let local = (row - self.slices[slice].start) as usize;
        let schema = batch.schema();
        let cells = schema.fields().iter().zip(batch.columns()).map(|(field, column)| {
            let value = arrow_json::value(column, local);
            let place = |(pointer, fault)| (format!("/{}{pointer}", field.name()), fault);
            Ok((field.name().clone(), value.map_err(place)?))
        });
        Ok(cells.collect())
    }

    fn decode(&self, slice: Slice, columns: &[usize]) -> Result<RecordBatch, DataError> {
        // A handle of its own: duplicated ones share their position in the file, and other threads read too.
        let file = File::open(&self.path).map_err(|error| DataError::io(&self.path, error))?;
        let mask = ProjectionMask::roots(self.metadata.parquet_schema(), columns.iter().copied());
        let reader =
            ParquetRecordBatchReaderBuilder::new_with_metadata(file, self.metadata.clone())
                .with_row_groups(vec![slice.group])
                .with_projection(mask)
                .with_offset(slice.offset as usize)
                .with_limit(slice.len as usize)
                .with_batch_size(slice.len as usize)
                .build()
                .map_err(|error| broken(&self.path, error))?;
        let batches =
            reader.collect::<Result<Vec<_>, _>>().map_err(|error| broken(&self.path, error))?;
        match <[RecordBatch; 1]>::try_from(batches) {
            Ok([batch]) if batch.num_rows() as u64 == slice.len => Ok(batch),
            Ok([batch]) => Err(self.short(slice, batch.num_rows())),
            Err(batches) => Err(self.short(slice, batches.iter().map(RecordBatch::num_rows).sum())),
        }
    }

    fn short(&self, slice: Slice, found: usize) -> DataError {
        DataError::BadFile {
            path: self.path.clone(),
            expected: format!(
                "{} rows from row {} of row group {}",
                slice.len, slice.offset, slice.group
            ),
            found: found.to_string(),
            help: Some("the file contradicts its own footer; fetch or write it again".into()),
        }
    }
}

/// A parquet file ends with the length of its footer and `PAR1`.
fn check_footer(path: &Path, file: &File) -> Result<(), DataError> {
    let size = file.metadata().map_err(|error| DataError::io(path, error))?.len();
    let mut end = [0; 4];
    let has_end = size >= 12 && file.read_exact_at(&mut end, size - 4).is_ok();
    if has_end && (&end == b"PAR1" || &end == b"PARE") {
        return Ok(());
    }
    let ending =
        if has_end { format!(" that end in `{}`", end.escape_ascii()) } else { String::new() };
    Err(DataError::BadFile {
        path: path.into(),
        expected: "a parquet file, which ends in its footer and `PAR1`".into(),
        found: format!("{size} bytes{ending}"),
        help: Some("the file was cut off or is no parquet; fetch or write it again".into()),
    })
}

fn broken(path: &Path, error: impl std::fmt::Display) -> DataError {
    DataError::BadFile {
        path: path.into(),
        expected: "sound parquet".into(),
        found: error.to_string(),
        help: Some("write it again, e.g. with pyarrow.parquet.write_table(table, FILE, compression=\"zstd\")".into()),
    }
}

/// The decoded slices of all files of a data set; the least recently used one goes first.
#[derive(Debug, Clone, Default)]
pub(super) struct Cache(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    slices: HashMap<Key, Entry>,
    clock: u64,
    n_files: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    file: usize,
    slice: usize,
    columns: Vec<usize>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Threads that want the same slice wait here for the one that decodes it.
    batch: Arc<Mutex<Option<RecordBatch>>>,
    bytes: usize,
    used: u64,
}

impl Cache {
    fn new_file(&self) -> usize {
        let mut kept = self.lock();
        kept.n_files += 1;
        kept.n_files
    }

    fn get(
        &self,
        key: &Key,
        decode: impl FnOnce() -> Result<RecordBatch, DataError>,
    ) -> Result<RecordBatch, DataError> {
        let cell = self.lock().touch(key);
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(batch) = &*cell {
            return Ok(batch.clone());
        }
        let batch = decode()?;
        *cell = Some(batch.clone());
        self.lock().keep(key, batch.get_array_memory_size());
        Ok(batch)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn touch(&mut self, key: &Key) -> Arc<Mutex<Option<RecordBatch>>> {
        self.clock += 1;
        let entry = match self.slices.get_mut(key) {
            Some(entry) => entry,
            None => self.slices.entry(key.clone()).or_default(),
        };
        entry.used = self.clock;
        entry.batch.clone()
    }

    /// Counts a slice that was just decoded and lets go of the oldest ones beyond the bound, never of this one.
    fn keep(&mut self, key: &Key, bytes: usize) {
        if let Some(entry) = self.slices.get_mut(key) {
            entry.bytes = bytes;
        }
        while self.slices.values().map(|entry| entry.bytes).sum::<usize>() > CACHE_BYTES {
            let others =
                self.slices.iter().filter(|(other, entry)| *other != key && entry.bytes > 0);
            let Some(oldest) =
                others.min_by_key(|(_, entry)| entry.used).map(|(key, _)| key.clone())
            else {
                break;
            };
            self.slices.remove(&oldest);
        }
    }
}
