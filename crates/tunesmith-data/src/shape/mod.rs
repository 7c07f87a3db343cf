//! Row shapes: which columns a row has, and what becomes of them. One file per shape.
//!
//! Each shape names the columns it needs and turns a row's columns into a `Sample`. A new shape is a file with the same
//! three items and an arm in each `match` below.

mod alpaca;
mod classification;
mod messages;
mod preference;
mod prompt_answer;
mod prompt_completion;
mod stepwise;
mod text;
mod tokens;
mod unpaired;

use crate::RowKnobs;
use crate::error::DataError;
use crate::fault::{Fault, describe, read_instead};
use crate::source::{Faulty, Row};
use crate::suggest;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::path::Path;
use tunesmith_tokens::Sample;

/// The roles that templates know.
pub(crate) const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "developer"];

/// A row shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// `messages`: a list of `{role, content}`; optional `system`, `tools`, `chat_template_kwargs`.
    Messages,
    /// `conversations`: a list of `{from, value}`, else as messages.
    #[serde(rename = "sharegpt")]
    ShareGpt,
    /// `instruction`, `output`, optional `input`, `system`, `history`.
    Alpaca,
    /// `prompt` and `completion`: two texts, or two lists of messages.
    PromptCompletion,
    /// `prompt`, and an `answer` to hold others against or the `reward` of one.
    PromptAnswer,
    /// `prompt` alone: text or a list of messages.
    PromptOnly,
    /// `chosen` and `rejected`, the prompt apart or inside them.
    Preference,
    /// An answer with a `label` that says whether it is wanted.
    UnpairedPreference,
    /// `prompt`, `completions` and `labels`: the steps of a solution.
    StepwiseSupervision,
    /// `text`, optional `text_pair`, and `label`.
    Classification,
    /// `text`.
    Text,
    /// `input_ids`, optional `labels`: tokenised by someone else, taken verbatim.
    Tokens,
}

impl Shape {
    /// All shapes, in the order in which columns are tried against them.
    pub const ALL: [Self; 12] = [
        Self::Tokens,
        Self::Preference,
        Self::StepwiseSupervision,
        Self::UnpairedPreference,
        Self::Messages,
        Self::ShareGpt,
        Self::Alpaca,
        Self::PromptCompletion,
        Self::Classification,
        Self::Text,
        Self::PromptAnswer,
        Self::PromptOnly,
    ];

    /// Its name in a data set's TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::ShareGpt => "sharegpt",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
            Self::PromptAnswer => "prompt-answer",
            Self::PromptOnly => "prompt-only",
            Self::Preference => "preference",
            Self::UnpairedPreference => "unpaired-preference",
            Self::StepwiseSupervision => "stepwise-supervision",
            Self::Classification => "classification",
            Self::Text => "text",
            Self::Tokens => "tokens",
        }
    }

    /// The sets of columns of which every row has one.
    pub fn forms(self) -> &'static [&'static [&'static str]] {
        match self {
            Self::Messages => messages::REQUIRED,
            Self::ShareGpt => messages::SHAREGPT,
            Self::Alpaca => alpaca::REQUIRED,
            Self::PromptCompletion => prompt_completion::REQUIRED,
            Self::PromptAnswer => prompt_answer::REQUIRED,
            Self::PromptOnly => prompt_completion::PROMPT_ONLY,
            Self::Preference => preference::REQUIRED,
            Self::UnpairedPreference => unpaired::REQUIRED,
            Self::StepwiseSupervision => stepwise::REQUIRED,
            Self::Classification => classification::REQUIRED,
            Self::Text => text::REQUIRED,
            Self::Tokens => tokens::REQUIRED,
        }
    }

    /// The columns that a row may have besides.
    pub fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Messages | Self::ShareGpt => messages::OPTIONAL,
            Self::Alpaca => alpaca::OPTIONAL,
            Self::PromptCompletion | Self::PromptOnly => prompt_completion::OPTIONAL,
            Self::PromptAnswer => prompt_answer::OPTIONAL,
            Self::Preference => preference::OPTIONAL,
            Self::UnpairedPreference => unpaired::OPTIONAL,
            Self::StepwiseSupervision => stepwise::OPTIONAL,
            Self::Classification => classification::OPTIONAL,
            Self::Text => text::OPTIONAL,
            Self::Tokens => tokens::OPTIONAL,
        }
    }

    /// The columns it reads.
    pub fn columns(self) -> impl Iterator<Item = &'static str> {
        let required = self.forms().iter().copied().flatten();
        required.chain(self.optional()).chain(&ROW_WEIGHTS).copied()
    }
}

/// What rows of every shape may say about their own weight: a number; true or false.
const ROW_WEIGHTS: [&str; 2] = ["loss_weight", "train"];

/// A shape with the names that its columns and roles have in the files at hand.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    pub(crate) shape: Shape,
    /// The shape's name of a column → the file's.
    names: BTreeMap<String, String>,
    roles: BTreeMap<String, String>,
    /// Our name of a message's key → the file's.
    keys: BTreeMap<String, String>,
    /// The names of the classes, in the order of their indices.
    labels: Vec<String>,
    /// The columns to read, as the files call them.
    pub(crate) wanted: Vec<String>,
}

impl Adapter {
    pub(crate) fn new(shape: Shape, knobs: &RowKnobs) -> Self {
        let mut wanted: Vec<String> =
            shape.columns().map(|column| named(&knobs.columns, column).to_owned()).collect();
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            shape,
            names: knobs.columns.clone(),
            roles: knobs.roles.clone(),
            keys: knobs.keys.clone(),
            labels: knobs.labels.clone(),
            wanted,
        }
    }

    /// The sample that a row holds.
    pub(crate) fn sample(&self, row: Row) -> Faulty<Sample> {
        let mut columns = Columns { row, adapter: self };
        let weight = columns.row_weight()?;
        let sample = match self.shape {
            Shape::Messages | Shape::ShareGpt => messages::sample(columns),
            Shape::Alpaca => alpaca::sample(columns),
            Shape::PromptCompletion => prompt_completion::sample(&mut columns),
            Shape::PromptAnswer => prompt_answer::sample(columns),
            Shape::PromptOnly => prompt_completion::prompt_only(columns),
            Shape::Preference => preference::sample(columns),
            Shape::UnpairedPreference => unpaired::sample(columns),
            Shape::StepwiseSupervision => stepwise::sample(columns),
            Shape::Classification => classification::sample(columns),
            Shape::Text => text::sample(columns),
            Shape::Tokens => tokens::sample(columns),
        }?;
        Ok(match weight {
            Some(weight) if weight != 1.0 => Sample::Weighted(Box::new(sample), weight),
            _ => sample,
        })
    }

    /// Whether a file has the columns that every row needs.
    /// `sound` is a file that has them.
    pub(crate) fn check(
        &self,
        path: &Path,
        found: &[String],
        sound: Option<&&Path>,
    ) -> Result<(), DataError> {
        let missing = missing(self.shape, &self.names, found);
        let Some(column) = missing.first() else { return Ok(()) };
        let near = suggest::column(column, found);
        let other = nearest_shape(&self.names, found)
            .filter(|(shape, missing)| *shape != self.shape && missing.is_empty());
        let help = match (other, near) {
            (Some((shape, _)), _) => format!("the columns fit `shape = \"{}\"`", shape.name()),
            (None, Some(near)) => read_instead(column, near),
            (None, None) => format!(
                "`[columns] {column} = \"…\"` in the data set's TOML names the column to read"
            ),
        };
        Err(DataError::MissingColumn {
            path: path.into(),
            shape: self.shape.name(),
            column: named(&self.names, column).into(),
            found: found.to_vec(),
            other: sound.map(|path| Box::from(*path)),
            help: Some(help),
        })
    }
}

/// The first shape whose needed columns are all there.
pub(crate) fn detect(
    names: &BTreeMap<String, String>,
    path: &Path,
    found: &[String],
) -> Result<Shape, DataError> {
    match nearest_shape(names, found) {
        Some((shape, missing)) if missing.is_empty() => Ok(shape),
        nearest => Err(DataError::NoShape {
            path: path.into(),
            found: found.to_vec(),
            help: nearest.map(|n| lacks(n, found)),
        }),
    }
}

fn lacks((shape, missing): (Shape, Vec<&'static str>), found: &[String]) -> String {
    let is_near = |column: &&str| suggest::column(column, found).is_some();
    if !shape.forms().iter().copied().flatten().any(is_near) {
        let columns =
            |shape: Shape| format!("{} ({})", shape.name(), suggest::list(shape.forms()[0]));
        let shapes = Shape::ALL.map(columns).join(", ");
        return format!(
            "the shapes are {shapes}; `[columns]` in the data set's TOML names columns that go by other names"
        );
    }
    let map =
        |column: &&str| format!("{column} = \"{}\"", suggest::column(column, found).unwrap_or("…"));
    let map = missing.iter().map(map).collect::<Vec<_>>().join(", ");
    let (name, missing) = (shape.name(), suggest::list(&missing));
    format!(
        "shape {name} is nearest and lacks {missing}; in the data set's TOML: columns = {{ {map} }}"
    )
}

/// The shape of whose needed columns the most are there or probably go by another name; with
/// those that are not there.
fn nearest_shape(
    names: &BTreeMap<String, String>,
    found: &[String],
) -> Option<(Shape, Vec<&'static str>)> {
    let rank = |(_, missing): &(Shape, Vec<&'static str>)| {
        let lost = missing.iter().filter(|column| suggest::column(column, found).is_none());
        (!missing.is_empty(), lost.count(), missing.len())
    };
    Shape::ALL.into_iter().map(|shape| (shape, missing(shape, names, found))).min_by_key(rank)
}

/// What the nearest form of a shape lacks.
fn missing(shape: Shape, names: &BTreeMap<String, String>, found: &[String]) -> Vec<&'static str> {
    let is_there = |column: &str| found.iter().any(|f| f == named(names, column));
    let of = |form: &&[&'static str]| -> Vec<&'static str> {
        form.iter().copied().filter(|column| !is_there(column)).collect()
    };
    shape.forms().iter().map(of).min_by_key(Vec::len).unwrap_or_default()
}

fn named<'a>(names: &'a BTreeMap<String, String>, column: &'a str) -> &'a str {
    names.get(column).map_or(column, String::as_str)
}

/// A row's columns on their way into a sample; every fault it reports carries its JSON pointer.
pub(crate) struct Columns<'a> {
    row: Row,
    adapter: &'a Adapter,
}

impl Columns<'_> {
    /// A column that must be there.
    fn required(&mut self, column: &str) -> Faulty<Value> {
        let name = named(&self.adapter.names, column);
        match self.row.swap_remove(name) {
            Some(value) => Ok(value),
            None => {
                let found = self.row.keys().cloned().collect();
                Err((String::new(), Fault::MissingColumn { column: name.into(), found }))
            }
        }
    }

    /// Whether a column is there and not null.
    fn has(&self, column: &str) -> bool {
        self.row.get(named(&self.adapter.names, column)).is_some_and(|value| !value.is_null())
    }

    /// Whether a column is there, null or not.
    fn names(&self, column: &str) -> bool {
        self.row.contains_key(named(&self.adapter.names, column))
    }

    /// What the row says that it counts.
    fn row_weight(&mut self) -> Faulty<Option<f32>> {
        for column in ROW_WEIGHTS {
            if let Some(value) = self.optional(column) {
                let weight = weight_of(&value).map_err(|fault| (self.pointer(column), fault));
                return weight.map(Some);
            }
        }
        Ok(None)
    }

    /// A column that may hold a number.
    fn optional_number(&mut self, column: &str) -> Faulty<Option<f32>> {
        let Some(value) = self.optional(column) else { return Ok(None) };
        match value.as_f64() {
            Some(number) => Ok(Some(number as f32)),
            None => {
                let fault = Fault::WrongType { expected: "a number", found: describe(&value) };
                Err((self.pointer(column), fault))
            }
        }
    }

    /// A column that may be absent or null.
    fn optional(&mut self, column: &str) -> Option<Value> {
        self.row.swap_remove(named(&self.adapter.names, column)).filter(|value| !value.is_null())
    }

    fn pointer(&self, column: &str) -> String {
        format!("/{}", named(&self.adapter.names, column))
    }

    /// A column that must hold text.
    fn text(&mut self, column: &str) -> Faulty<String> {
        let value = self.required(column)?;
        text_of(value).map_err(|fault| (self.pointer(column), fault))
    }

    /// A column that may hold text.
    fn optional_text(&mut self, column: &str) -> Faulty<String> {
        let value = self.optional(column).unwrap_or_else(|| Value::String(String::new()));
        text_of(value).map_err(|fault| (self.pointer(column), fault))
    }
}

fn text_of(value: Value) -> Result<String, Fault> {
    match value {
        Value::String(text) => Ok(text),
        Value::Null => Err(Fault::NullContent),
        other => Err(Fault::WrongType { expected: "text", found: describe(&other) }),
    }
}

fn list(value: Value, pointer: &str, expected: &'static str) -> Faulty<Vec<Value>> {
    let value = match &value {
        // files of text alone hold lists as JSON
        Value::String(text) => serde_json::from_str(text).unwrap_or(value),
        _ => value,
    };
    match value {
        Value::Array(list) => Ok(list),
        other => Err((pointer.into(), Fault::WrongType { expected, found: describe(&other) })),
    }
}

fn object(value: Value, expected: &'static str) -> Result<Map<String, Value>, Fault> {
    match value {
        Value::Object(fields) => Ok(fields),
        other => Err(Fault::WrongType { expected, found: describe(&other) }),
    }
}

/// A weight: a number of at least 0, or true and false.
fn weight_of(value: &Value) -> Result<f32, Fault> {
    let number = match value {
        Value::Bool(counts) => return Ok(f32::from(u8::from(*counts))),
        Value::Number(number) => number.as_f64(),
        Value::String(text) => match text.as_str() {
            "true" | "True" => Some(1.0),
            "false" | "False" => Some(0.0),
            text => text.parse().ok(),
        },
        _ => None,
    };
    match number {
        Some(number) if number >= 0.0 && number.is_finite() => Ok(number as f32),
        _ => {
            let expected = "a number of at least 0, or true or false";
            Err(Fault::WrongType { expected, found: describe(value) })
        }
    }
}
