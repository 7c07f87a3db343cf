//! Several sources in one epoch, each as often as its weight says.
//!
//! An epoch consists of draws. A part of n rows with weight w gives round(w·n) of them: each row ⌊w⌋ times, and for the
//! rest of the weight one row out of every stretch of n/m consecutive ones (m draws), another one in each epoch until
//! all of them had their turn. Weight 2 means twice per epoch, weight 0.1 every row once in ten epochs.
//!
//! The draws of all parts are laid side by side in pieces of 256, spread evenly over the epoch: a small part occurs
//! everywhere in it, and neighbouring rows stay neighbours, as files that are decoded in slices need it. The shuffle
//! comes on top. Everything is a pure function of (seed, epoch, index).

use crate::rng::Rng;
use std::ops::Range;

const PIECE: u64 = 256;

/// The layout of an epoch.
#[derive(Debug)]
pub(crate) struct Mix {
    parts: Vec<Share>,
    /// In the order of the epoch.
    pieces: Vec<Piece>,
    len: u64,
}

/// What a part contributes.
#[derive(Debug)]
struct Share {
    rows: Range<u64>,
    /// Draws that take whole turns through the rows.
    whole: u64,
    /// Draws of one row out of each stretch.
    sampled: u64,
}

#[derive(Debug)]
struct Piece {
    /// The index of its first draw in the epoch.
    start: u64,
    part: usize,
    /// The number of its first draw within the part.
    first: u64,
}

impl Mix {
    /// The layout for parts with these rows and weights.
    pub(crate) fn new(parts: impl IntoIterator<Item = (Range<u64>, f64)>) -> Self {
        let share = |(rows, weight): (Range<u64>, f64)| {
            let n = rows.end - rows.start;
            let whole = n * weight.floor() as u64;
            let sampled = ((n as f64 * weight.fract()).round() as u64).min(n);
            Share { rows, whole, sampled }
        };
        let parts: Vec<Share> = parts.into_iter().map(share).collect();
        // A piece's place: the middle of its own share of the epoch.
        let mut places = Vec::new();
        for (part, share) in parts.iter().enumerate() {
            let pieces = share.draws().div_ceil(PIECE);
            places.extend((0..pieces).map(|i| ((2 * i + 1) as f64 / (2 * pieces) as f64, part, i)));
        }
        places.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then((a.1, a.2).cmp(&(b.1, b.2))));
        let mut len = 0;
        let pieces = places.into_iter().map(|(_, part, i)| {
            let piece = Piece { start: len, part, first: i * PIECE };
            len += PIECE.min(parts[part].draws() - piece.first);
            piece
        });
        let pieces = pieces.collect();
        Self { parts, pieces, len }
    }

    /// Draws of an epoch.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// The row that a draw of an epoch takes.
    pub(crate) fn row(&self, seed: u64, epoch: u64, draw: u64) -> u64 {
        let piece = self.pieces.partition_point(|piece| piece.start <= draw).saturating_sub(1);
        let piece = &self.pieces[piece];
        let share = &self.parts[piece.part];
        let n = share.rows.end - share.rows.start;
        let draw = piece.first + (draw - piece.start);
        let local = if draw < share.whole {
            draw % n
        } else {
            let (j, m) = (draw - share.whole, share.sampled);
            let place = |j: u64| (u128::from(j) * u128::from(n) / u128::from(m)) as u64;
            let stretch = place(j)..place(j + 1);
            let width = stretch.end - stretch.start;
            // the same turn for a stretch in all epochs, begun at another place
            let begin = Rng::new(seed, "mix", piece.part as u64, j).below(width);
            stretch.start + (begin + epoch) % width
        };
        share.rows.start + local
    }
}

impl Share {
    fn draws(&self) -> u64 {
        self.whole + self.sampled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn epoch(mix: &Mix, seed: u64, epoch: u64) -> Vec<u64> {
        (0..mix.len()).map(|draw| mix.row(seed, epoch, draw)).collect()
    }

    #[test]
    fn each_part_comes_as_often_as_its_weight_says() {
        let mix =
            Mix::new([(0..1000, 1.0), (1000..1300, 2.5), (1300..6300, 0.25), (6300..6310, 0.0)]);
        assert_eq!(mix.len(), 1000 + 750 + 1250);
        let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
        epoch(&mix, 3, 0).into_iter().for_each(|row| *counts.entry(row).or_default() += 1);
        assert!((0..1000).all(|row| counts[&row] == 1));
        assert!((1000..1300).all(|row| (2..=3).contains(&counts[&row])));
        assert_eq!((1000..1300).map(|row| counts[&row]).sum::<u64>(), 750);
        assert_eq!(counts.range(1300..6300).map(|(_, n)| n).sum::<u64>(), 1250);
        assert!(counts.range(1300..6300).all(|(_, &n)| n == 1), "no row twice");
        assert!(counts.range(6300..).next().is_none());
    }

    #[test]
    fn a_quarter_of_the_rows_per_epoch_is_all_of_them_in_four() {
        let mix = Mix::new([(0..5000, 0.25)]);
        let seen: BTreeSet<u64> = (0..4).flat_map(|e| epoch(&mix, 7, e)).collect();
        assert_eq!(seen.len(), 5000);
        assert_ne!(epoch(&mix, 7, 0), epoch(&mix, 8, 0));
    }

    #[test]
    fn a_small_part_occurs_everywhere() {
        let mix = Mix::new([(0..100_000, 1.0), (100_000..102_560, 1.0)]);
        let draws = epoch(&mix, 0, 0);
        for tenth in draws.chunks(draws.len().div_ceil(10)) {
            let small = tenth.iter().filter(|&&row| row >= 100_000).count();
            assert!((200..=320).contains(&small), "{small}");
        }
    }
}
