//! Rows as examples in the order of the files: what scoring, evaluation and showing read. A row gives one example, or
//! several that belong together.

use crate::{DataError, Dataset, Fault};
use rayon::prelude::*;
use std::collections::VecDeque;
use std::ops::Range;
use tunesmith_tokens::{EncodeError, Encoder, Example, Sample};

/// Rows encoded together, on all cores.
const BLOCK: u64 = 256;

/// The examples of consecutive rows, each with its own error where a row gives none.
#[derive(Debug)]
pub struct Examples<'a> {
    dataset: &'a Dataset,
    encoder: &'a Encoder,
    rows: Range<u64>,
    ready: VecDeque<Result<Vec<Example>, DataError>>,
}

impl Dataset {
    /// The examples of one row; see [`Encoder::encode`].
    ///
    /// # Errors
    /// A malformed row, or one that the template or the tokenizer refuses.
    ///
    /// # Panics
    /// Where `row` is not below [`len`](Self::len).
    pub fn row_examples(&self, row: u64, encoder: &Encoder) -> Result<Vec<Example>, DataError> {
        if let Some(prepared) = &self.prepared
            && let Some(examples) = prepared.examples(row, encoder)?
        {
            return Ok(examples);
        }
        let sample = self.sample(row)?;
        self.encode(&sample, row, encoder)
    }

    /// The examples of a row's sample.
    pub(crate) fn encode(
        &self,
        sample: &Sample,
        row: u64,
        encoder: &Encoder,
    ) -> Result<Vec<Example>, DataError> {
        encoder.encode(sample, row).map_err(|error| {
            let message = error.to_string();
            match error {
                // no fault of the row: all rows of this shape fail alike
                EncodeError::NoTokenizer { .. }
                | EncodeError::NoTemplate { .. }
                | EncodeError::NoEos { .. } => DataError::Encoder { message },
                _ => {
                    let mut message = message
                        .strip_prefix(&format!("row {row}: "))
                        .unwrap_or(&message)
                        .to_owned();
                    if let (EncodeError::Template { .. }, Some(roles)) = (&error, roles(sample)) {
                        message += &format!(" (roles: {roles})");
                    }
                    self.error(row, String::new(), Fault::Encode { message })
                }
            }
        })
    }

    /// The examples of `rows`, in order; rows past the end are left out.
    pub fn examples<'a>(&'a self, encoder: &'a Encoder, rows: Range<u64>) -> Examples<'a> {
        let rows = rows.start.min(self.len())..rows.end.min(self.len());
        Examples { dataset: self, encoder, rows, ready: VecDeque::new() }
    }
}

/// The roles of a conversation's turns, in their order; of the first of several conversations.
fn roles(sample: &Sample) -> Option<String> {
    match sample {
        Sample::Chat(conversation) | Sample::Prompt(conversation) => {
            let mut roles: Vec<_> =
                conversation.messages.iter().map(|message| message.role.as_str()).collect();
            let more = roles.len() > 12;
            roles.truncate(12);
            Some(format!("{}{}", roles.join(", "), if more { ", …" } else { "" }))
        }
        Sample::Labelled(inner, _) | Sample::Weighted(inner, _) => roles(inner),
        Sample::Tied(members) => members.first().and_then(roles),
        _ => None,
    }
}

impl Iterator for Examples<'_> {
    type Item = Result<Vec<Example>, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ready.is_empty() {
            let end = (self.rows.start + BLOCK).min(self.rows.end);
            let block = self.rows.start..end;
            self.rows.start = end;
            self.ready = block
                .into_par_iter()
                .map(|row| self.dataset.row_examples(row, self.encoder))
                .collect();
        }
        self.ready.pop_front()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.rows.end - self.rows.start) as usize + self.ready.len();
        (left, Some(left))
    }
}
