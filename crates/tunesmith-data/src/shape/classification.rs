//! `text`, or `text` and `text_pair`, with a `label`: an index, a score, true or false, or a name that `labels` in the
//! data set's TOML lists.

use super::Columns;
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::Sample;

pub(super) const REQUIRED: &[&[&str]] = &[&["text", "label"]];
pub(super) const OPTIONAL: &[&str] = &["text_pair"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let text = columns.text("text")?;
    let pair = match columns.optional("text_pair") {
        Some(pair) => Some(super::text_of(pair).map_err(|f| (columns.pointer("text_pair"), f))?),
        None => None,
    };
    let label = columns.required("label")?;
    let label = label_of(&label, &columns.adapter.labels);
    let label = label.map_err(|fault| (columns.pointer("label"), fault))?;
    Ok(Sample::Classified { text, pair, label })
}

fn label_of(label: &Value, names: &[String]) -> Result<f32, Fault> {
    let found = match label {
        Value::Bool(label) => return Ok(f32::from(u8::from(*label))),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or(f64::NAN);
            let is_index = number >= 0.0 && number.fract() == 0.0;
            if names.is_empty() || (is_index && number < names.len() as f64) {
                return Ok(number as f32);
            }
            number.to_string()
        }
        Value::String(name) => name.clone(),
        other => {
            let expected = "a label: a number, true or false, or a name";
            return Err(Fault::WrongType { expected, found: describe(other) });
        }
    };
    if let Some(index) = names.iter().position(|name| *name == found) {
        return Ok(index as f32);
    }
    // files of text alone have numbers as text
    match found.parse::<f32>() {
        Ok(number) if names.is_empty() && number.is_finite() => Ok(number),
        _ => Err(Fault::UnknownLabel { found, known: names.to_vec() }),
    }
}
