//! What can be wrong with a row, and where: the file, the row, the JSON pointer of the place inside it.

use crate::error::help_line;
use crate::suggest;
use std::fmt;
use std::path::PathBuf;

/// Where a row stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub path: PathBuf,
    /// Counted from 0 over all files of the data set.
    pub row: u64,
    /// The line of the file, from 1, where it has lines.
    pub line: Option<u64>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: row {}", self.path.display(), self.row)?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line})"))
    }
}

/// A malformed row: where, and what is wrong with it.
#[derive(Debug)]
pub struct RowError {
    /// Where the row stands.
    pub place: Place,
    /// The JSON pointer of the value inside the row; empty for the row itself.
    pub pointer: String,
    /// What is wrong there.
    pub fault: Fault,
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let space = if self.pointer.is_empty() { "" } else { " " };
        write!(
            f,
            "{}{space}{}: {}{}",
            self.place,
            self.pointer,
            self.fault,
            help_line(&self.fault.help())
        )
    }
}

impl std::error::Error for RowError {}

/// What is wrong with a row.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// A column that the row's shape needs is not there.
    #[error("expected the column `{column}`, found {}", suggest::list(found))]
    MissingColumn {
        /// The column.
        column: String,
        /// The row's columns.
        found: Vec<String>,
    },
    /// A key that an object inside the row needs is not there.
    #[error("expected the key `{key}`, found {}", suggest::list(found))]
    MissingKey {
        /// The key.
        key: String,
        /// The object's keys.
        found: Vec<String>,
    },
    /// A value of another type.
    #[error("expected {expected}, found {found}")]
    WrongType {
        /// What the shape needs.
        expected: &'static str,
        /// What stands there, cut short.
        found: String,
    },
    /// A message without text.
    #[error("expected text, found null")]
    NullContent,
    /// A conversation of no message.
    #[error("expected at least one message, found an empty list")]
    EmptyMessages,
    /// A role that no template knows.
    #[error("unknown role `{role}`")]
    UnknownRole {
        /// The role as written.
        role: String,
    },
    /// A part of a message that is no text.
    #[error("expected text, found a part of type `{kind}`")]
    NotText {
        /// Its type as written.
        kind: String,
    },
    /// A label of a class that is not listed.
    #[error("unknown label `{found}`{}", if known.is_empty() { String::new() } else { format!(", known are {}", suggest::list(known)) })]
    UnknownLabel {
        /// The label as written.
        found: String,
        /// The labels that are listed.
        known: Vec<String>,
    },
    /// A label that does not say whether an answer is wanted.
    #[error("expected true or false: whether the answer is wanted, found {found}")]
    NotWanted {
        /// What stands there.
        found: String,
    },
    /// Two answers between which there is nothing to prefer.
    #[error("the chosen and the rejected answer are the same")]
    SameAnswer,
    /// Two conversations that do not answer the same prompt.
    #[error(
        "the chosen and the rejected conversation begin with different messages, and there is no prompt"
    )]
    NoCommonPrompt,
    /// Steps and labels whose numbers must agree.
    #[error("expected {expected} labels, one for each step, found {found}")]
    StepCount {
        /// How many steps.
        expected: usize,
        /// How many labels.
        found: usize,
    },
    /// Two columns whose lengths must agree.
    #[error("expected {expected} labels, one for each of `input_ids`, found {found}")]
    LabelCount {
        /// How many ids.
        expected: usize,
        /// How many labels.
        found: usize,
    },
    /// A label that is neither its token nor -100.
    #[error("expected -100 or the token's own id {id} (labels are not shifted), found {label}")]
    ForeignLabel {
        /// The token at this place.
        id: u32,
        /// Its label.
        label: i64,
    },
    /// A row of a CSV file that has not one cell for each column.
    #[error("expected {expected} cells, one for each column of the header, found {found}")]
    CellCount {
        /// Columns of the header.
        expected: usize,
        /// Cells of the row.
        found: usize,
    },
    /// The bytes of the row could not be read.
    #[error("{problem}, at byte {offset} of the file")]
    Unreadable {
        /// What the operating system says.
        problem: String,
        /// Where in the file.
        offset: u64,
    },
    /// Not JSON.
    #[error("{problem}, at byte {offset} of the file")]
    Json {
        /// What the parser says.
        problem: String,
        /// Where in the file.
        offset: u64,
    },
    /// The file stops before the row is complete.
    #[error("the file ends inside row {row}, at byte {size}")]
    Truncated {
        /// The row, counted over the data set.
        row: u64,
        /// How long the file is.
        size: u64,
    },
    /// Bytes that are no text.
    #[error("expected UTF-8, found the byte 0x{byte:02x} at byte {offset} of the file")]
    InvalidUtf8 {
        /// The first offending byte.
        byte: u8,
        /// Where in the file.
        offset: u64,
    },
    /// A row too long to be one.
    #[error("expected at most {limit} bytes, found {found}")]
    TooLong {
        /// Bytes of the row.
        found: u64,
        /// What is read at most.
        limit: u64,
    },
    /// A number that is none, such as tables have where a value is missing.
    #[error("expected a number, found {found}")]
    NotFinite {
        /// NaN or an infinity.
        found: f64,
    },
    /// A column type that has no meaning as text, number or list.
    #[error("expected text, numbers, lists or structs, found a column of type {found}")]
    ColumnType {
        /// Arrow's name of the type.
        found: String,
    },
    /// The row is well-formed, and the template or the tokenizer refuses it.
    #[error("{message}")]
    Encode {
        /// What the encoder says.
        message: String,
    },
    /// More tokens than a packed row holds.
    #[error("expected at most {limit} tokens, found {found}")]
    TooManyTokens {
        /// Tokens of the example.
        found: usize,
        /// The capacity of a pack.
        limit: usize,
    },
}

impl Fault {
    /// A short name: what faults are counted by.
    pub fn code(&self) -> &'static str {
        match self {
            Self::MissingColumn { .. } => "missing column",
            Self::MissingKey { .. } => "missing key",
            Self::WrongType { .. } => "wrong type",
            Self::NullContent => "null content",
            Self::EmptyMessages => "empty messages",
            Self::UnknownRole { .. } => "unknown role",
            Self::NotText { .. } => "content that is no text",
            Self::UnknownLabel { .. } => "unknown label",
            Self::NotWanted { .. } => "no label of a wanted answer",
            Self::SameAnswer => "chosen and rejected are the same",
            Self::NoCommonPrompt => "chosen and rejected share no prompt",
            Self::StepCount { .. } => "labels do not fit",
            Self::LabelCount { .. } | Self::ForeignLabel { .. } => "labels do not fit",
            Self::CellCount { .. } => "wrong number of cells",
            Self::NotFinite { .. } => "no number",
            Self::Unreadable { .. } => "unreadable",
            Self::Json { .. } => "malformed JSON",
            Self::Truncated { .. } => "file ends inside the row",
            Self::InvalidUtf8 { .. } => "invalid UTF-8",
            Self::TooLong { .. } => "row too long",
            Self::ColumnType { .. } => "unreadable column type",
            Self::Encode { .. } => "refused by the template or tokenizer",
            Self::TooManyTokens { .. } => "too many tokens",
        }
    }

    pub(crate) fn help(&self) -> Option<String> {
        const SKIP: &str = "`--on-bad-row skip` leaves such rows out and counts them";
        let help = match self {
            Self::MissingColumn { column, found } => match suggest::column(column, found) {
                Some(near) => read_instead(column, near),
                None => SKIP.into(),
            },
            Self::MissingKey { key, found } => match suggest::nearest(key, found.iter().map(String::as_str)) {
                Some(near) => format!("`[keys] {key} = \"{near}\"` in the data set's TOML reads `{near}` instead"),
                None => SKIP.into(),
            },
            Self::NotText { .. } => format!("models of text read text alone; {SKIP}"),
            Self::UnknownLabel { found, known } => {
                match suggest::nearest(found, known.iter().map(String::as_str)) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => "`labels = [\"…\", \"…\"]` in the data set's TOML lists the classes in the order of their indices".into(),
                }
            }
            Self::NotWanted { .. } => {
                "where the label means something else, `shape = \"messages\"` in the data set's TOML reads the rows without it".into()
            }
            Self::UnknownRole { role } => {
                let known = match role.to_lowercase().as_str() {
                    "human" | "prompter" | "question" => "user",
                    "gpt" | "bot" | "model" | "ai" | "chatgpt" | "bing" | "answer" => "assistant",
                    "observation" | "function_response" | "tool_response" => "tool",
                    other => suggest::nearest(other, crate::shape::ROLES).unwrap_or("user"),
                };
                format!(
                    "`[roles] {role} = \"{known}\"` in the data set's TOML reads it as `{known}`"
                )
            }
            Self::ForeignLabel { .. } => {
                "set a label to -100 where its token is not trained".into()
            }
            Self::TooManyTokens { limit, .. } => {
                format!("give the encoder a maximal length of {limit} tokens or less")
            }
            Self::CellCount { .. } => {
                "a cell that holds a delimiter, a quote or a line end stands in quotes".into()
            }
            Self::Truncated { .. } => "fetch or write the file again".into(),
            Self::ColumnType { .. } => return None,
            Self::Encode { message } if message.contains("\nhelp: ") => return None,
            _ => SKIP.into(),
        };
        Some(help)
    }
}

/// The help line that maps a column.
pub(crate) fn read_instead(column: &str, near: &str) -> String {
    format!("`[columns] {column} = \"{near}\"` in the data set's TOML reads `{near}` instead")
}

/// How a JSON value looks in a message: its type, and its beginning where that helps.
pub(crate) fn describe(value: &serde_json::Value) -> String {
    use serde_json::Value;
    let kind = match value {
        Value::Null => return "null".into(),
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    let text = value.to_string();
    let mut start: String = text.chars().take(40).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    format!("{kind}: {start}")
}
