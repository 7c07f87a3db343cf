//! What can stop a run.

use crate::Spike;
use std::path::{Path, PathBuf};
use tunesmith_model::ModelError;
use tunesmith_tokens::SourceError;

/// A training step, a checkpoint or a resume that cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// The data failed.
    #[error("{0}")]
    Source(SourceError),
    /// Whoever listens to the run could not write down what it was told.
    #[error("{0}")]
    Sink(SourceError),
    /// The model failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The loss or the gradient norm is NaN or infinite. The update was not made.
    #[error(
        "step {step}: {what} is {value}, first in {module}; the weights were not changed\n\
         rows: {}\n\
         help: look at these rows with `tunesmith data show`; a lower `--lr` or `--dtype fp32` often helps",
        list(rows)
    )]
    NonFinite {
        /// The step, counted from 1.
        step: u64,
        /// `loss` or `grad_norm`.
        what: &'static str,
        /// The value.
        value: f64,
        /// The parameter or the module where it begins; `the objective` behind the model, `the gradient of …` where the
        /// forward pass is sound.
        module: String,
        /// The rows of the data set that lead to it; all of the step's where nobody can say.
        rows: Vec<u64>,
    },
    /// The loss or the gradient norm spiked, and the run was told not to go on. The update was not made.
    #[error(
        "step {step}: {} is {:.4}, after {:.4} ± {:.4} before; the weights were not changed\n         rows of this step: {}\n         help: look at these rows with `tunesmith data show`; train.on_spike = \"skip\" leaves such steps out",
        spike.what, spike.value, spike.mean, spike.deviation, list(rows)
    )]
    Spike {
        /// The step, counted from 1.
        step: u64,
        /// What spiked.
        spike: Spike,
        /// Rows of the data set.
        rows: Vec<u64>,
    },
    /// Not one token of the data gives a loss.
    #[error(
        "step {step}: none of its {n_tokens} tokens is trained\nhelp: look at the loss mask with `tunesmith data show`"
    )]
    NothingTrained {
        /// The step, counted from 1.
        step: u64,
        /// Tokens of the step.
        n_tokens: usize,
    },
    /// Not one token of the held-out rows gives a loss.
    #[error(
        "held-out rows: none of their {n_tokens} tokens is trained\n\
         help: hold out other rows, or more; `tunesmith data show` prints the loss mask"
    )]
    NothingHeldOut {
        /// Tokens of all held-out rows.
        n_tokens: usize,
    },
    /// A preference that is none.
    #[error("row {row}: {reason}\nhelp: look at it with `tunesmith data show`, or leave it out")]
    BadPair {
        /// The row of the data set.
        row: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A message says how much it counts, and the objective judges rows as a whole.
    #[error(
        "row {row}: a message weighs otherwise than its row, and this objective judges rows as a whole\n\
         help: `loss_weight` beside the messages weighs the row; take it out of them, or train with the objective `sft`"
    )]
    Weights {
        /// The row of the data set.
        row: u64,
    },
    /// A label that is no class of the model.
    #[error("row {row}: expected a class from 0 to below {n_labels}, found {label}")]
    BadLabel {
        /// The row of the data set.
        row: u64,
        /// Its label.
        label: f32,
        /// Classes of the model.
        n_labels: i64,
    },
    /// An objective that needs scores of labels, and a model without a head for them.
    #[error("the model has no head over labels\nhelp: train a reward model or a classifier")]
    NoLabelHead,
    /// A row that the table of reference log-probabilities does not have.
    #[error("row {row}: no reference log-probability is cached for it")]
    NoReference {
        /// The row of the data set.
        row: u64,
    },
    /// Settings of an objective that do not go together.
    #[error("objective: {reason}")]
    BadObjective {
        /// What was expected and what was found.
        reason: String,
    },
    /// The operating system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A folder could not be written. It is not there, and what was there before is untouched.
    #[error(
        "{path}: {source}\n{target} was not written: {needed} bytes needed, {free} free; what was there before is untouched\n\
         help: look after the disk and continue with `--resume`, or choose another place with `--out`"
    )]
    NotWritten {
        /// The file at which it broke off.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
        /// The folder.
        target: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes free to this user, after the half-written folder was removed.
        free: u64,
    },
    /// The disk cannot hold what is to be written.
    #[error(
        "{path}: {needed} bytes needed, {free} free\nhelp: free some space, or choose another place with `--out`"
    )]
    NoSpace {
        /// The folder.
        path: PathBuf,
        /// Bytes to be written.
        needed: u64,
        /// Bytes free to this user.
        free: u64,
    },
    /// A checkpoint that is damaged or does not fit.
    #[error("{path}: {reason}")]
    BadCheckpoint {
        /// The checkpoint or the file in it.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A step that was named and has no checkpoint.
    #[error(
        "{root}: expected a checkpoint of step {step}, found {found}\n\
         help: `--resume` alone takes the newest"
    )]
    NoCheckpoint {
        /// Where checkpoints lie.
        root: PathBuf,
        /// The step.
        step: u64,
        /// Those that are there.
        found: String,
    },
    /// A checkpoint of a tunesmith that writes them differently. It is left as it is.
    #[error(
        "{path}: checkpoint format {found}, written by tunesmith {version}; this one reads format {reads}\n\
         help: resume with that tunesmith, or start a new run with another `--out`"
    )]
    OtherFormat {
        /// The checkpoint.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The tunesmith that wrote it.
        version: String,
        /// The format that this tunesmith reads and writes.
        reads: u32,
    },
    /// libtorch failed.
    #[error("libtorch: {0}")]
    Tch(#[from] tch::TchError),
}

impl TrainError {
    pub(crate) fn io(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { path, source }
    }

    /// What the operating system said while `target` was written, with what there was to write and to write it on.
    pub(crate) fn while_writing(self, target: &Path, needed: u64, free: u64) -> Self {
        match self {
            Self::Io { path, source } | Self::Model(ModelError::Io { path, source }) => {
                Self::NotWritten { path, source, target: target.into(), needed, free }
            }
            other => other,
        }
    }
}

fn list(rows: &[u64]) -> String {
    let shown = rows.iter().take(20).map(u64::to_string).collect::<Vec<_>>().join(", ");
    if rows.len() > 20 { format!("{shown} and {} more", rows.len() - 20) } else { shown }
}
