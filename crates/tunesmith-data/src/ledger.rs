//! The account of every input row: trained, truncated or dropped, and why. It sums to the rows of the data set.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use tunesmith_tokens::{Cursor, Example};

/// What became of each row in the first pass; later passes repeat it and are not counted.
///
/// It is what the consumed batches make it, whatever was prefetched, and small enough to stand in a checkpoint:
/// [`Stream::restore`](crate::Stream::restore) takes it back.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Ledger {
    /// Rows of an epoch: those of the data set, each as often as its weight says.
    pub rows: u64,
    /// Rows trained whole.
    pub trained: u64,
    /// Rows trained without their end.
    pub truncated: u64,
    /// Rows that gave nothing, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Rows that the run has not come to.
    pub unread: u64,
    /// Tokens of the trained and truncated rows.
    pub tokens: u64,
    /// Those of them that give a loss.
    pub trained_tokens: u64,
    /// Tokens that truncation cut off.
    pub truncated_tokens: u64,
    /// Everything before this point is counted.
    pub upto: Cursor,
}

/// The fate of one row, or of a further piece of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It is in a pack. A further `piece` of a row adds its tokens, and the row has been counted.
    Packed { tokens: u64, trained: u64, truncated: u64, piece: u32 },
    /// It is not, for this reason.
    Dropped(&'static str),
}

impl Fate {
    /// The fates of what stands in a pack: one per group of examples.
    pub(crate) fn of(pack: &[Example]) -> impl Iterator<Item = Self> {
        let sum = |group: &[Example], of: fn(&Example) -> u64| group.iter().map(of).sum();
        Example::groups(pack).map(move |group| Self::Packed {
            tokens: sum(group, |example| example.len() as u64),
            trained: sum(group, |example| example.n_trained() as u64),
            truncated: sum(group, |example| example.truncated.into()),
            piece: group[0].piece,
        })
    }
}

impl Ledger {
    /// The empty account of a data set of `rows` rows.
    pub fn new(rows: u64) -> Self {
        Self { rows, unread: rows, ..Self::default() }
    }

    /// Rows dropped, whatever the reason.
    pub fn n_dropped(&self) -> u64 {
        self.dropped.values().sum()
    }

    pub(crate) fn count(&mut self, fate: Fate) {
        match fate {
            Fate::Packed { tokens, trained, truncated, piece } => {
                if piece == 0 {
                    self.unread = self.unread.saturating_sub(1);
                    *(if truncated > 0 { &mut self.truncated } else { &mut self.trained }) += 1;
                }
                self.tokens += tokens;
                self.trained_tokens += trained;
                self.truncated_tokens += truncated;
            }
            Fate::Dropped(reason) => {
                self.unread = self.unread.saturating_sub(1);
                match self.dropped.get_mut(reason) {
                    Some(count) => *count += 1,
                    None => _ = self.dropped.insert(reason.to_owned(), 1),
                }
            }
        }
    }
}

impl std::fmt::Display for Ledger {
    /// One line: `10604 rows: 9000 trained, 1500 truncated (81234 tokens cut), 4 dropped (no trained token: 4), 100 unread`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows: {} trained", self.rows, self.trained)?;
        write!(f, ", {} truncated", self.truncated)?;
        if self.truncated > 0 {
            write!(f, " ({} tokens cut)", self.truncated_tokens)?;
        }
        write!(f, ", {} dropped", self.n_dropped())?;
        if !self.dropped.is_empty() {
            let reasons: Vec<_> =
                self.dropped.iter().map(|(reason, count)| format!("{reason}: {count}")).collect();
            write!(f, " ({})", reasons.join(", "))?;
        }
        if self.unread > 0 { write!(f, ", {} unread", self.unread) } else { Ok(()) }
    }
}
