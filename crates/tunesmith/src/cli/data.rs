//! What the commands under `data` take.

use super::SourceChoice;
use crate::recipe::Recipe;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum DataCommand {
    /// Rows as text and as tokens, with the trained ones marked
    Show(ShowArgs),
    /// Read and encode all rows: what is malformed, what is odd, and how often
    Check(DataCheckArgs),
    /// Lengths, trained tokens, turns, duplicates, labels
    Stats(StatsArgs),
    /// What cleaning would leave out: repetitions, evaluation rows, noise, secrets
    Clean(CleanArgs),
    /// Write the tokens of all rows into one file, which finetune maps into memory
    Prepare(PrepareArgs),
}

/// What `data clean` takes.
#[derive(Debug, Args)]
pub(crate) struct CleanArgs {
    /// A name in configs/datasets, a TOML file, or a data file or folder
    #[arg(long)]
    pub(crate) dataset: String,
    /// Where data sets come from [default: auto]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceChoice>,
}

/// What `data check` takes.
#[derive(Debug, Args)]
pub(crate) struct DataCheckArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Tokens of a row at most; longer ones are cut
    #[arg(long, default_value_t = Recipe::default().data.seq_len)]
    pub(crate) seq_len: usize,
    /// For people, or one JSON object per line: level, code, message, file, row, line, pointer, alike, rows, help
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) message_format: MessageFormat,
}

/// How errors are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum MessageFormat {
    /// For people
    Text,
    /// For programs
    Json,
}

/// What `data stats` takes.
#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Tokens of a packed row; longer rows are cut
    #[arg(long, default_value_t = Recipe::default().data.seq_len)]
    pub(crate) seq_len: usize,
    /// Write them as a page with plots, too
    #[arg(long, value_name = "FILE")]
    pub(crate) html: Option<PathBuf>,
    /// One JSON object instead of a table
    #[arg(long)]
    pub(crate) json: bool,
}

/// What `data prepare` takes.
#[derive(Debug, Args)]
pub(crate) struct PrepareArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// Tokens of a packed row; longer rows are cut
    #[arg(long)]
    pub(crate) seq_len: Option<String>,
    /// The recipe that will train on them: a name in configs/recipes, or a TOML file
    #[arg(long)]
    pub(crate) recipe: Option<String>,
    /// Set any value of the recipe, such as data.train_on=everything
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// The folder to write into [default: where finetune looks]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    pub(crate) input: InputArgs,
    /// How many rows
    #[arg(long, default_value_t = 3)]
    pub(crate) rows: u64,
    /// Tokens of a row at most; longer ones are cut
    #[arg(long)]
    pub(crate) seq_len: Option<usize>,
    /// One JSON object per line: row, ids, trained, text
    #[arg(long)]
    pub(crate) json: bool,
}

/// A data set read by the tokens of a model.
#[derive(Debug, Clone, Args)]
pub(crate) struct InputArgs {
    /// A name in configs/datasets, a TOML file, or a data file or folder
    #[arg(long)]
    pub(crate) dataset: String,
    /// A Hub id, a model directory, or a GGUF file
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// Where models and data sets come from [default: auto]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceChoice>,
}
