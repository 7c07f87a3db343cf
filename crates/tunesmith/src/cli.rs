//! The command line: what a person typed. What the program runs is a [`Recipe`](crate::recipe::Recipe).

mod data;
mod finetune;
mod model;

use clap::{Parser, Subcommand, ValueEnum};
pub(crate) use data::{
    CleanArgs, DataCheckArgs, DataCommand, InputArgs, MessageFormat, PrepareArgs, ShowArgs,
    StatsArgs,
};
pub(crate) use finetune::{CheckArgs, FinetuneArgs, KnobArgs, ReplayArgs, ResumeFrom};
pub(crate) use model::{
    ChatArgs, ExportArgs, GenerateArgs, MergeArgs, ModelArgs, PromptArgs, SamplerArgs, ScoreArgs,
};
use serde::{Deserialize, Serialize};

/// Fine-tune, sample and score language models.
#[derive(Debug, Parser)]
#[command(name = "tunesmith", version, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// More on stderr: -v for debug, -vv for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Train a model on a data set
    Finetune(FinetuneArgs),
    /// Everything up to the first batch, before any weight is touched: all errors at once
    Check(CheckArgs),
    /// Make the step that broke a run again, from the file it left
    Replay(ReplayArgs),
    /// Look at a data set
    #[command(subcommand)]
    Data(DataCommand),
    /// Log-probabilities and perplexity of a file
    Score(ScoreArgs),
    /// Write a model with its adapter merged into it
    Merge(MergeArgs),
    /// Answer a prompt
    Generate(GenerateArgs),
    /// Talk with a model
    Chat(ChatArgs),
    /// Write a model or an adapter as one GGUF file
    Export(ExportArgs),
    /// What is there, and what to do about what is not
    Doctor,
}

/// Where models and data sets come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SourceChoice {
    /// The Hub and its cache; where it cannot be reached, the model and the sample that ship in data/
    #[default]
    Auto,
    /// The Hub and its cache, nothing else
    Hub,
    /// The model and the sample that ship in data/
    Sample,
}

impl SourceChoice {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Hub => "hub",
            Self::Sample => "sample",
        }
    }
}
