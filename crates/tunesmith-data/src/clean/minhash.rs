//! Near duplicates by MinHash and locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, *Mining of
//! Massive Datasets*, chapter 3).
//!
//! A text is the set of its runs of five words. The least of these under a random order is the same for two texts with
//! probability J, the Jaccard index of their sets. 16 bands of 5 such numbers are compared: two texts meet in a band with
//! probability 1 − (1 − J⁵)¹⁶, which is 0.9983 at J = 0.8 and 0.05 at J = 0.3. Whoever meets is then compared exactly, so
//! that no row is left out by chance.

use crate::rng::mix;
use std::collections::{HashMap, HashSet};

const WORDS: usize = 5;
const BANDS: usize = 16;
const ROWS: usize = 5;
/// Rows of a bucket that a new one is compared with: texts that all look alike must not cost the square of their number.
const MAX_BUCKET: usize = 64;

/// The bands of a text.
#[derive(Debug)]
pub(super) struct Signature([u64; BANDS]);

impl Signature {
    pub(super) fn of(text: &str) -> Self {
        let mut least = [u64::MAX; BANDS * ROWS];
        for shingle in shingles(text) {
            for (i, least) in least.iter_mut().enumerate() {
                *least = (*least).min(mix(shingle ^ SALTS[i]));
            }
        }
        let mut bands = [0; BANDS];
        for (band, rows) in bands.iter_mut().zip(least.chunks(ROWS)) {
            *band = rows.iter().fold(0, |name, &row| mix(name ^ row));
        }
        Self(bands)
    }
}

/// The rows kept so far, by band.
#[derive(Debug, Default)]
pub(super) struct Buckets(HashMap<(u8, u64), Vec<u64>>);

impl Buckets {
    /// Rows that share a band with the signature, in their order.
    pub(super) fn candidates(&self, signature: &Signature) -> Vec<u64> {
        let rows = (0..).zip(&signature.0).filter_map(|(band, &name)| self.0.get(&(band, name)));
        let mut rows: Vec<u64> = rows.flatten().copied().collect();
        rows.sort_unstable();
        rows.dedup();
        rows
    }

    pub(super) fn keep(&mut self, row: u64, signature: &Signature) {
        for (band, &name) in (0..).zip(&signature.0) {
            let bucket = self.0.entry((band, name)).or_default();
            if bucket.len() < MAX_BUCKET {
                bucket.push(row);
            }
        }
    }
}

/// The part of all elements that both sets have; 1 of two empty sets.
pub(super) fn jaccard(a: &HashSet<u64>, b: &HashSet<u64>) -> f64 {
    let both = a.intersection(b).count();
    let all = a.len() + b.len() - both;
    if all == 0 { 1.0 } else { both as f64 / all as f64 }
}

/// The runs of five words of a text, as numbers; of a shorter text the whole.
pub(super) fn shingles(text: &str) -> impl Iterator<Item = u64> {
    let words: Vec<u64> = super::ngrams::words(text).collect();
    let n = words.len().saturating_sub(WORDS - 1).max(usize::from(!words.is_empty()));
    (0..n).map(move |i| super::ngrams::run(&words[i..(i + WORDS).min(words.len())]))
}

/// Each makes an order of its own.
const SALTS: [u64; BANDS * ROWS] = {
    let mut salts = [0; BANDS * ROWS];
    let mut i = 0;
    while i < salts.len() {
        salts[i] = mix((i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        i += 1;
    }
    salts
};
