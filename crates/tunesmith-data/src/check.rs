//! One pass over all rows that finds every malformed one: the first few in full, all of them counted.

use crate::{DataError, Dataset};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use tunesmith_tokens::Encoder;

const BLOCK: u64 = 8192;
/// Rows named in a line of the summary.
const NAMED: usize = 3;

/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// Rows read.
    pub rows: u64,
    /// How many of them are malformed.
    pub n_errors: u64,
    /// The first ones, in the order of rows.
    pub errors: Vec<DataError>,
    /// How many rows have the same fault, and the first few of them.
    pub alike: BTreeMap<&'static str, (u64, Vec<u64>)>,
}

impl Dataset {
    /// Reads every row, and encodes it where an encoder is given; keeps at most `limit` errors.
    pub fn check(&self, limit: usize, encoder: Option<&Encoder>) -> CheckReport {
        let mut report =
            CheckReport { rows: 0, n_errors: 0, errors: Vec::new(), alike: BTreeMap::new() };
        while report.rows < self.len() {
            let block = report.rows..(report.rows + BLOCK).min(self.len());
            let read = |row| match encoder {
                Some(encoder) => self.row_examples(row, encoder).err(),
                None => self.sample(row).err(),
            };
            report.rows = block.end;
            let errors: Vec<DataError> = block.into_par_iter().filter_map(read).collect();
            for error in errors {
                report.n_errors += 1;
                let is_row = match &error {
                    DataError::Row(row) => {
                        let (count, rows) = report.alike.entry(row.fault.code()).or_default();
                        *count += 1;
                        if rows.len() < NAMED {
                            rows.push(row.place.row);
                        }
                        true
                    }
                    _ => false,
                };
                if report.errors.len() < limit || !is_row {
                    report.errors.push(error);
                }
                if !is_row {
                    return report; // a file that cannot be read fails alike on each of its rows
                }
            }
        }
        report
    }
}

impl CheckReport {
    /// Whether every row is sound.
    pub fn is_sound(&self) -> bool {
        self.n_errors == 0
    }
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "error: {error}")?;
        }
        for (code, (count, rows)) in &self.alike {
            let named: Vec<_> = rows.iter().map(u64::to_string).collect();
            let more = if *count as usize > rows.len() { ", …" } else { "" };
            writeln!(f, "{count} × {code}: rows {}{more}", named.join(", "))?;
        }
        write!(f, "{} of {} rows are malformed", self.n_errors, self.rows)
    }
}
