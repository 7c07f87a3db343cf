//! What can be wrong with data: each message names the thing, what was expected and found, and a way out.

use crate::fault::RowError;
use crate::suggest;
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
    #[error(
        "{}: no data file here\nhelp: data files end in .parquet, .arrow, .jsonl, .ndjson, .json, .csv, .tsv or .txt, also with .gz or .zst behind",
        path.display()
    )]
    NoDataFile {
        /// The folder or pattern.
        path: PathBuf,
    },
    /// A folder holds files of several formats, and it is not said which are the data.
    #[error(
        "{}: expected data files of one format, found {found}\nhelp: name those that are meant: \"{}/**/*.{first}\"",
        path.display(),
        path.display()
    )]
    MixedFolder {
        /// The folder.
        path: PathBuf,
        /// How many files of each format.
        found: String,
        /// One of the endings.
        first: String,
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
    /// A file is another one than when the data set was opened.
    #[error("{}: expected the file that was opened, found one of another size or time\nhelp: data must not change while it is trained; start again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// A prepared data set that cannot be used.
    #[error("{}: {problem}{}", path.display(), help_line(help))]
    Cache {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        problem: String,
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
    #[error(
        "{}: shape {shape} needs the column `{column}`, found {}{}{}",
        path.display(),
        suggest::list(found),
        other.as_ref().map_or_else(String::new, |other| format!("; {} has it", other.display())),
        help_line(help)
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The row shape.
        shape: &'static str,
        /// The column that is not there.
        column: Box<str>,
        /// The columns that are.
        found: Vec<String>,
        /// Another file of the data set, which has it.
        other: Option<Box<Path>>,
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
            Self::MixedFolder { .. } | Self::Changed { .. } | Self::Cache { .. } => {
                ErrorKind::BadData
            }
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

/// The last line of a message, where there is a way out.
pub(crate) fn help_line(help: &Option<String>) -> String {
    help.as_ref().map_or_else(String::new, |help| format!("\nhelp: {help}"))
}
