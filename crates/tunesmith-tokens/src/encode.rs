//! From a sample to an example: token ids, and which of them are trained. Decided here, and nowhere else.
//!
//! | sample | ids | trained |
//! |---|---|---|
//! | conversation | the rendered text, tokenised whole | what the assistant writes, with the token that ends its turn |
//! | prompt and completion | both as one text, with what the post-processor adds, and EOS | the completion and EOS |
//! | plain text | with what the post-processor adds, and EOS | everything |
//! | token ids | verbatim | as given |
//!
//! **Border tokens.** Spans of text become spans of tokens by one rule: a token is trained if its first byte lies inside
//! a trained span. A token that begins in the prompt and reaches into the answer is therefore not trained (the prompt
//! that sampling feeds would end inside it), and one that begins in the answer and reaches behind it is.
//!
//! **Special tokens as text.** A template writes special tokens; people and data write text. Text in a message that
//! spells a special token is tokenised as the letters it consists of, in every role, while everything around it becomes
//! the very tokens that it would become otherwise. Plain text alone ([`Sample::Text`]) is taken as transformers takes it.

use crate::mask::{self, Turn};
use crate::neutral;
use crate::template::{Rendered, TemplateError};
use crate::tokenizer::{TokenizerError, Tokens};
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
    /// The most tokens of an example; longer ones keep their start. `None`: no limit.
    pub max_len: Option<usize>,
    /// Which turns of a conversation are trained.
    pub train_on: TrainOn,
}

/// Why a sample could not be encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The chat template refused or failed.
    #[error("row {row}: {source}")]
    Template {
        /// The row.
        row: u64,
        /// What the template said.
        source: TemplateError,
    },
    /// The tokenizer failed.
    #[error("row {row}: {source}")]
    Tokenizer {
        /// The row.
        row: u64,
        /// What the tokenizer said.
        source: TokenizerError,
    },
    /// The sample is text, and there is no tokenizer.
    #[error(
        "row {row} is text, and the model has no tokenizer\nhelp: give rows of token ids (input_ids)"
    )]
    NoTokenizer {
        /// The row.
        row: u64,
    },
    /// The sample is a conversation, and there is no chat template.
    #[error(
        "row {row} is a conversation, and the model has no chat template\n\
         help: set template = \"chat\" or \"alpaca\", or a path to a Jinja file"
    )]
    NoTemplate {
        /// The row.
        row: u64,
    },
    /// The text should end with EOS, and the tokenizer names none.
    #[error(
        "row {row} should end with EOS, and the tokenizer names no such token\n\
         help: set eos_token in tokenizer_config.json, or eos_token_id in config.json"
    )]
    NoEos {
        /// The row.
        row: u64,
    },
    /// A conversation without messages.
    #[error("row {row}: a conversation without messages")]
    Empty {
        /// The row.
        row: u64,
    },
    /// `trained` has another length than `ids`.
    #[error("row {row}: {n_ids} token ids, but {n_trained} labels")]
    Lengths {
        /// The row.
        row: u64,
        /// How many ids there are.
        n_ids: usize,
        /// How many marks there are.
        n_trained: usize,
    },
    /// The template does not show a turn of the assistant, so that nothing can be trained there.
    #[error(
        "row {row}: the chat template does not show message {turn}, which the assistant wrote\n\
         help: drop the message, or mark what is trained in the template by {{% generation %}} … {{% endgeneration %}}"
    )]
    TurnNotFound {
        /// The row.
        row: u64,
        /// Index of the message.
        turn: usize,
    },
    /// A message spells a special token, and the template's output depends on it in a way that cannot be followed.
    #[error(
        "row {row}: a message spells a special token, and the chat template rewrites it beyond recognition\n\
         help: remove the special token from the text of the row"
    )]
    SpecialText {
        /// The row.
        row: u64,
    },
    /// What sampling would feed is not what training shows.
    #[error(
        "row {row}, message {turn}: the prompt that asks for this message is not the beginning of the conversation: \
         after {before:?} the prompt has {prompt:?}, the conversation {conversation:?}\n\
         help: the model will be sampled with another text than it is trained on; use a template whose history does not \
         change as turns are added"
    )]
    PrefixBroken {
        /// The row.
        row: u64,
        /// Index of the message that the prompt asks for.
        turn: usize,
        /// How many tokens of both are equal.
        n_equal: usize,
        /// The end of what both have in common.
        before: String,
        /// The first differing token of the prompt, or nothing where it is too short.
        prompt: String,
        /// The token at this place in the conversation.
        conversation: String,
    },
}

/// Makes examples of samples.
#[derive(Debug, Clone)]
pub struct Encoder {
    tokenizer: Option<Arc<Tokenizer>>,
    template: Option<Template>,
    knobs: EncodeKnobs,
    stop_ids: Vec<u32>,
}

impl Encoder {
    /// An encoder for a model's tokenizer and chat template.
    pub fn new(tokenizer: Arc<Tokenizer>, template: Option<Template>, knobs: EncodeKnobs) -> Self {
        let mut encoder =
            Self { tokenizer: Some(tokenizer), template, knobs, stop_ids: Vec::new() };
        encoder.stop_ids = encoder.find_stop_ids();
        encoder
    }

    /// An encoder that takes nothing but token ids, for models without a tokenizer.
    pub fn without_tokenizer(knobs: EncodeKnobs) -> Self {
        Self { tokenizer: None, template: None, knobs, stop_ids: Vec::new() }
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

    /// The example of a sample. `row` goes into the example and into errors.
    ///
    /// # Errors
    /// A sample that the template or the tokenizer cannot take; see [`EncodeError`].
    pub fn encode(&self, sample: &Sample, row: u64) -> Result<Example, EncodeError> {
        let (ids, trained) = match sample {
            Sample::Chat(conversation) => self.chat(conversation, row)?,
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
        };
        let mut example = Example { ids, trained, row, truncated: 0 };
        if let Some(max_len) = self.knobs.max_len.filter(|&max_len| max_len < example.ids.len()) {
            example.truncated = (example.ids.len() - max_len) as u32;
            example.ids.truncate(max_len);
            example.trained.truncate(max_len);
        }
        Ok(example)
    }

    /// What sampling feeds: the conversation with the generation prompt, never truncated.
    ///
    /// # Errors
    /// A conversation that the template or the tokenizer cannot take.
    pub fn prompt(&self, conversation: &Conversation) -> Result<Vec<u32>, EncodeError> {
        let (tokenizer, template) = self.parts(0)?;
        if conversation.messages.is_empty() {
            return Err(EncodeError::Empty { row: 0 });
        }
        let rendered = template
            .render_marked(conversation, true)
            .map_err(|source| EncodeError::Template { row: 0, source })?;
        Ok(tokenise(tokenizer, template, conversation, &rendered, true, 0)?.ids)
    }

    /// The ids that end a generation: the token with which the template closes a turn of the assistant, then EOS.
    pub fn stop_ids(&self) -> Vec<u32> {
        self.stop_ids.clone()
    }

    /// Checks that every answer of the conversation is trained behind the very tokens that sampling would feed: the
    /// prompt for message k is the beginning of the conversation, as text and as tokens.
    ///
    /// # Errors
    /// [`EncodeError::PrefixBroken`] with the first difference; or the template or tokenizer fails.
    pub fn check_prefix(&self, conversation: &Conversation, row: u64) -> Result<(), EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        let failed = |source| EncodeError::Template { row, source };
        let full = template.render_marked(conversation, false).map_err(failed)?;
        let full_ids = tokenise(tokenizer, template, conversation, &full, false, row)?.ids;
        for (turn, message) in conversation.messages.iter().enumerate().skip(1) {
            if message.role != mask::ASSISTANT {
                continue;
            }
            let before = Conversation {
                messages: conversation.messages[..turn].to_vec(),
                ..conversation.clone()
            };
            let prompt = template.render_marked(&before, true).map_err(failed)?;
            let ids = tokenise(tokenizer, template, &before, &prompt, true, row)?.ids;
            let n_equal =
                ids.iter().zip(&full_ids).take_while(|(left, right)| left == right).count();
            if n_equal < ids.len() {
                let token = |ids: &[u32]| match ids.get(n_equal) {
                    Some(&id) => tokenizer.id_to_token(id).unwrap_or_default(),
                    None => String::new(),
                };
                let shown = &ids[n_equal.saturating_sub(8)..n_equal];
                let before = tokenizer
                    .decode(shown, false)
                    .map_err(|source| EncodeError::Tokenizer { row, source })?;
                let (prompt, conversation) = (token(&ids), token(&full_ids));
                return Err(EncodeError::PrefixBroken {
                    row,
                    turn,
                    n_equal,
                    before,
                    prompt,
                    conversation,
                });
            }
        }
        Ok(())
    }

    fn parts(&self, row: u64) -> Result<(&Tokenizer, &Template), EncodeError> {
        let tokenizer = self.tokenizer.as_deref().ok_or(EncodeError::NoTokenizer { row })?;
        let template = self.template.as_ref().ok_or(EncodeError::NoTemplate { row })?;
        Ok((tokenizer, template))
    }

    fn chat(
        &self,
        conversation: &Conversation,
        row: u64,
    ) -> Result<(Vec<u32>, Vec<bool>), EncodeError> {
        let (tokenizer, template) = self.parts(row)?;
        if conversation.messages.is_empty() {
            return Err(EncodeError::Empty { row });
        }
        let failed = |source| EncodeError::Template { row, source };
        let rendered = template.render_marked(conversation, false).map_err(failed)?;
        let spans: Vec<Range<usize>> = match self.knobs.train_on {
            TrainOn::Everything => std::iter::once(0..rendered.text.len()).collect(),
            // Whatever the template itself marks wins over what renders tell.
            _ if template.has_generation() => rendered.generated.clone(),
            _ => mask::turns(template, tokenizer, conversation, &rendered.text)
                .into_iter()
                .map(|Turn { index, span }| {
                    span.ok_or(EncodeError::TurnNotFound { row, turn: index })
                })
                .collect::<Result<_, _>>()?,
        };
        let spans = match (self.knobs.train_on, spans.last()) {
            (TrainOn::LastAssistant, Some(last)) => std::slice::from_ref(last),
            _ => &spans,
        };
        let tokens = tokenise(tokenizer, template, conversation, &rendered, false, row)?;
        let trained = mask::tokens_in(&tokens.spans, spans);
        Ok((tokens.ids, trained))
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
        if let Ok((tokens, trained)) =
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
