//! `input_ids`, optional `labels`: token ids taken verbatim.
//!
//! Labels are those of transformers, not shifted: `labels[i]` is `input_ids[i]` where that token is trained and -100
//! where it is not. Without labels every token is trained.
//!
//! ```text
//! input_ids   5    9   2   7
//! labels   -100 -100   2   7      trained: no no yes yes
//! ```

use super::{Columns, list};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::Value;
use tunesmith_tokens::{IGNORE, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[&["input_ids"]];
pub(super) const OPTIONAL: &[&str] = &["labels"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let ids_at = columns.pointer("input_ids");
    let ids = list(columns.required("input_ids")?, &ids_at, "a list of numbers")?;
    let id = |(i, value): (usize, &Value)| {
        let id = value.as_u64().and_then(|id| u32::try_from(id).ok());
        id.ok_or_else(|| {
            (
                format!("{ids_at}/{i}"),
                Fault::WrongType { expected: "a token id", found: describe(value) },
            )
        })
    };
    let ids = ids.iter().enumerate().map(id).collect::<Faulty<Vec<u32>>>()?;
    let labels_at = columns.pointer("labels");
    let Some(labels) = columns.optional("labels") else {
        return Ok(Sample::Tokens { trained: vec![true; ids.len()], ids });
    };
    let labels = list(labels, &labels_at, "a list of numbers")?;
    if labels.len() != ids.len() {
        return Err((labels_at, Fault::LabelCount { expected: ids.len(), found: labels.len() }));
    }
    let is_trained = |(i, (value, &id)): (usize, (&Value, &u32))| match value.as_i64() {
        Some(IGNORE) => Ok(false),
        Some(label) if label == i64::from(id) => Ok(true),
        Some(label) => Err((format!("{labels_at}/{i}"), Fault::ForeignLabel { id, label })),
        None => Err((
            format!("{labels_at}/{i}"),
            Fault::WrongType { expected: "a label", found: describe(value) },
        )),
    };
    let trained = labels.iter().zip(&ids).enumerate().map(is_trained).collect::<Faulty<_>>()?;
    Ok(Sample::Tokens { ids, trained })
}
