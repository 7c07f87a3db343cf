//! Answers to a list of prompts, by an [`Engine`] that goes through them.

use crate::{Engine, SamplerKnobs, answer::Answer};
use serde::Serialize;
use tunesmith_model::{ModelError, Transformer};
use tunesmith_tokens::{Tokenizer, TokenizerError};

/// Sequences at once: up to as many rows, products read every weight once (see tunesmith-kernels' `matvec`).
const MAX_SEQUENCES: usize = 16;

/// Why an answer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FinishReason {
    /// A stop token or a stop string.
    Stop,
    /// `max_new_tokens`, or the end of the model's positions.
    Length,
}

/// One answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Generation {
    /// What was read.
    pub prompt_ids: Vec<u32>,
    /// What was generated; a stop token is its last.
    pub ids: Vec<u32>,
    /// The answer as text, without special tokens; empty without a tokenizer.
    pub text: String,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A generation that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum GenerateError {
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// A prompt without a single token.
    #[error("prompt {index} has no token\nhelp: give at least one token to start from")]
    EmptyPrompt {
        /// Which, from 0.
        index: usize,
    },
    /// A prompt that leaves no room.
    #[error(
        "prompt {index} has {n_tokens} tokens, the model has {max} positions\nhelp: shorten the prompt"
    )]
    PromptTooLong {
        /// Which, from 0.
        index: usize,
        /// Its length.
        n_tokens: usize,
        /// `max_position_embeddings`.
        max: usize,
    },
    /// A knob outside its range.
    #[error("{0}")]
    Knobs(String),
}

/// Answers every prompt, by the model's first adapter if it has one. `on_text` receives each prompt's index and text as
/// soon as it is certain.
///
/// # Errors
/// Knobs out of range, prompts without tokens or without room, and what model and tokenizer say.
pub fn generate(
    model: &Transformer,
    tokenizer: Option<&Tokenizer>,
    prompts: &[Vec<u32>],
    stop_ids: &[u32],
    knobs: &SamplerKnobs,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Generation>, GenerateError> {
    let first = (!model.adapters().is_empty()).then_some(0);
    let requests: Vec<Request> = prompts.iter().map(|prompt| (first, prompt.clone())).collect();
    generate_by(model, tokenizer, &requests, stop_ids, knobs, on_text)
}

/// The number of the adapter that shall answer, or none for the base alone, and the prompt.
pub type Request = (Option<usize>, Vec<u32>);

/// As [`generate`], each prompt by the adapter that it names.
///
/// # Errors
/// As [`generate`]; an adapter that the model does not carry.
pub fn generate_by(
    model: &Transformer,
    tokenizer: Option<&Tokenizer>,
    requests: &[Request],
    stop_ids: &[u32],
    knobs: &SamplerKnobs,
    on_text: &mut dyn FnMut(usize, &str),
) -> Result<Vec<Generation>, GenerateError> {
    knobs.check().map_err(GenerateError::Knobs)?;
    let max = model.config.max_position_embeddings as usize;
    for (index, (_, prompt)) in requests.iter().enumerate() {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt { index });
        }
        if prompt.len() >= max {
            return Err(GenerateError::PromptTooLong { index, n_tokens: prompt.len(), max });
        }
    }
    if knobs.max_new_tokens == 0 {
        let answer = |(i, (_, prompt)): (usize, &Request)| {
            Answer::new(i, prompt, tokenizer, knobs).into_generation(on_text)
        };
        return requests.iter().enumerate().map(answer).collect();
    }
    let longest = requests.iter().map(|(_, prompt)| prompt.len()).max().unwrap_or(0);
    let capacity = (longest + knobs.max_new_tokens).min(max);
    let mut engine =
        Engine::new(model, tokenizer, stop_ids, requests.len().min(MAX_SEQUENCES), capacity);
    for (adapter, prompt) in requests {
        engine.submit_to(*adapter, prompt, knobs)?;
    }
    let mut answers: Vec<(usize, Generation)> = Vec::new();
    while !engine.is_idle() {
        answers.extend(engine.step(on_text)?);
    }
    answers.sort_by_key(|&(ticket, _)| ticket);
    Ok(answers.into_iter().map(|(_, answer)| answer).collect())
}
