//! Decoded slices of column files, which all files of a data set share: as many as fit into a bound.

use crate::DataError;
use arrow::array::RecordBatch;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is kept decoded: a pool of the shuffle (32,768 rows) at 8 KB a row.
const CACHE_BYTES: usize = 256 << 20;

/// The slices kept.
#[derive(Debug, Clone, Default)]
pub(super) struct Cache(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    slices: HashMap<Key, Entry>,
    clock: u64,
    n_files: usize,
}

/// A slice of a file, with the columns that were decoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) file: usize,
    pub(super) slice: usize,
    pub(super) columns: Vec<usize>,
}

#[derive(Debug, Default)]
struct Entry {
    /// Threads that want the same slice wait here for the one that decodes it.
    batch: Arc<Mutex<Option<RecordBatch>>>,
    bytes: usize,
    used: u64,
}

impl Cache {
    /// A name for a file's slices.
    pub(super) fn new_file(&self) -> usize {
        let mut kept = self.lock();
        kept.n_files += 1;
        kept.n_files
    }

    /// The slice, decoded by `decode` unless it is kept.
    pub(super) fn get(
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
