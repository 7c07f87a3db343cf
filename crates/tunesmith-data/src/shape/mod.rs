//! Row shapes: which columns a row has, and what becomes of them. One file per shape.
//!
//! Each shape names the columns it needs and turns a row's columns into a `Sample`. A new shape is a file with the same
//! three items and an arm in each `match` below.

mod alpaca;
mod messages;
mod prompt_completion;
mod text;
mod tokens;

use crate::RowKnobs;
use crate::error::DataError;
use crate::fault::{Fault, describe, read_instead};
use crate::source::{Faulty, Row};
use crate::suggest;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tunesmith_tokens::Sample;

/// The roles that templates know.
pub(crate) const ROLES: [&str; 5] = ["system", "user", "assistant", "tool", "developer"];

/// A row shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shape {
    /// `messages`: a list of `{role, content}`; optional `tools`, `chat_template_kwargs`.
    Messages,
    /// `instruction`, `output`, optional `input`.
    Alpaca,
    /// `prompt` and `completion`: two texts, or two lists of messages.
    PromptCompletion,
    /// `text`.
    Text,
    /// `input_ids`, optional `labels`: tokenised by someone else, taken verbatim.
    Tokens,
}

impl Shape {
    /// All shapes, in the order in which columns are tried against them.
    pub const ALL: [Self; 5] =
        [Self::Tokens, Self::Messages, Self::Alpaca, Self::PromptCompletion, Self::Text];

    /// Its name in a data set's TOML.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Alpaca => "alpaca",
            Self::PromptCompletion => "prompt-completion",
            Self::Text => "text",
            Self::Tokens => "tokens",
        }
    }

    /// The columns that every row has.
    pub fn required(self) -> &'static [&'static str] {
        match self {
            Self::Messages => messages::REQUIRED,
            Self::Alpaca => alpaca::REQUIRED,
            Self::PromptCompletion => prompt_completion::REQUIRED,
            Self::Text => text::REQUIRED,
            Self::Tokens => tokens::REQUIRED,
        }
    }

    /// The columns that a row may have.
    pub fn optional(self) -> &'static [&'static str] {
        match self {
            Self::Messages => messages::OPTIONAL,
            Self::Alpaca => alpaca::OPTIONAL,
            Self::PromptCompletion => prompt_completion::OPTIONAL,
            Self::Text => text::OPTIONAL,
            Self::Tokens => tokens::OPTIONAL,
        }
    }

    /// The columns it reads.
    pub fn columns(self) -> impl Iterator<Item = &'static str> {
        self.required().iter().chain(self.optional()).copied()
    }
}

/// A shape with the names that its columns and roles have in the files at hand.
#[derive(Debug, Clone)]
pub(crate) struct Adapter {
    pub(crate) shape: Shape,
    /// The shape's name of a column → the file's.
    names: BTreeMap<String, String>,
    roles: BTreeMap<String, String>,
    /// The columns to read, as the files call them.
    pub(crate) wanted: Vec<String>,
}

impl Adapter {
    pub(crate) fn new(shape: Shape, knobs: &RowKnobs) -> Self {
        let wanted =
            shape.columns().map(|column| named(&knobs.columns, column).to_owned()).collect();
        Self { shape, names: knobs.columns.clone(), roles: knobs.roles.clone(), wanted }
    }

    /// The sample that a row holds.
    pub(crate) fn sample(&self, row: Row) -> Faulty<Sample> {
        let columns = Columns { row, adapter: self };
        match self.shape {
            Shape::Messages => messages::sample(columns),
            Shape::Alpaca => alpaca::sample(columns),
            Shape::PromptCompletion => prompt_completion::sample(columns),
            Shape::Text => text::sample(columns),
            Shape::Tokens => tokens::sample(columns),
        }
    }

    /// Whether a file has the columns that every row needs.
    pub(crate) fn check(&self, path: &Path, found: &[String]) -> Result<(), DataError> {
        let missing = self
            .shape
            .required()
            .iter()
            .find(|column| !found.iter().any(|f| f == named(&self.names, column)));
        let Some(column) = missing else { return Ok(()) };
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
    if shape.required().iter().all(|column| suggest::column(column, found).is_none()) {
        let columns =
            |shape: Shape| format!("{} ({})", shape.name(), suggest::list(shape.required()));
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
    let is_there = |column: &str| found.iter().any(|f| f == named(names, column));
    let rank = |shape: &Shape| {
        let missing = shape.required().iter().filter(|column| !is_there(column));
        let lost = missing.clone().filter(|column| suggest::column(column, found).is_none());
        let (missing, lost) = (missing.count(), lost.count());
        (missing > 0, lost, missing)
    };
    let shape = Shape::ALL.into_iter().min_by_key(rank)?;
    let missing = shape.required().iter().filter(|column| !is_there(column));
    Some((shape, missing.copied().collect()))
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
