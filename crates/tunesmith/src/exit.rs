//! Exit codes (sysexits.h), so that batch systems can tell a bad file from a bad disk.

use std::{fmt, process::ExitCode};
use tunesmith_data::{DataError, ErrorKind};
use tunesmith_hub::HubError;
use tunesmith_model::ModelError;
use tunesmith_sample::GenerateError;
use tunesmith_tokens::{EncodeError, TemplateError, TokenizerError};
use tunesmith_train::TrainError;

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Usage = 64,
    BadData = 65,
    NoInput = 66,
    Internal = 70,
    CannotCreate = 73,
    Io = 74,
    /// Stopped by a signal after saving: run me again.
    Preempted = 75,
    BadConfig = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// A recipe, flag or setting that cannot be honoured.
#[derive(Debug)]
pub(crate) struct ConfigError {
    place: String,
    problem: String,
    help: String,
}

impl ConfigError {
    pub(crate) fn new(
        place: impl Into<String>,
        problem: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { place: place.into(), problem: problem.into(), help: help.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.problem)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\nhelp: {}", self.help) }
    }
}

impl std::error::Error for ConfigError {}

/// An error that knows its exit code, for what no library crate has a type for.
#[derive(Debug)]
pub(crate) struct Failure(pub(crate) Exit, pub(crate) String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.1)
    }
}

impl std::error::Error for Failure {}

/// The exit code of an error: that of the first cause that has one.
pub(crate) fn code_of(error: &anyhow::Error) -> Exit {
    error.chain().find_map(of_cause).unwrap_or(Exit::Internal)
}

fn of_cause(cause: &(dyn std::error::Error + 'static)) -> Option<Exit> {
    if let Some(Failure(exit, _)) = cause.downcast_ref() {
        return Some(*exit);
    }
    if cause.is::<ConfigError>() {
        return Some(Exit::BadConfig);
    }
    if let Some(error) = cause.downcast_ref::<DataError>() {
        return Some(of_data(error));
    }
    if let Some(error) = cause.downcast_ref::<ModelError>() {
        return Some(of_model(error));
    }
    if let Some(error) = cause.downcast_ref::<TrainError>() {
        return Some(match error {
            TrainError::Source(source) => {
                causes(source.as_ref()).find_map(of_cause).unwrap_or(Exit::BadData)
            }
            TrainError::Model(error) => of_model(error),
            TrainError::NonFinite { .. }
            | TrainError::Spike { .. }
            | TrainError::NothingTrained { .. }
            | TrainError::NothingHeldOut { .. }
            | TrainError::BadPair { .. }
            | TrainError::Weights { .. }
            | TrainError::BadLabel { .. }
            | TrainError::NoReference { .. } => Exit::BadData,
            TrainError::NoLabelHead | TrainError::BadObjective { .. } => Exit::BadConfig,
            TrainError::Io { .. }
            | TrainError::NotWritten { .. }
            | TrainError::Sink(_)
            | TrainError::BadCheckpoint { .. }
            | TrainError::OtherFormat { .. } => Exit::Io,
            TrainError::NoSpace { .. } => Exit::CannotCreate,
            TrainError::NoCheckpoint { .. } => Exit::NoInput,
            TrainError::Tch(_) => Exit::Internal,
        });
    }
    if let Some(error) = cause.downcast_ref::<GenerateError>() {
        return Some(match error {
            GenerateError::Model(error) => of_model(error),
            GenerateError::Tokenizer(_) => Exit::BadData,
            _ => Exit::Usage, // a prompt or a knob that was typed
        });
    }
    if cause.is::<EncodeError>() || cause.is::<TemplateError>() || cause.is::<TokenizerError>() {
        return Some(Exit::BadData);
    }
    if cause.is::<HubError>() {
        return Some(Exit::NoInput);
    }
    cause.downcast_ref::<std::io::Error>().map(|_| Exit::Io)
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

fn of_data(error: &DataError) -> Exit {
    match error.kind() {
        ErrorKind::BadData => Exit::BadData,
        ErrorKind::MissingInput => Exit::NoInput,
        ErrorKind::BadConfig => Exit::BadConfig,
        ErrorKind::Io => Exit::Io,
    }
}

fn of_model(error: &ModelError) -> Exit {
    match error {
        ModelError::MissingFile { .. } | ModelError::MissingShards { .. } => Exit::NoInput,
        ModelError::Io { .. } => Exit::Io,
        ModelError::BadConfig { .. } | ModelError::Unsupported { .. } => Exit::BadConfig,
        ModelError::BadAdapter { place, .. } if !std::path::Path::new(place).exists() => {
            Exit::BadConfig // a setting
        }
        ModelError::BadAdapter { .. }
        | ModelError::BadWeights { .. }
        | ModelError::MissingTensors { .. }
        | ModelError::ExtraTensors { .. }
        | ModelError::Misshapen { .. }
        | ModelError::NoSuchAdapter { .. }
        | ModelError::TokenOutOfRange { .. }
        | ModelError::PositionOutOfRange { .. } => Exit::BadData,
        ModelError::Kernel(_) | ModelError::Tch(_) => Exit::Internal,
    }
}
