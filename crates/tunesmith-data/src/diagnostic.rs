//! An error or a remark in the form that programs read: what people read, taken apart.

use crate::DataError;
use serde::Serialize;
use std::path::PathBuf;

/// One kind of error or remark, with the rows it concerns.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diagnostic {
    /// How bad it is.
    pub level: Level,
    /// A short name that stays the same: `null-content`.
    pub code: String,
    /// What was expected and found.
    pub message: String,
    /// The file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The first row, counted from 0 over all files of the data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<u64>,
    /// The line of the file it starts on, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The JSON pointer of the place inside the row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pointer: Option<String>,
    /// How many rows are alike.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alike: Option<u64>,
    /// The first few of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<u64>,
    /// A way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<String>,
}

/// How bad a diagnostic is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// A run stops here, or skips the row where it was told to.
    Error,
    /// A run goes on, and trains less or otherwise than the row seems to ask for.
    Note,
}

impl From<&DataError> for Diagnostic {
    fn from(error: &DataError) -> Self {
        let (level, code) = (Level::Error, error.code());
        let nowhere = Self {
            level,
            code,
            message: String::new(),
            file: error.file().map(Into::into),
            row: None,
            line: None,
            pointer: None,
            alike: None,
            rows: Vec::new(),
            help: None,
        };
        if let DataError::Row(row) = error {
            let (message, help) = apart(&row.fault.to_string());
            return Self {
                message,
                row: Some(row.place.row),
                line: row.place.line,
                pointer: Some(row.pointer.clone()),
                help: help.or_else(|| row.fault.help()),
                ..nowhere
            };
        }
        let (message, help) = apart(&error.to_string());
        Self { message, help, ..nowhere }
    }
}

/// A message and its help line.
fn apart(text: &str) -> (String, Option<String>) {
    match text.split_once("\nhelp: ") {
        Some((message, help)) => (message.to_owned(), Some(help.to_owned())),
        None => (text.to_owned(), None),
    }
}

impl DataError {
    /// A short name that stays the same: `null-content`, `no-such-file`.
    pub fn code(&self) -> String {
        let code = match self {
            Self::NoSuchFile { .. } => "no such file",
            Self::NoDataFile { .. } => "no data file",
            Self::MixedFolder { .. } => "mixed folder",
            Self::Io { .. } => "unreadable",
            Self::BadFile { .. } => "bad file",
            Self::Changed { .. } => "file changed",
            Self::NoRows { .. } => "no rows",
            Self::NoShape { .. } => "no shape",
            Self::MissingColumn { .. } => "missing column",
            Self::Row(row) => row.fault.code(),
            Self::Config { .. } => "bad configuration",
            Self::Setting { .. } => "bad setting",
            Self::Encoder { .. } => "model does not suffice",
            Self::NothingTrained { .. } => "nothing trained",
            Self::Cursor { .. } => "cursor outside",
            Self::Cache { .. } => "bad cache",
        };
        kebab(code)
    }

    fn file(&self) -> Option<&std::path::Path> {
        match self {
            Self::NoSuchFile { path, .. }
            | Self::NoDataFile { path }
            | Self::MixedFolder { path, .. }
            | Self::Io { path, .. }
            | Self::BadFile { path, .. }
            | Self::Changed { path }
            | Self::NoRows { path, .. }
            | Self::NoShape { path, .. }
            | Self::MissingColumn { path, .. }
            | Self::Cache { path, .. } => Some(path),
            Self::Row(row) => Some(&row.place.path),
            Self::Config { .. }
            | Self::Setting { .. }
            | Self::Encoder { .. }
            | Self::NothingTrained { .. }
            | Self::Cursor { .. } => None,
        }
    }
}

/// A fault's words as one: `null content` → `null-content`.
pub(crate) fn kebab(words: &str) -> String {
    words.to_lowercase().replace(' ', "-")
}
