//! In which order an epoch reads its rows: a pure function of (seed, epoch, number of rows).
//!
//! # Why not one permutation of everything
//! A data set may be larger than memory and compressed in row groups, where reading rows at random costs a
//! decompression each. So chunks of 4,096 consecutive rows are permuted, 8 chunks at a time form a pool, and each pool
//! is permuted fully. A reader holds one pool (256 MiB at 8 KB a row); up to 32,768 rows the shuffle is a full one. The
//! price: rows of the same chunk stay within one pool's length of each other in larger data sets.

use crate::rng::Rng;
use std::ops::Range;

const CHUNK: u64 = 4096;
const CHUNKS_PER_POOL: u64 = 8;
const POOL: u64 = CHUNK * CHUNKS_PER_POOL;

/// The order of one epoch.
#[derive(Debug)]
pub(crate) struct Order {
    seed: u64,
    epoch: u64,
    n_rows: u64,
    /// Chunk indices in the order of reading; empty where rows are read as they stand in the files.
    chunks: Vec<u64>,
    /// The pool that was asked for last, with its index.
    pool: Option<(u64, Vec<u64>)>,
}

impl Order {
    /// The shuffled order of `epoch`.
    pub(crate) fn shuffled(seed: u64, epoch: u64, n_rows: u64) -> Self {
        let mut chunks: Vec<u64> = (0..n_rows.div_ceil(CHUNK)).collect();
        Rng::new(seed, "chunks", epoch, 0).shuffle(&mut chunks);
        Self { seed, epoch, n_rows, chunks, pool: None }
    }

    /// The order of the files.
    pub(crate) fn sequential(n_rows: u64) -> Self {
        Self { seed: 0, epoch: 0, n_rows, chunks: Vec::new(), pool: None }
    }

    /// The rows at `positions` of this order; positions past the end are left out.
    pub(crate) fn rows(&mut self, positions: Range<u64>) -> Vec<u64> {
        let positions = positions.start.min(self.n_rows)..positions.end.min(self.n_rows);
        if self.chunks.is_empty() {
            return positions.collect();
        }
        let mut rows = Vec::with_capacity((positions.end - positions.start) as usize);
        let mut at = positions.start;
        while at < positions.end {
            let pool = self.pool_of(at);
            let start = self.pool_start(pool);
            let members = self.pool(pool);
            let from = (at - start) as usize;
            let to = ((positions.end - start) as usize).min(members.len());
            rows.extend_from_slice(&members[from..to]);
            at = start + to as u64;
        }
        rows
    }

    /// Which pool a position lies in. The short last chunk may stand in any pool and shifts all later ones forward.
    fn pool_of(&self, position: u64) -> u64 {
        let guess = position / POOL;
        if position >= self.pool_start(guess + 1) { guess + 1 } else { guess }
    }

    fn pool_start(&self, pool: u64) -> u64 {
        let n_chunks = self.chunks.len() as u64;
        let before = (pool * CHUNKS_PER_POOL).min(n_chunks);
        let missing = n_chunks * CHUNK - self.n_rows; // what the last chunk lacks
        let has_short = self.chunks[..before as usize].contains(&(n_chunks - 1));
        before * CHUNK - if has_short { missing } else { 0 }
    }

    fn pool(&mut self, pool: u64) -> &[u64] {
        if self.pool.as_ref().is_none_or(|(cached, _)| *cached != pool) {
            let first = (pool * CHUNKS_PER_POOL) as usize;
            let last = (first + CHUNKS_PER_POOL as usize).min(self.chunks.len());
            let rows = |&chunk: &u64| chunk * CHUNK..((chunk + 1) * CHUNK).min(self.n_rows);
            let mut members: Vec<u64> = self.chunks[first..last].iter().flat_map(rows).collect();
            Rng::new(self.seed, "rows", self.epoch, pool).shuffle(&mut members);
            self.pool = Some((pool, members));
        }
        self.pool.as_ref().map_or(&[], |(_, members)| members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_comes_exactly_once_whatever_the_window() {
        for n in [0, 1, 5, 4096, 4097, 32_768, 32_769, 200_000, 3 * POOL + 17] {
            let whole = Order::shuffled(3, 1, n).rows(0..n);
            let mut sorted = whole.clone();
            sorted.sort_unstable();
            assert_eq!(sorted, (0..n).collect::<Vec<_>>(), "{n} rows");
            let window = 1000.max(n / 20);
            let windows = (0..n.div_ceil(window)).map(|w| w * window..((w + 1) * window).min(n));
            let mut order = Order::shuffled(3, 1, n);
            let forward: Vec<u64> = windows.clone().flat_map(|rows| order.rows(rows)).collect();
            assert_eq!(forward, whole, "{n} rows");
            for rows in windows.rev() {
                let alone = Order::shuffled(3, 1, n).rows(rows.clone());
                assert_eq!(alone, whole[rows.start as usize..rows.end as usize], "{n} rows");
            }
            assert!(Order::shuffled(3, 1, n).rows(n..n + 5).is_empty());
        }
    }

    #[test]
    fn seeds_and_epochs_differ() {
        let order = |seed, epoch| Order::shuffled(seed, epoch, 1000).rows(0..1000);
        assert_eq!(order(1, 0), order(1, 0));
        assert_ne!(order(1, 0), order(1, 1));
        assert_ne!(order(1, 0), order(2, 0));
    }

    #[test]
    fn a_small_set_is_shuffled_fully() {
        // the mean distance between a row and its place is n/3 in a uniform permutation
        let rows = Order::shuffled(0, 0, 30_000).rows(0..30_000);
        let moved: u64 =
            rows.iter().enumerate().map(|(place, &row)| row.abs_diff(place as u64)).sum();
        let mean = moved as f64 / 30_000.0;
        assert!((mean - 10_000.0).abs() < 200.0, "{mean}");
    }

    #[test]
    fn the_order_is_this_one() {
        // Made by tunesmith itself: a changed value means that old checkpoints no longer resume on the same rows.
        assert_eq!(Order::shuffled(42, 0, 10).rows(0..10), [8, 4, 3, 1, 5, 0, 9, 6, 2, 7]);
    }
}
