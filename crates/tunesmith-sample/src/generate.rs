//! Prefill, then one token per sequence and pass, until each has stopped.

use crate::{SamplerKnobs, stop::StopText};
use serde::Serialize;
use tch::{Kind, Tensor};
use tunesmith_model::{KvCache, ModelError, Pass, Ragged, Transformer};
use tunesmith_tokens::{DecodeStream, Tokenizer, TokenizerError};

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

/// Answers every prompt. `on_text` receives each prompt's index and text as soon as it is certain.
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
    knobs.check().map_err(GenerateError::Knobs)?;
    let max = model.config.max_position_embeddings as usize;
    for (index, prompt) in prompts.iter().enumerate() {
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt { index });
        }
        if prompt.len() >= max {
            return Err(GenerateError::PromptTooLong { index, n_tokens: prompt.len(), max });
        }
    }
    let _no_grad = tch::no_grad_guard();
    let longest = prompts.iter().map(Vec::len).max().unwrap_or(0);
    let capacity = (longest + knobs.max_new_tokens).min(max);
    let mut cache =
        KvCache::new(&model.config, prompts.len(), capacity, model.kind(), model.device());
    let mut answers: Vec<Answer> = prompts
        .iter()
        .enumerate()
        .map(|(i, prompt)| Answer::new(i, prompt, tokenizer, knobs))
        .collect();

    let mut next: Vec<Vec<u32>> = prompts.to_vec(); // what each sequence reads in the coming pass
    while knobs.max_new_tokens > 0 && next.iter().any(|ids| !ids.is_empty()) {
        let scores = last_logits(model, &next, &mut cache)?;
        let active = next.iter_mut().zip(&mut answers).filter(|(ids, _)| !ids.is_empty());
        for ((ids, answer), scores) in active.zip(scores) {
            let id = answer.take(scores, stop_ids, on_text)?;
            let room = answer.history.len() < capacity;
            if answer.finish.is_none() && !room {
                answer.finish = Some(FinishReason::Length);
            }
            ids.clear();
            ids.extend(answer.finish.is_none().then_some(id));
        }
    }
    answers.into_iter().map(|answer| answer.into_generation(on_text)).collect()
}

/// Reads `next` into the cache; logits after the last token of each sequence that read any, as host memory.
fn last_logits(
    model: &Transformer,
    next: &[Vec<u32>],
    cache: &mut KvCache,
) -> Result<Vec<Vec<f32>>, ModelError> {
    let docs: Vec<&[u32]> = next.iter().map(Vec::as_slice).collect();
    let starts = cache.lens().to_vec();
    let ragged = Ragged::from_positions(&docs, &starts, model.device());
    let mut pass = Pass::cached(cache);
    let hidden = model.hidden(&ragged, &mut pass)?; // (N, C)
    let mut end = 0;
    let ends = ragged.lens.iter().filter(|&&n| n > 0).map(|n| {
        end += n;
        end - 1
    });
    let last = Tensor::from_slice(&ends.collect::<Vec<i64>>()).to_device(model.device());
    let logits = model.head().logits(&hidden.index_select(0, &last), &pass).to_kind(Kind::Float); // (S, V)
    Ok(Vec::<Vec<f32>>::try_from(logits)?)
}

/// One sequence on its way.
struct Answer<'a> {
    index: usize,
    knobs: &'a SamplerKnobs,
    history: Vec<u32>,
    n_prompt: usize,
    decoder: Option<DecodeStream<'a>>,
    stop: StopText<'a>,
    text: String,
    finish: Option<FinishReason>,
}

impl<'a> Answer<'a> {
    fn new(
        index: usize,
        prompt: &[u32],
        tokenizer: Option<&'a Tokenizer>,
        knobs: &'a SamplerKnobs,
    ) -> Self {
        Self {
            index,
            knobs,
            history: prompt.to_vec(),
            n_prompt: prompt.len(),
            decoder: tokenizer.map(|tokenizer| tokenizer.decode_stream(true)),
            stop: StopText::new(&knobs.stop),
            text: String::new(),
            finish: None,
        }
    }

    /// Chooses the next token and says its text.
    fn take(
        &mut self,
        mut scores: Vec<f32>,
        stop_ids: &[u32],
        on_text: &mut dyn FnMut(usize, &str),
    ) -> Result<u32, GenerateError> {
        self.knobs.process(&mut scores, &self.history);
        let step = (self.history.len() - self.n_prompt) as u64;
        let id = self.knobs.choose(&scores, self.index as u64, step);
        self.history.push(id);
        if stop_ids.contains(&id) {
            self.finish = Some(FinishReason::Stop);
            return Ok(id);
        }
        let piece = match &mut self.decoder {
            Some(decoder) => decoder.push(id)?,
            None => None,
        };
        if let Some(piece) = piece {
            let (certain, stopped) = self.stop.push(&piece);
            self.say(&certain, on_text);
            if stopped {
                self.finish = Some(FinishReason::Stop);
            }
        }
        if self.finish.is_none() && self.history.len() - self.n_prompt >= self.knobs.max_new_tokens
        {
            self.finish = Some(FinishReason::Length);
        }
        Ok(id)
    }

    fn say(&mut self, text: &str, on_text: &mut dyn FnMut(usize, &str)) {
        if !text.is_empty() {
            self.text.push_str(text);
            on_text(self.index, text);
        }
    }

    fn into_generation(
        mut self,
        on_text: &mut dyn FnMut(usize, &str),
    ) -> Result<Generation, GenerateError> {
        let rest = match &mut self.decoder {
            Some(decoder) => decoder.flush()?,
            None => None,
        };
        if let Some(rest) = rest {
            let (certain, _) = self.stop.push(&rest);
            self.say(&certain, on_text);
        }
        let held = std::mem::replace(&mut self.stop, StopText::new(&[])).finish();
        self.say(&held, on_text);
        let ids = self.history.split_off(self.n_prompt);
        let finish_reason = self.finish.unwrap_or(FinishReason::Length);
        Ok(Generation { prompt_ids: self.history, ids, text: self.text, finish_reason })
    }
}
