//! The engine: sequences come and go while others are on their way (continuous batching, Yu et al. 2022, "Orca").
//!
//! A static cache has a slot per sequence. Every step is one pass through the model: a prompt for a slot that was just
//! taken, one token for each of the others, in one ragged stream. A slot whose answer ended goes to the next in line.

use crate::{FinishReason, GenerateError, Generation, SamplerKnobs, answer::Answer};
use std::collections::VecDeque;
use tch::{Kind, Tensor};
use tunesmith_model::{KvCache, ModelError, Pass, Ragged, Transformer};
use tunesmith_tokens::Tokenizer;

/// Answers prompts, several at a time.
pub struct Engine<'a> {
    model: &'a Transformer,
    tokenizer: Option<&'a Tokenizer>,
    stop_ids: &'a [u32],
    cache: KvCache,
    slots: Vec<Option<Active<'a>>>,
    waiting: VecDeque<Active<'a>>,
    n_submitted: usize,
    /// Whether single tokens are read for all slots at once, resting ones too: on a GPU, where that is one graph.
    together: bool,
}

/// A sequence, and what it reads in the coming pass.
struct Active<'a> {
    answer: Answer<'a>,
    next: Vec<u32>,
    adapter: Option<usize>,
}

impl<'a> Engine<'a> {
    /// An idle engine with room for `n_slots` sequences of at most `capacity` tokens each, prompt included.
    ///
    /// The text of answers stays empty without a tokenizer.
    pub fn new(
        model: &'a Transformer,
        tokenizer: Option<&'a Tokenizer>,
        stop_ids: &'a [u32],
        n_slots: usize,
        capacity: usize,
    ) -> Self {
        let cache = KvCache::new(&model.config, n_slots, capacity, model.kind(), model.device());
        let slots = (0..n_slots).map(|_| None).collect();
        let (waiting, n_submitted, together) = (VecDeque::new(), 0, model.device().is_cuda());
        Self { model, tokenizer, stop_ids, cache, slots, waiting, n_submitted, together }
    }

    /// Puts a prompt in line for the model with its first adapter, if it has one. Its ticket counts from 0; with the
    /// knobs' seed it names the draws of the answer.
    ///
    /// # Errors
    /// Knobs out of range, a prompt without tokens or without room, a token outside the vocabulary.
    pub fn submit(
        &mut self,
        prompt: &[u32],
        knobs: &'a SamplerKnobs,
    ) -> Result<usize, GenerateError> {
        let first = (!self.model.adapters().is_empty()).then_some(0);
        self.submit_to(first, prompt, knobs)
    }

    /// As [`submit`](Self::submit), for an adapter of the model by its number, or for the base alone: requests to
    /// different ones are answered side by side, those to one of them in one pass.
    ///
    /// # Errors
    /// As [`submit`](Self::submit); an adapter that the model does not carry.
    pub fn submit_to(
        &mut self,
        adapter: Option<usize>,
        prompt: &[u32],
        knobs: &'a SamplerKnobs,
    ) -> Result<usize, GenerateError> {
        let n_adapters = self.model.adapters().len();
        if let Some(number) = adapter.filter(|&number| number >= n_adapters) {
            return Err(ModelError::NoSuchAdapter { number, n_adapters }.into());
        }
        knobs.check().map_err(GenerateError::Knobs)?;
        let (index, max) = (self.n_submitted, self.cache.capacity());
        if prompt.is_empty() {
            return Err(GenerateError::EmptyPrompt { index });
        }
        if prompt.len() >= max {
            return Err(GenerateError::PromptTooLong { index, n_tokens: prompt.len(), max });
        }
        let vocab_size = self.model.config.vocab_size;
        if let Some(&id) = prompt.iter().find(|&&id| i64::from(id) >= vocab_size) {
            return Err(ModelError::TokenOutOfRange { id: i64::from(id), vocab_size }.into());
        }
        let answer = Answer::new(index, prompt, self.tokenizer, knobs);
        self.waiting.push_back(Active { answer, next: prompt.to_vec(), adapter });
        self.n_submitted += 1;
        Ok(index)
    }

    /// Whether nothing is on its way or in line.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.slots.iter().all(Option::is_none)
    }

    /// One pass: a token more for every sequence on its way. Returns the answers that ended, with their tickets;
    /// `on_text` receives each ticket and text as soon as it is certain.
    ///
    /// # Errors
    /// What model and tokenizer say; after the model's, no sequence is on its way any more.
    pub fn step(
        &mut self,
        on_text: &mut dyn FnMut(usize, &str),
    ) -> Result<Vec<(usize, Generation)>, GenerateError> {
        for (i, slot) in self.slots.iter_mut().enumerate().filter(|(_, slot)| slot.is_none()) {
            self.cache.clear(i);
            *slot = self.waiting.pop_front();
        }
        if self.slots.iter().all(Option::is_none) {
            return Ok(Vec::new());
        }
        let rows = self.read().inspect_err(|_| {
            // Some may have read their token and others not: nobody goes on from there.
            self.slots.iter_mut().for_each(|slot| *slot = None);
        })?;
        let mut ended = Vec::new();
        for (slot, scores) in self.slots.iter_mut().filter(|slot| slot.is_some()).zip(rows) {
            let Some(Active { answer, next, .. }) = slot else { continue };
            let id = answer.take(scores, self.stop_ids, on_text)?;
            if answer.finish.is_none() && answer.history.len() >= self.cache.capacity() {
                answer.finish = Some(FinishReason::Length);
            }
            *next = vec![id];
            if answer.finish.is_some()
                && let Some(Active { answer, .. }) = slot.take()
            {
                ended.push((answer.index, answer.into_generation(on_text)?));
            }
        }
        Ok(ended)
    }

    /// Logits after the last token of each taken slot, in order, as host memory.
    fn read(&mut self) -> Result<Vec<Vec<f32>>, ModelError> {
        let _no_grad = tch::no_grad_guard();
        let chosen: Vec<Option<usize>> = self.slots.iter().flatten().map(|a| a.adapter).collect();
        let alike = chosen.windows(2).all(|pair| pair[0] == pair[1]);
        let single = self.slots.iter().flatten().all(|active| active.next.len() == 1);
        if let Some(&adapter) = chosen.first().filter(|_| self.together && alike && single) {
            return self.read_together(adapter);
        }
        let mut rows: Vec<Vec<f32>> = vec![Vec::new(); chosen.len()];
        for (i, &adapter) in chosen.iter().enumerate() {
            if chosen[..i].contains(&adapter) {
                continue; // read together with the first of its kind
            }
            let places = chosen.iter().enumerate().filter(|(_, other)| **other == adapter);
            let read = self.read_with(adapter)?;
            places.zip(read).for_each(|((place, _), row)| rows[place] = row);
        }
        Ok(rows)
    }

    /// Those of the slots that asked for `adapter`; the others stay where they are.
    fn read_with(&mut self, adapter: Option<usize>) -> Result<Vec<Vec<f32>>, ModelError> {
        let next = |slot: &'_ Option<Active<'a>>| {
            let active = slot.as_ref().filter(|active| active.adapter == adapter);
            active.map(|active| active.next.clone()).unwrap_or_default()
        };
        let docs: Vec<Vec<u32>> = self.slots.iter().map(next).collect();
        let docs: Vec<&[u32]> = docs.iter().map(Vec::as_slice).collect();
        let starts = self.cache.lens().to_vec();
        let ragged = Ragged::from_positions(&docs, &starts, self.model.device());
        let mut pass = Pass { adapter, ..Pass::cached(&mut self.cache) };
        let hidden = self.model.hidden(&ragged, &mut pass)?; // (N, C)
        let mut end = 0;
        let ends = ragged.lens.iter().filter(|&&n| n > 0).map(|n| {
            end += n;
            end - 1
        });
        let last = Tensor::from_slice(&ends.collect::<Vec<i64>>()).to_device(self.model.device());
        let hidden = hidden.index_select(0, &last); // (S, C)
        rows(&self.model.head().logits(&hidden, &pass).to_kind(Kind::Float)) // (S, V)
    }

    /// Those of all taken slots, where each reads one token and they ask for one adapter. A slot at rest reads token 0
    /// into its first place; the next step clears it, as every slot at rest.
    fn read_together(&mut self, adapter: Option<usize>) -> Result<Vec<Vec<f32>>, ModelError> {
        let next = |slot: &Option<Active>| slot.as_ref().map_or(0, |active| active.next[0]);
        let ids: Vec<u32> = self.slots.iter().map(next).collect();
        let logits = self.model.decode(&ids, &mut self.cache, adapter)?; // (slots, V)
        let taken: Vec<i64> =
            (0i64..).zip(&self.slots).filter(|(_, slot)| slot.is_some()).map(|(i, _)| i).collect();
        let taken = Tensor::from_slice(&taken).to_device(logits.device());
        rows(&logits.index_select(0, &taken))
    }
}

/// Each row as host memory, copied as a whole; tch's own conversion to rows goes number by number.
fn rows(logits: &Tensor) -> Result<Vec<Vec<f32>>, ModelError> {
    let logits = logits.to_device(tch::Device::Cpu); // at once, since each copy waits for the device
    (0..logits.size()[0]).map(|i| Ok(Vec::<f32>::try_from(logits.get(i))?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;
    use tunesmith_model::{Config, LoadOptions};

    /// The way of a GPU, on the CPU: slots that come and go, some at rest, give the same answers.
    #[test]
    fn tokens_read_together_are_those_read_alone() {
        let dir = tempfile::tempdir().unwrap();
        let config = r#"{"model_type":"llama","hidden_act":"silu","vocab_size":97,"hidden_size":32,
            "intermediate_size":48,"num_hidden_layers":2,"num_attention_heads":4,"num_key_value_heads":2,
            "rms_norm_eps":1e-5,"tie_word_embeddings":true,"initializer_range":0.3}"#;
        std::fs::write(dir.path().join("config.json"), config).unwrap();
        let config = Config::from_dir(dir.path()).unwrap();
        let model = Transformer::fresh(config, 5, LoadOptions::frozen(Kind::Float, Device::Cpu));
        let knobs: Vec<SamplerKnobs> = [3, 9, 1, 7]
            .map(|max_new_tokens| SamplerKnobs { max_new_tokens, ..SamplerKnobs::default() })
            .into();
        let answers = |together: bool| {
            let mut engine = Engine { together, ..Engine::new(&model, None, &[], 3, 16) };
            for (knobs, prompt) in knobs.iter().zip([&[3, 1, 4][..], &[1], &[5, 9, 2, 6], &[5]]) {
                engine.submit(prompt, knobs).unwrap();
            }
            let mut answers = Vec::new();
            while !engine.is_idle() {
                answers.extend(engine.step(&mut |_, _| ()).unwrap());
            }
            answers.sort_by_key(|&(ticket, _)| ticket);
            answers
        };
        assert_eq!(answers(true), answers(false));
    }
}
