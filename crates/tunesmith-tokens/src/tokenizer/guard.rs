//! Keeping text that spells a special token from becoming one.
//!
//! # Why
//! Whoever writes `<|im_end|>` into a question must not end the turn. Splitting the text around such places and encoding
//! the pieces apart would change other tokens too (a piece's first word gets another prefix than a word in the middle). So
//! a second tokenizer recognises each special token by a private spelling only, in characters that no text holds; genuine
//! special tokens are respelled, the text that only looks like them stays as it is, and the whole is encoded at once.

use super::added::Added;
use super::{TokenizerError, Tokens, encode_error, tokens};
use std::collections::HashMap;
use std::ops::Range;
use tokenizers::{AddedToken, AddedVocabulary, Encoding};

/// The characters of private spellings: a frame, and hexadecimal digits, from the last private-use plane.
const FRAME: char = '\u{10FFFD}';
const DIGITS: u32 = 0x10_FF00;

/// The spellings of special tokens, for finding them in text.
#[derive(Debug)]
pub(super) struct SpecialTexts(Added);

/// A tokenizer that knows special tokens by their private spellings.
#[derive(Debug)]
pub(super) struct Guard {
    inner: tokenizers::Tokenizer,
    /// From its ids of added tokens to the original's.
    original_ids: HashMap<u32, u32>,
}

impl SpecialTexts {
    /// The spellings of the added tokens that `wanted` lets through.
    pub(super) fn new(
        tokenizer: &tokenizers::Tokenizer,
        wanted: impl Fn(&AddedToken) -> bool,
    ) -> Self {
        let tokens = tokenizer.get_added_tokens_decoder().into_iter();
        let tokens = tokens.filter(|(_, token)| wanted(token));
        Self(Added::new(tokens.map(|(id, token)| (token.content, id))))
    }

    /// The first place at or after `from` that spells a special token.
    pub(super) fn first(&self, text: &str, from: usize) -> Option<(Range<usize>, u32)> {
        self.0.first(text, from)
    }

    /// All of them, leftmost and longest first, that do not touch the ranges of `except` (ordered).
    pub(super) fn find(&self, text: &str, except: &[Range<usize>]) -> Vec<(Range<usize>, u32)> {
        let mut found = Vec::new();
        let mut except = except.iter().peekable();
        let mut from = 0;
        while let Some((range, id)) = self.first(text, from) {
            while except.next_if(|skip| skip.end <= range.start).is_some() {}
            match except.peek() {
                Some(skip) if skip.start < range.end => from = skip.end.max(range.start + 1),
                _ => {
                    from = range.end;
                    found.push((range, id));
                }
            }
        }
        found
    }

    /// An error if a special token came out of text: the model's own vocabulary may hold its spelling as a word.
    pub(super) fn check(
        &self,
        tokens: &Tokens,
        genuine: &[(Range<usize>, u32)],
    ) -> Result<(), TokenizerError> {
        let mut genuine = genuine.iter().map(|(range, _)| range).peekable();
        for (id, span) in tokens.ids.iter().zip(&tokens.spans) {
            let Some(spelling) = self.0.spelling(*id) else { continue };
            while genuine.next_if(|range| range.end <= span.start).is_some() {}
            if !span.is_empty() && genuine.peek().is_none_or(|range| range.start >= span.end) {
                return Err(TokenizerError::Encode(format!(
                    "the tokenizer makes the special token {spelling:?} of plain text that spells it"
                )));
            }
        }
        Ok(())
    }
}

impl Guard {
    pub(super) fn new(tokenizer: &tokenizers::Tokenizer) -> Result<Self, String> {
        let mut inner = tokenizer.clone();
        let mut added: Vec<(u32, AddedToken)> =
            tokenizer.get_added_tokens_decoder().into_iter().collect();
        added.sort_by_key(|&(id, _)| id);
        inner.with_added_vocabulary(AddedVocabulary::new());
        let mut spelled = Vec::with_capacity(added.len());
        for (id, mut token) in added {
            if token.special {
                token.content = private_spelling(id);
            }
            spelled.push((id, token.content.clone()));
            let result = if token.special {
                inner.add_special_tokens([token])
            } else {
                inner.add_tokens([token])
            };
            result.map_err(|error| error.to_string())?;
        }
        let vocabulary = inner.get_added_vocabulary();
        let original_ids = spelled
            .iter()
            .filter_map(|(id, content)| {
                Some((vocabulary.token_to_id(content, inner.get_model())?, *id))
            })
            .collect();
        Ok(Self { inner, original_ids })
    }

    /// Encodes `text`, where `genuine` are the special tokens that are to be tokens.
    pub(super) fn encode(
        &self,
        text: &str,
        genuine: &[(Range<usize>, u32)],
        special: &SpecialTexts,
    ) -> Result<Tokens, TokenizerError> {
        let (respelled, borders) = respell(text, genuine)?;
        let encoding = self.encode_respelled(respelled)?;
        let tokens = self.original(&encoding, &borders);
        special.check(&tokens, genuine)?;
        Ok(tokens)
    }

    pub(super) fn encode_respelled(&self, respelled: String) -> Result<Encoding, TokenizerError> {
        self.inner.encode(respelled, false).map_err(encode_error)
    }

    /// The original's ids, and the places in the original text.
    pub(super) fn original(&self, encoding: &Encoding, borders: &[(usize, usize)]) -> Tokens {
        let mut tokens = tokens(encoding);
        for id in &mut tokens.ids {
            *id = self.original_ids.get(id).copied().unwrap_or(*id);
        }
        for span in &mut tokens.spans {
            *span = place(borders, span.start)..place(borders, span.end);
        }
        tokens
    }
}

/// `text` with the genuine special tokens respelled, and the borders of these: (place in the result, place in `text`),
/// starts and ends in turn.
pub(super) fn respell(
    text: &str,
    genuine: &[(Range<usize>, u32)],
) -> Result<(String, Vec<(usize, usize)>), TokenizerError> {
    if text.contains(FRAME) {
        return Err(TokenizerError::Encode(format!(
            "the text spells a special token and also holds U+{:X}, which is needed to keep it text",
            FRAME as u32
        )));
    }
    let mut respelled = String::with_capacity(text.len() + 32 * genuine.len());
    let mut borders = Vec::with_capacity(2 * genuine.len());
    let mut copied = 0;
    for (range, id) in genuine {
        respelled.push_str(&text[copied..range.start]);
        borders.push((respelled.len(), range.start));
        respelled.push_str(&private_spelling(*id));
        borders.push((respelled.len(), range.end));
        copied = range.end;
    }
    respelled.push_str(&text[copied..]);
    Ok((respelled, borders))
}

/// The place in the original text of a place in the respelled one.
fn place(borders: &[(usize, usize)], at: usize) -> usize {
    match borders.partition_point(|&(respelled, _)| respelled <= at) {
        0 => at,
        n => {
            let (respelled, original) = borders[n - 1];
            // Inside a respelled token there is nothing to divide: it counts as its start.
            let inside = n % 2 == 1;
            if inside { original } else { original + (at - respelled) }
        }
    }
}

/// How the guard spells the special token `id`.
fn private_spelling(id: u32) -> String {
    let digit = |shift: u32| char::from_u32(DIGITS + (id >> shift & 0xF)).unwrap_or(FRAME);
    let digits = (0..8).rev().map(|index| digit(4 * index));
    [FRAME].into_iter().chain(digits).chain([FRAME]).collect()
}
