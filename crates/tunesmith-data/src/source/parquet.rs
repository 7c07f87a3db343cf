//! Parquet: rows by index, decoded a slice of a row group at a time and kept in a bounded cache.

use super::cache::{Cache, Key};
use super::{Faulty, Row, arrow_json, guarded};
use crate::DataError;
use arrow::array::RecordBatch;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ParquetRecordBatchReaderBuilder};
use parquet::basic::Compression;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A slice is decoded in one go: so many rows at most, of about so many bytes.
const SLICE_ROWS: u64 = 4096;
const SLICE_BYTES: u64 = 32 << 20;

/// A parquet file with the place of each slice.
#[derive(Debug)]
pub(super) struct ParquetFile {
    /// What messages call it.
    path: PathBuf,
    /// Where its bytes are.
    real: PathBuf,
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
    /// Opens the file at `real`, which messages call `path`.
    pub(super) fn open(path: &Path, real: &Path, cache: &Cache) -> Result<Self, DataError> {
        let file = File::open(real).map_err(|error| DataError::io(path, error))?;
        check_footer(path, &file)?;
        let metadata = guarded(path, || {
            ArrowReaderMetadata::load(&file, Default::default())
                .map_err(|error| broken(path, error))
        })?;
        if let Some(codec) = unknown_codec(&metadata) {
            return Err(DataError::BadFile {
                path: path.into(),
                expected: "a codec of snappy, gzip, brotli, lz4, zstd or none".into(),
                found: codec,
                help: Some(REWRITE.into()),
            });
        }
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
            real: real.into(),
            metadata,
            slices,
            n_rows: start,
            id: cache.new_file(),
            cache: cache.clone(),
        })
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
        let columns = arrow_json::wanted(self.metadata.schema(), wanted);
        let key = Key { file: self.id, slice, columns };
        let batch = self.cache.get(&key, || self.decode(self.slices[slice], &key.columns))?;
        Ok(arrow_json::row(&batch, (row - self.slices[slice].start) as usize))
    }

    fn decode(&self, slice: Slice, columns: &[usize]) -> Result<RecordBatch, DataError> {
        // A handle of its own: duplicated ones share their position in the file, and other threads read too.
        let file = File::open(&self.real).map_err(|error| DataError::io(&self.path, error))?;
        guarded(&self.path, || self.decode_from(file, slice, columns))
    }

    fn decode_from(
        &self,
        file: File,
        slice: Slice,
        columns: &[usize],
    ) -> Result<RecordBatch, DataError> {
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

const REWRITE: &str =
    "write it again, e.g. with pyarrow.parquet.write_table(table, FILE, compression=\"zstd\")";

/// The first codec of the file that is not built in.
fn unknown_codec(metadata: &ArrowReaderMetadata) -> Option<String> {
    let groups = metadata.metadata().row_groups().iter();
    let mut codecs = groups.flat_map(|group| group.columns()).map(|column| column.compression());
    codecs.find(|codec| matches!(codec, Compression::LZO)).map(|codec| format!("{codec}"))
}

fn broken(path: &Path, error: impl std::fmt::Display) -> DataError {
    DataError::BadFile {
        path: path.into(),
        expected: "sound parquet".into(),
        found: error.to_string(),
        help: Some(REWRITE.into()),
    }
}
