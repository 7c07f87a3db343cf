//! Decoding as tokens come: whole characters, as soon as they are certain.
//!
//! A token may hold a part of a character, and decoders look at neighbours (the space before a word, the first token of a
//! text), so the text of one id is not defined. The stream decodes a short tail again and again, and hands out what has
//! been added to it since.

use super::{Tokenizer, TokenizerError};

/// Decoders write this for bytes that do not make a character yet.
const REPLACEMENT: char = '\u{FFFD}';

/// A growing text.
#[derive(Debug)]
pub struct DecodeStream<'t> {
    tokenizer: &'t Tokenizer,
    skip_special: bool,
    /// The tail of the ids: `ids[..n_known]` stand for `known`, which has been handed out and is kept as context.
    ids: Vec<u32>,
    n_known: usize,
    known: String,
}

impl<'t> DecodeStream<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, skip_special: bool) -> Self {
        Self { tokenizer, skip_special, ids: Vec::new(), n_known: 0, known: String::new() }
    }

    /// Adds an id; `None` while the text could still change, as within a character.
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder refuses.
    pub fn push(&mut self, id: u32) -> Result<Option<String>, TokenizerError> {
        self.ids.push(id);
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        // Bytes that never make a character stay replacement characters: four tokens settle it, as no character is longer.
        let undecided = text.ends_with(REPLACEMENT) && self.ids.len() - self.n_known < 4;
        if undecided { Ok(None) } else { self.hand_out(&text) }
    }

    /// What is left, half characters included (as U+FFFD).
    ///
    /// # Errors
    /// Ids that the tokenizer's decoder refuses.
    pub fn flush(&mut self) -> Result<Option<String>, TokenizerError> {
        let text = self.tokenizer.decode(&self.ids, self.skip_special)?;
        let rest = self.hand_out(&text)?;
        (self.ids, self.n_known, self.known) = (Vec::new(), 0, String::new());
        Ok(rest)
    }

    fn hand_out(&mut self, text: &str) -> Result<Option<String>, TokenizerError> {
        let n_common =
            text.bytes().zip(self.known.bytes()).take_while(|(new, old)| new == old).count();
        let n_common = (0..=n_common).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
        let new = text[n_common..].to_owned();
        // The last handed-out piece stays as context: it tells the decoder that the next token is not the first.
        self.ids.drain(..self.n_known);
        self.known = self.tokenizer.decode(&self.ids, self.skip_special)?;
        self.n_known = self.ids.len();
        Ok(if new.is_empty() { None } else { Some(new) })
    }
}
