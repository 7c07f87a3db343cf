//! `prompt` and `answer`: what a right answer is held against, or `prompt` and `reward`: what an answer was worth. The
//! prompt is asked, and neither of the others is trained; what is done with them is up to the objective.

use super::prompt_completion::prompt_only;
use super::{Columns, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::Sample;

pub(super) const REQUIRED: &[&[&str]] = &[&["prompt", "answer"], &["prompt", "reward"]];
pub(super) const OPTIONAL: &[&str] = &["tools", "chat_template_kwargs"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let (answer_at, reward_at) = (columns.pointer("answer"), columns.pointer("reward"));
    let (names_answer, names_reward) = (columns.names("answer"), columns.names("reward"));
    let reward = columns.optional_number("reward")?;
    if names_reward && reward.is_none() {
        let (expected, found) = ("a number", describe(&Value::Null));
        return Err((reward_at, Fault::WrongType { expected, found }));
    }
    if names_reward && !names_answer {
        return prompt_only(columns);
    }
    let answer = columns.required("answer")?;
    let empty = match answer {
        Value::Number(_) | Value::Bool(_) => false,
        Value::Array(list) => list.is_empty(),
        other => text_of(other).map_err(|fault| (answer_at.clone(), fault))?.trim().is_empty(),
    };
    if empty {
        let expected = "an answer to hold others against";
        return Err((answer_at, Fault::WrongType { expected, found: "none".into() }));
    }
    prompt_only(columns)
}
