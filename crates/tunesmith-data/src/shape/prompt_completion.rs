//! `prompt` and `completion`, as two texts or as two lists of messages (TRL's two forms).

use super::{Columns, messages, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::Sample;

pub(super) const REQUIRED: &[&str] = &["prompt", "completion"];
pub(super) const OPTIONAL: &[&str] = &["tools", "chat_template_kwargs"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let (prompt, completion) = (columns.required("prompt")?, columns.required("completion")?);
    let (prompt_at, completion_at) = (columns.pointer("prompt"), columns.pointer("completion"));
    match (prompt, completion) {
        (prompt @ Value::Array(_), completion @ Value::Array(_)) => {
            let mut turns = messages::messages(prompt, &prompt_at, columns.adapter)?;
            // A conversation's assistant turns are trained, and a prompt is not.
            if let Some(i) = turns.iter().position(|turn| turn.role == "assistant") {
                let expected = "no turn of the assistant in a prompt, where it must not be trained";
                return Err((
                    format!("{prompt_at}/{i}/role"),
                    Fault::WrongType { expected, found: "`assistant`".into() },
                ));
            }
            turns.extend(messages::messages(completion, &completion_at, columns.adapter)?);
            messages::conversation(turns, columns).map(Sample::Chat)
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
