//! Alpaca: `instruction`, optional `input`, `output`.
//!
//! A chat template sees `instruction + "\n" + input` as the user's text, as LLaMA-Factory writes it; the Alpaca template
//! prints the two apart and finds them as further keys of the message.

use super::Columns;
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{Conversation, Message, Sample};

pub(super) const REQUIRED: &[&str] = &["instruction", "output"];
pub(super) const OPTIONAL: &[&str] = &["input"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let instruction = columns.text("instruction")?;
    let output = columns.text("output")?;
    let input = columns.optional_text("input")?;
    let content =
        if input.is_empty() { instruction.clone() } else { format!("{instruction}\n{input}") };
    let mut user = Message::new("user", content);
    user.extra.insert("instruction".into(), Value::String(instruction));
    user.extra.insert("input".into(), Value::String(input));
    let messages = vec![user, Message::new("assistant", output)];
    Ok(Sample::Chat(Conversation { messages, ..Default::default() }))
}
