//! `prompt` and `completion`, as two texts or as two lists of messages (TRL's two forms); and `prompt` alone.

use super::messages::{self, Turns};
use super::{Columns, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{Message, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[&["prompt", "completion"]];
pub(super) const PROMPT_ONLY: &[&[&str]] = &[&["prompt"]];
pub(super) const OPTIONAL: &[&str] = &["tools", "chat_template_kwargs"];

pub(super) fn sample(columns: &mut Columns) -> Faulty<Sample> {
    let (prompt, completion) = (columns.required("prompt")?, columns.required("completion")?);
    let (prompt_at, completion_at) = (columns.pointer("prompt"), columns.pointer("completion"));
    match (prompt, completion) {
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let mut turns = messages::messages(prompt, &prompt_at, columns.adapter)?;
            if turns.messages.iter().any(|turn| turn.role == "assistant") {
                turns = turns.untrained();
            }
            turns.extend(messages::messages(completion, &completion_at, columns.adapter)?);
            turns.conversation(columns).map(Sample::Chat)
        }
        (Value::Array(_), other) => {
            let fault = Fault::WrongType {
                expected: "a list of messages, as in the prompt",
                found: describe(&other),
            };
            Err((completion_at, fault))
        }
        (prompt, completion) => Ok(Sample::PromptCompletion {
            prompt: text_of(prompt).map_err(|fault| (prompt_at, fault))?,
            completion: text_of(completion).map_err(|fault| (completion_at, fault))?,
        }),
    }
}

/// A prompt alone; as plain text it is what the user says.
pub(super) fn prompt_only(mut columns: Columns) -> Faulty<Sample> {
    let at = columns.pointer("prompt");
    let turns = match columns.required("prompt")? {
        list @ Value::Array(_) => messages::messages(list, &at, columns.adapter)?,
        text => {
            let text = text_of(text).map_err(|fault| (at, fault))?;
            let mut turns = Turns::default();
            turns.push(Message::new("user", text));
            turns
        }
    };
    turns.conversation(&mut columns).map(Sample::Prompt)
}
