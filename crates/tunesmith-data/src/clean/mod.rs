//! What should not be trained: repetitions, the evaluation's own questions, noise, secrets. Each step tells which rows
//! it takes and why; a stream then leaves them out, and its ledger counts them by step.
//!
//! | step | a row goes where | its word in the ledger |
//! |---|---|---|
//! | exact duplicates | an earlier row says the same, word for word | `duplicate` |
//! | near duplicates | an earlier row shares at least this part (Jaccard) of its five-word runs | `near duplicate` |
//! | decontamination | it shares thirteen words in a row with an evaluation row | `contaminated` |
//! | length | it has fewer or more characters than allowed | `too short`, `too long` |
//! | quality | too few letters, or too much of it repeats itself | `few letters`, `repetitive` |
//! | secrets | it holds keys, cards, addresses (counted by kind; left out only where that is asked) | `secret` |
//!
//! Of repetitions the first row stays. The result is a pure function of the files and the settings: threads only
//! compute what is then compared in the order of the rows.

mod minhash;
mod ngrams;
mod quality;
mod secrets;

use crate::check::{Alike, BLOCK};
use crate::facts::hash;
use crate::{DataError, Dataset, RowKnobs};
use minhash::{Buckets, Signature};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::path::PathBuf;
use tunesmith_tokens::Sample;

/// Which steps are taken. None by default.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CleanKnobs {
    /// Leave out rows that repeat an earlier one word for word.
    pub duplicates: bool,
    /// Leave out rows that share at least this part of their five-word runs with an earlier one: 0.8.
    pub near_duplicates: Option<f64>,
    /// Characters of a row at least.
    pub min_chars: Option<usize>,
    /// Characters of a row at most.
    pub max_chars: Option<usize>,
    /// The part of a row's characters, without spaces, that are letters or digits of any script, at least: 0.5.
    pub min_letters: Option<f64>,
    /// The part of a row's lines, or of its five-word runs, that repeat earlier ones of it, at most: 0.3.
    pub max_repetition: Option<f64>,
    /// Leave out rows with secrets; else they are counted only.
    pub drop_secrets: bool,
    /// Files, folders and patterns of rows that a model is evaluated on: no row may hold theirs.
    pub against: Vec<PathBuf>,
}

/// What cleaning found.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cleaning {
    /// Rows looked at.
    pub rows: u64,
    /// The rows that are left out, in their order, each with the step that took it.
    pub dropped: Vec<(u64, &'static str)>,
    /// How many rows each step took, and the first few.
    pub steps: BTreeMap<&'static str, Alike>,
    /// The first few pairs: a row that is left out, the row that it repeats (of the evaluation's data set where it is
    /// contaminated), and how much they share.
    pub pairs: Vec<Pair>,
    /// Secrets and personal data, by kind, and the rows that hold them. What they are is never kept.
    pub secrets: BTreeMap<&'static str, Alike>,
}

/// Two rows that have much in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Pair {
    /// The step that found it.
    pub step: &'static str,
    /// The row that is left out.
    pub row: u64,
    /// The row that stays, or the evaluation's.
    pub other: u64,
    /// The part of their five-word runs that they share; of contaminated rows, the part of the evaluation's
    /// thirteen-word runs that was found.
    pub shared: f64,
}

/// Pairs shown.
const SHOWN_PAIRS: usize = 20;

/// What is computed of a row on all cores, before rows are compared in their order.
struct Look {
    hash: u64,
    /// The step that takes it whatever other rows say.
    alone: Option<&'static str>,
    signature: Option<Signature>,
    contaminated: Option<(u64, f64)>,
    secrets: Vec<&'static str>,
}

impl Dataset {
    /// Looks for what should not be trained. `held_out`: data sets that a model is evaluated on, beside those that the
    /// settings name.
    ///
    /// # Errors
    /// A file that cannot be read any more. Malformed rows are passed over: the stream meets them.
    pub fn clean(&self, knobs: &CleanKnobs, held_out: &[&Dataset]) -> Result<Cleaning, DataError> {
        let mut index = ngrams::Index::default();
        let against = match knobs.against.is_empty() {
            true => None,
            false => Some(Self::open(&knobs.against, &RowKnobs::default())?),
        };
        // rows of the second and later ones count on behind those of the first
        let mut before = 0;
        for data in held_out.iter().copied().chain(&against) {
            for row in 0..data.len() {
                if let Some(sample) = sound(data.sample(row))? {
                    index.add(before + row, &text_of(&sample));
                }
            }
            before += data.len();
        }
        let mut cleaning = Cleaning { rows: self.len(), ..Cleaning::default() };
        let (mut seen, mut buckets) = (HashMap::new(), Buckets::default());
        let mut start = 0;
        while start < self.len() {
            let block = start..(start + BLOCK).min(self.len());
            let look = |row| -> Result<Option<Look>, DataError> {
                let sample = sound(self.sample(row))?;
                Ok(sample.map(|sample| Look::at(&sample, knobs, &index)))
            };
            let looks: Vec<_> =
                block.clone().into_par_iter().map(look).collect::<Result<_, _>>()?;
            for (row, look) in block.clone().zip(looks) {
                let Some(look) = look else { continue };
                for kind in &look.secrets {
                    cleaning.secrets.entry(kind).or_default().add(row);
                }
                let (step, pair) = self.judge(row, look, knobs, &mut seen, &mut buckets)?;
                if let Some(step) = step {
                    cleaning.dropped.push((row, step));
                    cleaning.steps.entry(step).or_default().add(row);
                }
                if cleaning.pairs.len() < SHOWN_PAIRS {
                    cleaning.pairs.extend(pair);
                }
            }
            start = block.end;
        }
        Ok(cleaning)
    }

    /// The step that takes a row, if one does, and the row it repeats.
    fn judge(
        &self,
        row: u64,
        look: Look,
        knobs: &CleanKnobs,
        seen: &mut HashMap<u64, u64>,
        buckets: &mut Buckets,
    ) -> Result<(Option<&'static str>, Option<Pair>), DataError> {
        if look.alone.is_some() {
            return Ok((look.alone, None));
        }
        if knobs.drop_secrets && !look.secrets.is_empty() {
            return Ok((Some("secret"), None));
        }
        if let Some((other, shared)) = look.contaminated {
            let step = "contaminated";
            return Ok((Some(step), Some(Pair { step, row, other, shared })));
        }
        if knobs.duplicates {
            let first = *seen.entry(look.hash).or_insert(row);
            if first != row {
                let step = "duplicate";
                return Ok((Some(step), Some(Pair { step, row, other: first, shared: 1.0 })));
            }
        }
        let (Some(limit), Some(signature)) = (knobs.near_duplicates, look.signature) else {
            return Ok((None, None));
        };
        let candidates = buckets.candidates(&signature);
        if !candidates.is_empty() {
            let own = self.shingles(row)?;
            for other in candidates {
                let shared = minhash::jaccard(&own, &self.shingles(other)?);
                if shared >= limit {
                    let step = "near duplicate";
                    return Ok((Some(step), Some(Pair { step, row, other, shared })));
                }
            }
        }
        buckets.keep(row, &signature);
        Ok((None, None))
    }

    fn shingles(&self, row: u64) -> Result<HashSet<u64>, DataError> {
        let sample = sound(self.sample(row))?;
        Ok(sample.map(|sample| minhash::shingles(&text_of(&sample)).collect()).unwrap_or_default())
    }

    /// The same data set without what cleaning takes: a stream counts these rows as dropped, by step.
    #[must_use]
    pub fn without(mut self, cleaning: &Cleaning) -> Self {
        self.dropped = cleaning.dropped.clone();
        self
    }

    /// Rows of this data set that `other` holds word for word.
    ///
    /// # Errors
    /// A file that cannot be read any more.
    pub fn overlap(&self, other: &Dataset) -> Result<Alike, DataError> {
        let names = |data: &Dataset| -> Result<Vec<Option<u64>>, DataError> {
            let name = |row| Ok(sound(data.sample(row))?.map(|sample| hash(&sample)));
            (0..data.len()).into_par_iter().map(name).collect()
        };
        let theirs: HashSet<u64> = names(other)?.into_iter().flatten().collect();
        let mut alike = Alike::default();
        for (row, name) in (0..).zip(names(self)?) {
            if name.is_some_and(|name| theirs.contains(&name)) {
                alike.add(row);
            }
        }
        Ok(alike)
    }
}

impl Look {
    fn at(sample: &Sample, knobs: &CleanKnobs, index: &ngrams::Index) -> Self {
        let text = text_of(sample);
        Self {
            hash: hash(sample),
            alone: quality::step(&text, knobs),
            signature: knobs.near_duplicates.map(|_| Signature::of(&text)),
            contaminated: index.find(&text),
            secrets: secrets::kinds(&text),
        }
    }
}

/// A row that is sound; errors that are not the row's own stop.
fn sound(row: Result<Sample, DataError>) -> Result<Option<Sample>, DataError> {
    match row {
        Ok(sample) => Ok(Some(sample)),
        Err(DataError::Row(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// All words of a row, without the names of roles.
fn text_of(sample: &Sample) -> String {
    match sample {
        Sample::Chat(conversation) | Sample::Prompt(conversation) => {
            let contents = conversation.messages.iter().map(|message| message.content.as_str());
            contents.collect::<Vec<_>>().join("\n")
        }
        Sample::PromptCompletion { prompt, completion } => [prompt.as_str(), completion].join("\n"),
        Sample::Text(text) => text.clone(),
        Sample::Classified { text, pair: None, .. } => text.clone(),
        Sample::Classified { text, pair: Some(pair), .. } => [text.as_str(), pair].join("\n"),
        // ids are words, too: equal texts have equal ones
        Sample::Tokens { ids, .. } => ids.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
        Sample::Labelled(inner, _) | Sample::Weighted(inner, _) => text_of(inner),
        Sample::Tied(members) => members.iter().map(text_of).collect::<Vec<_>>().join("\n"),
    }
}

impl fmt::Display for Cleaning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (step, alike) in &self.steps {
            writeln!(f, "{step:<16}{:>9} rows: {alike}", alike.count)?;
        }
        for Pair { step, row, other, shared } in &self.pairs {
            let whose = if *step == "contaminated" { "evaluation row" } else { "row" };
            writeln!(f, "  {step}: row {row} and {whose} {other} share {:.0} %", 100.0 * shared)?;
        }
        for (kind, alike) in &self.secrets {
            writeln!(f, "{kind:<16}{:>9} rows: {alike}", alike.count)?;
        }
        write!(f, "{} of {} rows are left out", self.dropped.len(), self.rows)
    }
}
