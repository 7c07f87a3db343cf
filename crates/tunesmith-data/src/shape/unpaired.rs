//! An answer and whether it is wanted: `prompt` and `completion` with a `label`, or a conversation with one, whose last
//! turn is the answer (LLaMA-Factory's sets for KTO).

use super::messages::{self, Turns};
use super::{Columns, alpaca, prompt_completion};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{Message, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[
    &["prompt", "completion", "label"],
    &["messages", "label"],
    &["conversations", "label"],
    &["instruction", "output", "label"],
];
pub(super) const OPTIONAL: &[&str] = &[
    "prompt",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "output",
    "input",
    "system",
    "history",
    "tools",
    "chat_template_kwargs",
];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let label = columns.required("label")?;
    let label = match &label {
        Value::Bool(wanted) => f32::from(u8::from(*wanted)),
        Value::Number(number) if [Some(0.0), Some(1.0)].contains(&number.as_f64()) => {
            number.as_f64().unwrap_or_default() as f32
        }
        Value::String(text) if ["true", "false"].contains(&text.to_lowercase().as_str()) => {
            f32::from(u8::from(text.eq_ignore_ascii_case("true")))
        }
        other => {
            let fault = Fault::NotWanted { found: describe(other) };
            return Err((columns.pointer("label"), fault));
        }
    };
    let answer = if columns.has("completion") {
        prompt_completion::sample(&mut columns)?
    } else if columns.has("instruction") {
        let question = alpaca::question(&mut columns)?.untrained();
        let output = columns.text("output")?;
        answered(question, Message::new("assistant", output), &mut columns)?
    } else {
        let column = if columns.has("conversations") { "conversations" } else { "messages" };
        let mut turns = messages::turns_of(&mut columns, column)?;
        let last = turns.messages.len() - 1; // a list of messages holds at least one
        let role = turns.messages[last].role.clone();
        if role != "assistant" {
            let expected = "a last turn of the assistant: the one that the label is about";
            let at = format!("{}/{last}", columns.pointer(column));
            return Err((at, Fault::WrongType { expected, found: format!("one of `{role}`") }));
        }
        turns.weights[..last].fill(Some(0.0));
        turns.weights[last].get_or_insert(1.0);
        Sample::Chat(turns.conversation(&mut columns)?)
    };
    Ok(Sample::Labelled(Box::new(answer), label))
}

fn answered(mut turns: Turns, answer: Message, columns: &mut Columns) -> Faulty<Sample> {
    turns.messages.push(answer);
    turns.weights.push(Some(1.0));
    turns.conversation(columns).map(Sample::Chat)
}
