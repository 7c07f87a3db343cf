//! From a sample to examples: token ids, and which of them are trained. Decided here, and nowhere else.
//!
//! | sample | ids | trained |
//! |---|---|---|
//! | conversation | the rendered text, tokenised whole | what the assistant writes, with the token that ends its turn |
//! | prompt and completion | both as one text, with what the post-processor adds, and EOS | the completion and EOS |
//! | plain text | with what the post-processor adds, and EOS | everything |
//! | token ids | verbatim | as given |
//! | text to be classified | with what the post-processor adds | nothing; the label is what counts |
//! | prompt alone | the rendered text with the generation prompt | nothing |
//!
//! Most samples give one example; tied ones give one each, and a long one may be split.
//!
//! **Border tokens.** Spans of text become spans of tokens by one rule: a token is trained if its first byte lies inside
//! a trained span. A token that begins in the prompt and reaches into the answer is therefore not trained (the prompt
//! that sampling feeds would end inside it), and one that begins in the answer and reaches behind it is.
//!
//! **Special tokens as text.** A template writes special tokens; people and data write text. Text in a message that
//! spells a special token is tokenised as the letters it consists of, in every role, while everything around it becomes
//! the very tokens that it would become otherwise. Plain text alone ([`Sample::Text`]) is taken as transformers takes it.

mod certificate;
mod cut;
mod error;
mod prefix;

pub use certificate::{Certificate, CertificateError, Finding};
pub use cut::Truncate;
pub use error::EncodeError;

use crate::mask::{self, Turn};
use crate::neutral;
use crate::outline::Outlines;
use crate::template::Rendered;
use crate::tokenizer::Tokens;
use crate::{Conversation, Example, Message, Sample, Template, Tokenizer};
use serde::{Deserialize, Serialize};
use std::ops::Range;
use std::sync::Arc;

/// Which turns of a conversation are trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrainOn {
    /// All turns of the assistant.
    #[default]
    Assistant,
    /// The last turn of the assistant.
    LastAssistant,
    /// Every token, prompts included.
    Everything,
}

/// What an [`Encoder`] leaves to its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EncodeKnobs {
    /// The most tokens of an example. `None`: no limit.
    pub max_len: Option<usize>,
    /// What becomes of longer ones.
    pub truncate: Truncate,
    /// Which turns of a conversation are trained.
    pub train_on: TrainOn,
}

/// Ids, which of them are trained, and how much each counts.
type Trained = (Vec<u32>, Vec<bool>, Option<Vec<f32>>);

/// Makes examples of samples.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Template>,
    knobs: EncodeKnobs,
    stop_ids: Vec<u32>,
    outlines: Arc<Outlines>,
}

impl Encoder {
    /// An encoder for a model's tokenizer and chat template.
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<Template>, knobs: EncodeKnobs) -> Self {
        let mut encoder =
            Self { tokenizer: Some(tokenizer), template, ..Self::without_tokenizer(knobs) };
        encoder.stop_ids = encoder.find_stop_ids();
        encoder
    }

    /// An encoder that takes nothing but token ids, for models without a tokenizer.
    pub fn without_tokenizer(knobs: EncodeKnobs) -> Self {
        let (tokenizer, template) = (None, None);
        Self { tokenizer, template, knobs, stop_ids: Vec::new(), outlines: Arc::default() }
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// The chat template.
    pub fn template(&self) -> Option<&Template> {
        self.template.as_ref()
    }

    /// The knobs.
    pub fn knobs(&self) -> EncodeKnobs {
        self.knobs
    }

    /// The examples of a sample: one, or those of a group in order, or the pieces of a long one; none where it is too
    /// long and [`Truncate::Drop`] says so. `row` goes into the examples and into errors.
    ///
    /// # Errors
    /// A sample that the template or the tokenizer cannot take; see [`EncodeError`].
    pub fn encode(&self, sample: &Sample, row: u64) -> Result<Vec<Example>, EncodeError> {
        match sample {
            Sample::Labelled(..) => Ok(cut::cut(self.uncut(sample, row)?, self.whole())),
            Sample::Weighted(inner, weight) => {
                let mut examples = self.encode(inner, row)?;
                examples.iter_mut().for_each(|example| example.weigh(*weight));
                Ok(examples)
            }
            Sample::Tied(members) => self.tied(members, row),
            _ => Ok(cut::cut(self.example(sample, row)?, self.knobs)),
        }
    }

    /// What a label or a group holds together is not split: pieces would each need a label of their own.
    fn whole(&self) -> EncodeKnobs {
        let truncate = match self.knobs.truncate {
            Truncate::Split => Truncate::KeepStart,
            other => other,
        };
        EncodeKnobs { truncate, ..self.knobs }
    }

    /// The examples of a group. Where one is dropped, all are; where ends are kept, all lose as many tokens of their
    /// start, which is the prompt that they share.
    fn tied(&self, members: &[Sample], row: u64) -> Result<Vec<Example>, EncodeError> {
        let mut examples: Vec<Example> = Vec::with_capacity(members.len());
        for member in members {
            let mut example = self.uncut(member, row)?;
            let twin = |other: &Example| other.ids == example.ids && other.label == example.label;
            if examples.iter().any(twin) {
                return Err(EncodeError::Alike { row, n_tokens: example.len() });
            }
            example.tied = !examples.is_empty();
            examples.push(example);
        }
        let longest = examples.iter().map(Example::len).max().unwrap_or(0);
        let knobs = self.whole();
        let too_many = longest.saturating_sub(knobs.max_len.unwrap_or(longest));
        match knobs.truncate {
            Truncate::Drop if too_many > 0 => return Ok(Vec::new()),
            Truncate::KeepEnd => examples.iter_mut().for_each(|example| {
                example.cut(too_many.min(example.len())..example.len());
            }),
            _ => examples = examples.into_iter().flat_map(|e| cut::cut(e, knobs)).collect(),
        }
        Ok(examples)
    }

    /// The one example of a sample that is no group, with its label and weights.
    fn uncut(&self, sample: &Sample, row: u64) -> Result<Example, EncodeError> {
        match sample {
            Sample::Labelled(inner, label) => {
                Ok(Example { label: Some(*label), ..self.uncut(inner, row)? })
            }
            Sample::Weighted(inner, weight) => {
                let mut example = self.uncut(inner, row)?;
                example.weigh(*weight);
                Ok(example)
            }
            Sample::Tied(_) => Err(EncodeError::Nested { row }),
            _ => self.example(sample, row),
        }
    }

    /// The uncut example of a sample that is not made of others.
    fn example(&self, sample: &Sample, row: u64) -> Result<Example, EncodeError> {
        let untrained = |ids: Vec<u32>| (vec![false; ids.len()], ids);
        let mut label = None;
        let mut weights = None;
        let (ids, trained) = match sample {
            Sample::Chat(conversation) => {
                let (ids, trained, of_turns) = self.chat(conversation, row)?;
                weights = of_turns;
                (ids, trained)
            }
            Sample::PromptCompletion { prompt, completion } => {
                self.prompt_completion(prompt, completion, row)?
            }
            Sample::Text(text) => self.text(text, row)?,
            Sample::Tokens { ids, trained } if ids.len() == trained.len() => {
                (ids.clone(), trained.clone())
            }
            Sample::Tokens { ids, trained } => {
                return Err(EncodeError::Lengths {
                    row,
                    n_ids: ids.len(),
                    n_trained: trained.len(),
                });
            }
            Sample::Classified { text, pair, label: class } => {
                let tokenizer =
                    self.tokenizer.as_deref().ok_or(EncodeError::NoTokenizer { row })?;
                let encoded = match pair {
                    Some(pair) => tokenizer.encode_pair_with_special(text, pair),
                    None => tokenizer.encode_with_special(text),
                };
                label = Some(*class);
                let ids = encoded.map_err(|source| EncodeError::Tokenizer { row, source })?;
                let (trained, ids) = untrained(ids);
                (ids, trained)
            }
            Sample::Prompt(conversation) => {
                let (trained, ids) = untrained(self.prompt_of(conversation, row)?);
                (ids, trained)
            }
            // `encode` and `uncut` take these apart.
            Sample::Labelled(..) | Sample::Weighted(..) | Sample::Tied(_) => {
                return Err(EncodeError::Nested { row });
            }
        };
        Ok(Example { ids, trained, weights, label, row, ..Example::default() })
    }

    /// What sampling feeds: the conversation with the generation prompt, never truncated.
    ///
    /// # Errors
    /// A conversation that the template or the tokenizer cannot take.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, EncodeError> {
        self.prompt_of(conversation, 0)
    }

    fn prompt_of(&self, conversation: &Conversation, row: u64) -> Result<Vec<u32>, EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        if conversation.messages.is_empty() {
            return Err(EncodeError::Empty { row });
        }
        let rendered = template
            .render_marked(conversation, true)
            .map_err(|source| EncodeError::Template { row, source })?;
        Ok(tokenise(tokenizer, template, conversation, &rendered, true, row)?.ids)
    }

    /// The ids that end a generation: the token with which the template closes a turn of the assistant, then EOS.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.clone()
    }

    fn parts(&self, row: u64) -> Result<(&Tokenizer, &Template), EncodeError> {
        let tokenizer = self.tokenizer.as_deref().ok_or(EncodeError::NoTokenizer { row })?;
        let template = self.template.as_ref().ok_or(EncodeError::NoTemplate { row })?;
        Ok((tokenizer, template))
    }

    /// Ids, what is trained, and weights where the conversation brings its own.
    fn chat(&self, conversation: &Conversation, row: u64) -> Result<Trained, EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        let messages = &conversation.messages;
        if messages.is_empty() {
            return Err(EncodeError::Empty { row });
        }
        if let Some(weights) = conversation.weights.as_ref().filter(|w| w.len() != messages.len()) {
            let (n_messages, n_weights) = (messages.len(), weights.len());
            return Err(EncodeError::Weights { row, n_messages, n_weights });
        }
        let failed = |source| EncodeError::Template { row, source };
        let rendered = template.render_marked(conversation, false).map_err(failed)?;
        let answers = || messages.iter().filter(|message| message.role == mask::ASSISTANT).count();
        let spans: Vec<Range<usize>> = match self.knobs.train_on {
            TrainOn::Everything if conversation.weights.is_none() => {
                std::iter::once(0..rendered.text.len()).collect()
            }
            // Whatever the template itself marks wins over what renders tell.
            _ if template.has_generation()
                && (conversation.weights.is_none() || rendered.generated.len() == answers()) =>
            {
                rendered.generated.clone()
            }
            _ => self
                .turns(template, tokenizer, conversation, &rendered.text)
                .into_iter()
                .map(|Turn { index, span }| {
                    span.ok_or(EncodeError::TurnNotFound { row, turn: index })
                })
                .collect::<Result<_, _>>()?,
        };
        let tokens = tokenise(tokenizer, template, conversation, &rendered, false, row)?;
        if let Some(weights) = &conversation.weights {
            let turns = messages.iter().zip(weights);
            let turns = turns.filter(|(message, _)| message.role == mask::ASSISTANT);
            let wanted = turns.zip(spans).filter(|((_, weight), _)| **weight != 0.0);
            let (spans, weights): (Vec<_>, Vec<f32>) =
                wanted.map(|((_, &weight), span)| (span, weight)).unzip();
            let trained = mask::tokens_in(&tokens.spans, &spans);
            let weights = (weights.iter().any(|&weight| weight != 1.0))
                .then(|| mask::weights_in(&tokens.spans, &spans, &weights));
            return Ok((tokens.ids, trained, weights));
        }
        let spans = match (self.knobs.train_on, spans.last()) {
            (TrainOn::LastAssistant, Some(last)) => std::slice::from_ref(last),
            _ => &spans,
        };
        let trained = mask::tokens_in(&tokens.spans, spans);
        Ok((tokens.ids, trained, None))
    }

    fn turns(
        &self,
        template: &Template,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        full: &str,
    ) -> Vec<Turn> {
        self.outlines.turns(template, tokenizer, conversation, full, || {
            mask::turns(template, tokenizer, conversation, full)
        })
    }

    fn prompt_completion(
        &self,
        prompt: &str,
        completion: &str,
        row: u64,
    ) -> Result<(Vec<u32>, Vec<bool>), EncodeError> {
        let tokenizer = self.tokenizer.as_deref().ok_or(EncodeError::NoTokenizer { row })?;
        let text = [prompt, completion].concat();
        let tokens = tokenizer
            .encode_text_with_special(&text)
            .map_err(|source| EncodeError::Tokenizer { row, source })?;
        let mut trained =
            mask::tokens_in(&tokens.spans, std::slice::from_ref(&(prompt.len()..text.len())));
        let mut ids = tokens.ids;
        with_eos(tokenizer, &mut ids, &mut trained, row)?;
        Ok((ids, trained))
    }

    fn text(&self, text: &str, row: u64) -> Result<(Vec<u32>, Vec<bool>), EncodeError> {
        let tokenizer = self.tokenizer.as_deref().ok_or(EncodeError::NoTokenizer { row })?;
        let mut ids = tokenizer
            .encode_with_special(text)
            .map_err(|source| EncodeError::Tokenizer { row, source })?;
        let mut trained = vec![true; ids.len()];
        with_eos(tokenizer, &mut ids, &mut trained, row)?;
        Ok((ids, trained))
    }

    /// The token behind the answer of a small conversation, if it is one that text cannot spell; then EOS.
    fn find_stop_ids(&self) -> Vec<u32> {
        let mut ids = Vec::new();
        let messages = vec![
            Message::new("user", "Good morning"),
            Message::new(mask::ASSISTANT, "Good evening"),
        ];
        let unlimited = Self { knobs: EncodeKnobs::default(), ..self.clone() };
        if let Ok((tokens, trained, _)) =
            unlimited.chat(&Conversation { messages, ..Conversation::default() }, 0)
        {
            let last =
                tokens.iter().zip(trained).rev().find(|(_, trained)| *trained).map(|(&id, _)| id);
            ids.extend(last.filter(|&id| {
                self.tokenizer.as_ref().is_some_and(|tokenizer| tokenizer.is_added(id))
            }));
        }
        for &id in self.tokenizer.iter().flat_map(|tokenizer| tokenizer.eos_ids()) {
            if !ids.contains(&id) {
                ids.push(id);
            }
        }
        ids
    }
}

/// Tokenises a rendered conversation whole; text of messages that spells special tokens stays text.
fn tokenise(
    tokenizer: &Tokenizer,
    template: &Template,
    conversation: &Conversation,
    rendered: &Rendered,
    add_generation_prompt: bool,
    row: u64,
) -> Result<Tokens, EncodeError> {
    let failed = |source| EncodeError::Tokenizer { row, source };
    let Some(marked) = neutral::mark(tokenizer, conversation, &rendered.text) else {
        return tokenizer.encode_spans(&rendered.text).map_err(failed);
    };
    let with_marks = template
        .render(&marked.conversation, add_generation_prompt)
        .map_err(|source| EncodeError::Template { row, source })?;
    let (text, as_text) = marked.take_out(&with_marks);
    if text != rendered.text {
        return Err(EncodeError::SpecialText { row });
    }
    tokenizer.encode_guarded(&text, &as_text).map_err(failed)
}

/// Ends `ids` with a trained EOS, which may stand there already.
fn with_eos(
    tokenizer: &Tokenizer,
    ids: &mut Vec<u32>,
    trained: &mut Vec<bool>,
    row: u64,
) -> Result<(), EncodeError> {
    let eos = tokenizer.eos_id().ok_or(EncodeError::NoEos { row })?;
    if ids.last() == Some(&eos) {
        trained.pop();
    } else {
        ids.push(eos);
    }
    trained.push(true);
    Ok(())
}
