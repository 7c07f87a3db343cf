//! What a data set is like once it is tokens: how long its rows are, how much of them is trained, what repeats itself.

use crate::check::CheckReport;
use crate::{DataError, Dataset};
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use tunesmith_tokens::{Encoder, pack};

/// Rows that are packed together, as a stream does it.
const WINDOW: usize = 1024;
/// Classes counted one by one; a label of more values is a score.
const MAX_CLASSES: usize = 1000;

/// The statistics of a data set.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    /// Rows of the data set.
    pub rows: u64,
    /// Rows that cannot be read or encoded.
    pub malformed: u64,
    /// Tokens of a row.
    pub tokens: Histogram,
    /// Trained tokens of a row.
    pub trained: Histogram,
    /// Turns of a row; empty where rows are no conversations.
    pub turns: Histogram,
    /// Rows that were cut off, and the tokens they lost.
    pub truncated: (u64, u64),
    /// Rows that repeat an earlier row word for word.
    pub duplicates: u64,
    /// Labels and how often each occurs; empty where rows have none or more than a thousand of them.
    pub labels: BTreeMap<String, u64>,
    /// Of the packs that a run would train on: how many there are, and the share of their capacity that is tokens.
    pub packs: Option<(u64, f64)>,
    /// What else is odd, and how many rows are.
    pub notes: BTreeMap<&'static str, u64>,
}

impl Dataset {
    /// One pass over all rows. `seq_len`: the capacity of a pack. The report holds at most `limit` kinds of errors.
    ///
    /// # Errors
    /// A file that cannot be read any more; malformed rows are counted.
    pub fn stats(
        &self,
        encoder: &Encoder,
        seq_len: Option<usize>,
        limit: usize,
    ) -> Result<(Stats, CheckReport), DataError> {
        let mut check = CheckReport::new(limit);
        let mut stats = Stats::default();
        let (mut seen, mut labels) = (HashMap::new(), BTreeMap::new());
        let mut packing = Packing::new(seq_len);
        self.look(Some(encoder), |row, facts| {
            stats.rows += 1;
            if facts.error.is_none() {
                stats.tokens.add(facts.tokens);
                stats.trained.add(facts.trained);
                if facts.turns > 0 {
                    stats.turns.add(facts.turns);
                }
                stats.truncated.0 += u64::from(facts.truncated > 0);
                stats.truncated.1 += u64::from(facts.truncated);
                stats.duplicates += u64::from(seen.insert(facts.hash, ()).is_some());
                if let Some(label) = facts.label.filter(|_| labels.len() <= MAX_CLASSES) {
                    *labels.entry(label.to_string()).or_default() += 1;
                }
                packing.add(&facts.groups);
            }
            check.add(limit, row, facts)
        });
        if let Some(place) = check.errors.iter().position(|e| !matches!(e, DataError::Row(_))) {
            return Err(check.errors.swap_remove(place));
        }
        stats.malformed = check.n_errors;
        stats.labels = if labels.len() <= MAX_CLASSES { labels } else { BTreeMap::new() };
        stats.packs = packing.finish();
        stats.notes = check.notes.iter().map(|(name, alike)| (*name, alike.count)).collect();
        Ok((stats, check))
    }
}

/// How a run in the order of the files would pack the rows.
struct Packing {
    seq_len: Option<usize>,
    window: Vec<usize>,
    rows: usize,
    packs: u64,
    tokens: u64,
}

impl Packing {
    fn new(seq_len: Option<usize>) -> Self {
        Self { seq_len, window: Vec::new(), rows: 0, packs: 0, tokens: 0 }
    }

    fn add(&mut self, groups: &[u32]) {
        self.window.extend(groups.iter().map(|&tokens| tokens as usize));
        self.rows += 1;
        if self.rows == WINDOW {
            self.pack();
        }
    }

    fn pack(&mut self) {
        let Some(seq_len) = self.seq_len else { return self.window.clear() };
        self.packs += pack::best_fit(&self.window, seq_len).len() as u64;
        self.tokens += self.window.drain(..).map(|tokens| tokens.min(seq_len) as u64).sum::<u64>();
        self.rows = 0;
    }

    fn finish(mut self) -> Option<(u64, f64)> {
        self.pack();
        let capacity = self.packs as f64 * self.seq_len? as f64;
        (self.packs > 0).then(|| (self.packs, self.tokens as f64 / capacity))
    }
}

/// How often each number occurs, to 1.6 % above 128 and exactly below.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Histogram {
    /// The lower end of each bucket that is not empty, and how many numbers fell into it.
    pub counts: BTreeMap<u32, u64>,
    /// How many numbers there are.
    pub n: u64,
    /// Their sum.
    pub sum: u64,
    /// The largest.
    pub max: u32,
}

impl Histogram {
    pub(crate) fn add(&mut self, number: u32) {
        let shift = (u32::BITS - number.leading_zeros()).saturating_sub(7);
        *self.counts.entry(number >> shift << shift).or_default() += 1;
        self.n += 1;
        self.sum += u64::from(number);
        self.max = self.max.max(number);
    }

    /// The mean; 0 of no numbers.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.n.max(1) as f64
    }

    /// The number below which this share of all lies (0.5: the median).
    pub fn quantile(&self, share: f64) -> u32 {
        let wanted = ((self.n as f64 * share) as u64).min(self.n.saturating_sub(1));
        let mut before = 0;
        for (&bucket, &count) in &self.counts {
            before += count;
            if before > wanted {
                return bucket;
            }
        }
        self.max
    }

    /// The same in at most `n` bars of equal width from 0: the lower end of each and what fell into it.
    pub fn bars(&self, n: u32) -> Vec<(u32, u64)> {
        // a width that is one, two or five times a power of ten
        let mut width: u32 = 1;
        while u64::from(width) * u64::from(n) <= u64::from(self.max) {
            let leading = width / 10_u32.pow(width.ilog10());
            width = if leading == 2 { width / 2 * 5 } else { width * 2 };
        }
        let mut bars: Vec<(u32, u64)> =
            (0..=self.max / width).map(|bar| (bar * width, 0)).collect();
        for (bucket, count) in &self.counts {
            bars[(bucket / width) as usize].1 += count;
        }
        bars
    }
}

impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "rows        {} ({} malformed)", self.rows, self.malformed)?;
        let share = 100.0 * self.trained.sum as f64 / self.tokens.sum.max(1) as f64;
        writeln!(f, "tokens      {}, {share:.1} % of them trained", self.tokens.sum)?;
        let (cut, lost) = self.truncated;
        writeln!(f, "truncated   {cut} rows, {lost} tokens lost")?;
        writeln!(f, "duplicates  {} rows repeat an earlier one", self.duplicates)?;
        if let Some((packs, share)) = self.packs {
            writeln!(
                f,
                "packs       {packs}, {:.2} % of their capacity are tokens",
                100.0 * share
            )?;
        }
        writeln!(
            f,
            "\n{:<12}{:>9}{:>9}{:>9}{:>9}{:>9}{:>9}",
            "per row", "mean", "10 %", "50 %", "90 %", "99 %", "max"
        )?;
        let rows = [("tokens", &self.tokens), ("trained", &self.trained), ("turns", &self.turns)];
        for (name, histogram) in rows.into_iter().filter(|(_, histogram)| histogram.n > 0) {
            write!(f, "{name:<12}{:>9.1}", histogram.mean())?;
            for share in [0.1, 0.5, 0.9, 0.99] {
                write!(f, "{:>9}", histogram.quantile(share))?;
            }
            writeln!(f, "{:>9}", histogram.max)?;
        }
        if self.tokens.n > 0 {
            writeln!(f, "\ntokens")?;
            let bars = self.tokens.bars(20);
            let most = bars.iter().map(|(_, count)| *count).max().unwrap_or(1).max(1);
            for (start, count) in bars {
                let length = (count * 50).div_ceil(most) as usize;
                writeln!(f, "{start:>8} {:<50} {count}", "█".repeat(length))?;
            }
        }
        for (label, count) in &self.labels {
            writeln!(f, "label {label:<8} {count}")?;
        }
        for (note, count) in &self.notes {
            writeln!(f, "{note}: {count} rows")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_knows_its_quantiles_and_its_bars() {
        let mut histogram = Histogram::default();
        (0..10_000).for_each(|i| histogram.add(i));
        assert_eq!((histogram.n, histogram.max, histogram.mean()), (10_000, 9999, 4999.5));
        for share in [0.01, 0.1, 0.5, 0.9, 0.99] {
            let (found, exact) = (f64::from(histogram.quantile(share)), 10_000.0 * share);
            assert!((found - exact).abs() <= exact / 60.0 + 1.0, "{share}: {found}");
        }
        let bars = histogram.bars(20);
        assert_eq!((bars.len(), bars[1].0), (20, 500));
        assert_eq!(bars.iter().map(|(_, count)| count).sum::<u64>(), 10_000);
        let small = [3, 3, 4].into_iter().fold(Histogram::default(), |mut h, n| {
            h.add(n);
            h
        });
        assert_eq!(small.bars(20), [(0, 0), (1, 0), (2, 0), (3, 2), (4, 1)]);
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
