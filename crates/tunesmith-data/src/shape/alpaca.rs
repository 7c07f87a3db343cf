//! Alpaca: `instruction`, optional `input`, `output`; optional `system` and `history`, a list of pairs of what was asked
//! and answered before.
//!
//! A chat template sees `instruction + "\n" + input` as the user's text, as LLaMA-Factory writes it; the Alpaca template
//! prints the two apart and finds them as further keys of the message. Answers of the history are trained, too.

use super::messages::{self, Turns};
use super::{Columns, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{Message, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[&["instruction", "output"]];
pub(super) const OPTIONAL: &[&str] =
    &["input", "system", "history", "tools", "chat_template_kwargs"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let mut turns = question(&mut columns)?;
    turns.push(Message::new("assistant", columns.text("output")?));
    turns.conversation(&mut columns).map(Sample::Chat)
}

/// The turns up to the answer.
pub(super) fn question(columns: &mut Columns) -> Faulty<Turns> {
    let instruction = columns.text("instruction")?;
    let input = columns.optional_text("input")?;
    let mut turns = messages::system(columns)?;
    for (asked, answered) in history(columns)? {
        turns.push(Message::new("user", asked));
        turns.push(Message::new("assistant", answered));
    }
    let content =
        if input.is_empty() { instruction.clone() } else { format!("{instruction}\n{input}") };
    let mut user = Message::new("user", content);
    user.extra.insert("instruction".into(), Value::String(instruction));
    user.extra.insert("input".into(), Value::String(input));
    turns.push(user);
    Ok(turns)
}

fn history(columns: &mut Columns) -> Faulty<Vec<(String, String)>> {
    let Some(history) = columns.optional("history") else { return Ok(Vec::new()) };
    let at = columns.pointer("history");
    let pairs = match history {
        Value::Array(pairs) => pairs,
        Value::String(text) if text.is_empty() => return Ok(Vec::new()),
        other => {
            let fault = Fault::WrongType { expected: "a list of pairs", found: describe(&other) };
            return Err((at, fault));
        }
    };
    let pair = |(i, pair): (usize, Value)| {
        let found = describe(&pair);
        let [asked, answered] = match pair {
            Value::Array(pair) => <[Value; 2]>::try_from(pair).ok(),
            _ => None,
        }
        .ok_or_else(|| {
            let expected = "a pair of what was asked and answered";
            (format!("{at}/{i}"), Fault::WrongType { expected, found })
        })?;
        let text = |place: usize, value| {
            text_of(value).map_err(|fault| (format!("{at}/{i}/{place}"), fault))
        };
        Ok((text(0, asked)?, text(1, answered)?))
    };
    pairs.into_iter().enumerate().map(pair).collect()
}
