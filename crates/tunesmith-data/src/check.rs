//! One pass over all rows that finds every malformed one, and what is odd about the others: each kind once in full,
//! all of them counted.

use crate::diagnostic::{Diagnostic, Level, kebab};
use crate::facts::{Facts, NOTES};
use crate::{DataError, Dataset, Fault, RowError};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::fmt;
use tunesmith_tokens::Encoder;

/// Rows looked at together: their facts are all that is held of them.
pub(crate) const BLOCK: u64 = 4096;
/// Kinds of errors that are told apart, at most: a file may spell a new role in every row.
const MAX_KINDS: usize = 1000;
/// Rows named in a line of the summary.
const NAMED: usize = 3;

/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// Rows read.
    pub rows: u64,
    /// How many of them are malformed.
    pub n_errors: u64,
    /// The first error of each kind, in the order of rows.
    pub errors: Vec<DataError>,
    /// How many rows have the same fault at the same place, by both: `wrong type /messages/*/content`.
    pub alike: BTreeMap<String, Alike>,
    /// How many rows are odd in the same way, by the oddity's name.
    pub notes: BTreeMap<&'static str, Alike>,
}

/// Rows that have something in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alike {
    /// How many.
    pub count: u64,
    /// The first few.
    pub first: Vec<u64>,
}

impl Alike {
    pub(crate) fn add(&mut self, row: u64) {
        self.count += 1;
        if self.first.len() < NAMED {
            self.first.push(row);
        }
    }
}

impl fmt::Display for Alike {
    /// `3, 13, 23, …`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<_> = self.first.iter().map(u64::to_string).collect();
        let more = if self.count as usize > rows.len() { ", …" } else { "" };
        write!(f, "{}{more}", rows.join(", "))
    }
}

impl Dataset {
    /// Reads every row, and encodes it where an encoder is given; keeps the first error of at most `limit` kinds.
    pub fn check(&self, limit: usize, encoder: Option<&Encoder>) -> CheckReport {
        let mut report = CheckReport::new(limit);
        self.look(encoder, |row, facts| report.add(limit, row, facts));
        report
    }

    /// Rows of each class, by its number: those whose label is one below `limit`. A malformed row has none.
    pub fn classes(&self, limit: u32) -> Vec<u64> {
        let mut counts = Vec::new();
        self.look(None, |_, facts| {
            let label = facts.label.filter(|label| label.fract() == 0.0);
            if let Some(label) = label.filter(|label| (0.0..limit as f32).contains(label)) {
                let class = label as usize;
                counts.resize(counts.len().max(class + 1), 0);
                counts[class] += 1;
            }
            true
        });
        counts
    }

    /// The facts of all rows in order, as long as `take` wants more.
    pub(crate) fn look(&self, encoder: Option<&Encoder>, mut take: impl FnMut(u64, Facts) -> bool) {
        let mut start = 0;
        while start < self.len() {
            let end = (start + BLOCK).min(self.len());
            let block = (start..end).into_par_iter();
            let facts: Vec<Facts> = block.map(|row| Facts::of(self, row, encoder)).collect();
            for (row, facts) in (start..end).zip(facts) {
                if !take(row, facts) {
                    return;
                }
            }
            start = end;
        }
    }
}

impl CheckReport {
    pub(crate) fn new(limit: usize) -> Self {
        let errors = Vec::with_capacity(limit.min(64));
        Self { rows: 0, n_errors: 0, errors, alike: BTreeMap::new(), notes: BTreeMap::new() }
    }

    /// Counts a row; whether the next one is worth looking at.
    pub(crate) fn add(&mut self, limit: usize, row: u64, facts: Facts) -> bool {
        self.rows += 1;
        for (bit, (name, _)) in NOTES.iter().enumerate() {
            if facts.notes >> bit & 1 == 1 {
                self.notes.entry(name).or_default().add(row);
            }
        }
        let Some(error) = facts.error else { return true };
        self.n_errors += 1;
        let DataError::Row(row_error) = &error else {
            self.errors.push(error);
            return false; // a file that cannot be read fails alike on each of its rows
        };
        let mut kind = kind(row_error);
        if self.alike.len() >= MAX_KINDS && !self.alike.contains_key(&kind) {
            kind = row_error.fault.code().to_owned();
        }
        let alike = self.alike.entry(kind).or_default();
        alike.add(row);
        if alike.count == 1 && self.errors.len() < limit {
            self.errors.push(error);
        }
        true
    }

    /// Whether every row is sound.
    pub fn is_sound(&self) -> bool {
        self.n_errors == 0
    }

    /// All of it for programs: the errors, then the notes.
    pub fn diagnostics(&self) -> Vec<Diagnostic> {
        let errors = self.errors.iter().map(|error| {
            let alike = self.alike_of(error).cloned().unwrap_or_default();
            let counted = (alike.count > 0).then_some(alike.count);
            Diagnostic { alike: counted, rows: alike.first, ..error.into() }
        });
        let notes = self.notes.iter().map(|(name, alike)| Diagnostic {
            level: Level::Note,
            code: kebab(name),
            message: meaning(name).to_owned(),
            file: None,
            row: alike.first.first().copied(),
            line: None,
            pointer: None,
            alike: Some(alike.count),
            rows: alike.first.clone(),
            help: None,
        });
        errors.chain(notes).collect()
    }

    fn alike_of(&self, error: &DataError) -> Option<&Alike> {
        match error {
            DataError::Row(row) => self.alike.get(&kind(row)),
            _ => None,
        }
    }
}

/// What rows that are alike have in common: the fault, its place with `*` for the number of a message, and the role where
/// that is the fault, because each is mapped on its own.
fn kind(error: &RowError) -> String {
    let is_number = |step: &str| !step.is_empty() && step.bytes().all(|byte| byte.is_ascii_digit());
    let step = |step| if is_number(step) { "*" } else { step };
    let place: Vec<&str> = error.pointer.split('/').map(step).collect();
    let role = match &error.fault {
        Fault::UnknownRole { role } => role.chars().take(40).collect(),
        _ => String::new(),
    };
    format!("{} {} {role}", error.fault.code(), place.join("/")).trim_end().to_owned()
}

fn meaning(note: &str) -> &'static str {
    NOTES.iter().find(|(name, _)| *name == note).map_or("", |(_, meaning)| meaning)
}

impl fmt::Display for CheckReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            let text = error.to_string();
            let (message, help) = match text.split_once("\nhelp: ") {
                Some((message, help)) => (message, Some(help)),
                None => (text.as_str(), None),
            };
            writeln!(f, "error[{}]: {message}", error.code())?;
            if let Some(alike) = self.alike_of(error).filter(|alike| alike.count > 1) {
                writeln!(f, "  {} rows like this: {alike}", alike.count)?;
            }
            if let Some(help) = help {
                writeln!(f, "help: {help}")?;
            }
        }
        let shown = |name: &str| {
            self.errors.iter().any(|e| matches!(e, DataError::Row(row) if kind(row) == name))
        };
        for (name, alike) in self.alike.iter().filter(|(name, _)| !shown(name)) {
            writeln!(f, "error: {name}\n  {} rows like this: {alike}", alike.count)?;
        }
        for (name, alike) in &self.notes {
            writeln!(f, "note[{}]: {}", kebab(name), meaning(name))?;
            let rows = if alike.count == 1 { "row" } else { "rows" };
            writeln!(f, "  {} {rows}: {alike}", alike.count)?;
        }
        write!(f, "{} of {} rows are malformed", self.n_errors, self.rows)
    }
}
