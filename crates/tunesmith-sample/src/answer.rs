//! One sequence on its way: from scores to tokens to text, until something ends it.

use crate::{FinishReason, GenerateError, Generation, SamplerKnobs, stop::StopText};
use tunesmith_tokens::{DecodeStream, Tokenizer};

/// One sequence on its way.
pub(crate) struct Answer<'a> {
    pub(crate) index: usize,
    knobs: &'a SamplerKnobs,
    pub(crate) history: Vec<u32>,
    n_prompt: usize,
    decoder: Option<DecodeStream<'a>>,
    stop: StopText<'a>,
    text: String,
    pub(crate) finish: Option<FinishReason>,
}

impl<'a> Answer<'a> {
    pub(crate) fn new(
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
    pub(crate) fn take(
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

    pub(crate) fn into_generation(
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
