//! `chosen` and `rejected`: two answers, the first of which is preferred.
//!
//! | `prompt` | `chosen`, `rejected` | a row becomes |
//! |---|---|---|
//! | text | texts | prompt and completion, twice |
//! | – | texts | their common beginning is the prompt |
//! | messages | messages | the conversation, twice; the prompt's turns are not trained |
//! | – (or what the answers repeat) | messages | their common first messages are the prompt |
//! | text | messages | the prompt is the user's, unless the answers repeat it |
//! | `instruction`, `input`, `system`, `history` | texts | as in Alpaca |
//! | `conversations`, `messages` | a message each, or text | as in LLaMA-Factory's ranking sets |
//!
//! `margin` says by how much the chosen one is better.

use super::messages::{self, Turns};
use super::{Columns, alpaca, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{Conversation, Message, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[&["chosen", "rejected"]];
pub(super) const OPTIONAL: &[&str] = &[
    "prompt",
    "conversations",
    "messages",
    "instruction",
    "input",
    "system",
    "history",
    "margin",
    "tools",
    "chat_template_kwargs",
];

/// What both answers answer.
enum Asked {
    Nothing,
    Text(String),
    Turns(Turns),
}

enum Answer {
    Text(String),
    Turns(Turns),
}

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let margin = columns.optional_number("margin")?;
    let (chosen, rejected) = (answer(&mut columns, "chosen")?, answer(&mut columns, "rejected")?);
    let pair = match (chosen, rejected) {
        (Answer::Text(chosen), Answer::Text(rejected)) => texts(&mut columns, chosen, rejected)?,
        (Answer::Turns(chosen), Answer::Turns(rejected)) => turns(&mut columns, chosen, rejected)?,
        _ => {
            let expected = "two texts or two lists of messages";
            let fault = Fault::WrongType { expected, found: "one of each".into() };
            return Err((columns.pointer("rejected"), fault));
        }
    };
    let [chosen, rejected] = pair;
    if chosen == rejected {
        return Err((columns.pointer("rejected"), Fault::SameAnswer));
    }
    let chosen = match margin {
        Some(margin) => Sample::Labelled(Box::new(chosen), margin),
        None => chosen,
    };
    Ok(Sample::Tied(vec![chosen, rejected]))
}

fn texts(columns: &mut Columns, chosen: String, rejected: String) -> Faulty<[Sample; 2]> {
    match asked(columns)? {
        Asked::Text(prompt) => Ok([chosen, rejected]
            .map(|completion| Sample::PromptCompletion { prompt: prompt.clone(), completion })),
        Asked::Nothing => {
            let common = common_prefix(&chosen, &rejected);
            Ok([chosen, rejected].map(|text| Sample::PromptCompletion {
                prompt: text[..common].to_owned(),
                completion: text[common..].to_owned(),
            }))
        }
        Asked::Turns(prompt) => {
            let conversation = prompt.untrained().conversation(columns)?;
            Ok([chosen, rejected].map(|text| {
                let mut conversation = conversation.clone();
                conversation.messages.push(Message::new("assistant", text));
                conversation.weights.iter_mut().for_each(|weights| weights.push(1.0));
                Sample::Chat(conversation)
            }))
        }
    }
}

fn turns(columns: &mut Columns, chosen: Turns, rejected: Turns) -> Faulty<[Sample; 2]> {
    let pairs = chosen.messages.iter().zip(&rejected.messages);
    let common = pairs.take_while(|(left, right)| left == right).count();
    if common == chosen.messages.len() && common == rejected.messages.len() {
        return Err((columns.pointer("rejected"), Fault::SameAnswer));
    }
    let (prompt, repeated) = match asked(columns)? {
        Asked::Turns(prompt) => {
            let n = prompt.messages.len();
            let repeats = n <= common && prompt.messages == chosen.messages[..n];
            (if repeats { Turns::default() } else { prompt }, if repeats { common } else { 0 })
        }
        Asked::Text(prompt) if common == 0 => {
            let mut turns = Turns::default();
            turns.push(Message::new("user", prompt));
            (turns, 0)
        }
        _ => (Turns::default(), common),
    };
    if prompt.messages.is_empty() && repeated == 0 {
        return Err((columns.pointer("rejected"), Fault::NoCommonPrompt));
    }
    if repeated == chosen.messages.len().min(rejected.messages.len()) {
        let expected = "an answer behind the messages that both have in common";
        let fault = Fault::WrongType { expected, found: "none".into() };
        return Err((columns.pointer("rejected"), fault));
    }
    let prompt = prompt.untrained();
    // both need the row's tools
    let tools = Turns::default().conversation(columns)?;
    Ok([chosen, rejected].map(|answer| {
        let own = answer.weights.iter().map(|weight| weight.unwrap_or(1.0));
        let own = own.enumerate().map(|(i, weight)| if i < repeated { 0.0 } else { weight });
        let weights = prompt.weights.iter().map(|_| 0.0).chain(own).collect();
        let messages = [prompt.messages.clone(), answer.messages].concat();
        Sample::Chat(Conversation { messages, weights: Some(weights), ..tools.clone() })
    }))
}

fn asked(columns: &mut Columns) -> Faulty<Asked> {
    if let Some(prompt) = columns.optional("prompt") {
        let at = columns.pointer("prompt");
        return Ok(match prompt {
            list @ Value::Array(_) => Asked::Turns(messages::messages(list, &at, columns.adapter)?),
            text => Asked::Text(text_of(text).map_err(|fault| (at, fault))?),
        });
    }
    for column in ["conversations", "messages"] {
        if columns.has(column) {
            return messages::turns_of(columns, column).map(Asked::Turns);
        }
    }
    if columns.has("instruction") {
        return alpaca::question(columns).map(Asked::Turns);
    }
    Ok(Asked::Nothing)
}

fn answer(columns: &mut Columns, column: &str) -> Faulty<Answer> {
    let at = columns.pointer(column);
    match columns.required(column)? {
        Value::String(text) => Ok(Answer::Text(text)),
        list @ Value::Array(_) => messages::messages(list, &at, columns.adapter).map(Answer::Turns),
        one @ Value::Object(_) => {
            let (message, weight) = messages::message(one, columns.adapter)
                .map_err(|(inner, fault)| (format!("{at}{inner}"), fault))?;
            Ok(Answer::Turns(Turns { messages: vec![message], weights: vec![weight] }))
        }
        Value::Null => Err((at, Fault::NullContent)),
        other => {
            let fault = Fault::WrongType { expected: "text or messages", found: describe(&other) };
            Err((at, fault))
        }
    }
}

/// How many bytes both texts begin with; a space at the end belongs to the answers, as in TRL.
fn common_prefix(a: &str, b: &str) -> usize {
    let pairs = a.char_indices().zip(b.chars());
    let end =
        pairs.take_while(|((_, a), b)| a == b).last().map_or(0, |((at, c), _)| at + c.len_utf8());
    if end < a.len().min(b.len()) && a[..end].ends_with(' ') { end - 1 } else { end }
}
