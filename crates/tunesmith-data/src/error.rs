//! What can be wrong with data: each message names the file, the row, the place inside it, what was expected and found.

use crate::suggest;
use std::fmt;
use std::path::{Path, PathBuf};

/// Why data could not be read, encoded or resumed.
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// A path names nothing.
    #[error("{}: no such file or folder{}", path.display(), help_line(help))]
    NoSuchFile {
        /// The path as given.
        path: PathBuf,
        /// What stands nearby, where something does.
        help: Option<String>,
    },
    /// A pattern or a folder holds no data file.
    #[error("{}: no data file here; expected `.parquet`, `.jsonl`, `.ndjson` or `.json`", path.display())]
    NoDataFile {
        /// The folder or pattern.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: std::io::Error,
    },
    /// A whole file is not what it seems to be.
    #[error("{}: expected {expected}, found {found}{}", path.display(), help_line(help))]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What a sound file has.
        expected: String,
        /// What this one has.
        found: String,
        /// What to do about it.
        help: Option<String>,
    },
    /// All files are sound, and none holds a row.
    #[error("{}: expected at least one row, found 0 in {n_files} file(s)", path.display())]
    NoRows {
        /// The first file.
        path: PathBuf,
        /// How many files were read.
        n_files: usize,
    },
    /// The columns fit no row shape.
    #[error("{}: the columns fit no row shape: found {}{}", path.display(), suggest::list(found), help_line(help))]
    NoShape {
        /// The file.
        path: PathBuf,
        /// Its columns.
        found: Vec<String>,
        /// The nearest shape and what it lacks.
        help: Option<String>,
    },
    /// A file lacks a column that its shape needs.
    #[error("{}: shape {shape} needs the column `{column}`, found {}{}", path.display(), suggest::list(found), help_line(help))]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The row shape.
        shape: &'static str,
        /// The column that is not there.
        column: String,
        /// The columns that are.
        found: Vec<String>,
        /// The nearest name, or the mapping to write.
        help: Option<String>,
    },
    /// One row is malformed.
    #[error(transparent)]
    Row(#[from] Box<RowError>),
    /// A data set's TOML file, or the name of one, is wrong.
    #[error("{place}: {problem}{}", help_line(help))]
    Config {
        /// The file, with the key.
        place: String,
        /// Expected and found.
        problem: String,
        /// What to write instead.
        help: Option<String>,
    },
    /// A setting that this data cannot follow.
    #[error("{name}: expected {expected}, found {found}")]
    Setting {
        /// The setting.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// What the model brings (tokenizer, template, end token) does not suffice for rows of this kind.
    #[error("{message}")]
    Encoder {
        /// What the encoder says.
        message: String,
    },
    /// Every row was dropped.
    #[error(
        "expected at least one row with a trained token, found none in {rows} rows\nhelp: `tunesmith data show` marks what is trained in a row; a larger seq_len cuts less off"
    )]
    NothingTrained {
        /// Rows of the data set.
        rows: u64,
    },
    /// A cursor that no run over this data can have reached.
    #[error(
        "cursor {found} lies outside the data: {expected}\nhelp: the data or the settings changed since the checkpoint was written"
    )]
    Cursor {
        /// Epoch, window and pack that were asked for.
        found: String,
        /// What there is.
        expected: String,
    },
}

/// What kind of fault it is; a program turns it into its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The data itself is wrong (sysexits 65).
    BadData,
    /// An input is not there (66).
    MissingInput,
    /// Reading failed (74).
    Io,
    /// A configuration or a setting is wrong (78).
    BadConfig,
}

impl DataError {
    /// What kind of fault it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSuchFile { .. } | Self::NoDataFile { .. } => ErrorKind::MissingInput,
            Self::Io { .. } => ErrorKind::Io,
            Self::Config { .. }
            | Self::Setting { .. }
            | Self::Cursor { .. }
            | Self::Encoder { .. } => ErrorKind::BadConfig,
            Self::BadFile { .. } | Self::NoRows { .. } | Self::NoShape { .. } => ErrorKind::BadData,
            Self::MissingColumn { .. } | Self::Row(_) | Self::NothingTrained { .. } => {
                ErrorKind::BadData
            }
        }
    }

    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        if source.kind() == std::io::ErrorKind::NotFound {
            return Self::NoSuchFile { path: path.into(), help: None };
        }
        Self::Io { path: path.into(), source }
    }
}

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
        key: &'static str,
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
            Self::LabelCount { .. } | Self::ForeignLabel { .. } => "labels do not fit",
            Self::Json { .. } => "malformed JSON",
            Self::Truncated { .. } => "file ends inside the row",
            Self::InvalidUtf8 { .. } => "invalid UTF-8",
            Self::TooLong { .. } => "row too long",
            Self::ColumnType { .. } => "unreadable column type",
            Self::Encode { .. } => "refused by the template or tokenizer",
            Self::TooManyTokens { .. } => "too many tokens",
        }
    }

    fn help(&self) -> Option<String> {
        const SKIP: &str = "`--on-bad-row skip` leaves such rows out and counts them";
        let help = match self {
            Self::MissingColumn { column, found } => match suggest::column(column, found) {
                Some(near) => read_instead(column, near),
                None => SKIP.into(),
            },
            Self::MissingKey { found, .. } if found.iter().any(|key| key == "from") => {
                "a message is {\"role\": …, \"content\": …}; rename `from` and `value` first".into()
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
            Self::Truncated { .. } => "fetch or write the file again".into(),
            Self::ColumnType { .. } => return None,
            Self::Encode { message } if message.contains("\nhelp: ") => return None,
            _ => SKIP.into(),
        };
        Some(help)
    }
}

fn help_line(help: &Option<String>) -> String {
    help.as_ref().map_or_else(String::new, |help| format!("\nhelp: {help}"))
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
