//! The command line: what a person typed. What the program runs is a [`Recipe`](crate::recipe::Recipe).

use crate::recipe::Recipe;
use clap::{Args, Parser, Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use tunesmith_sample::SamplerKnobs;

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

/// What `export` takes.
#[derive(Debug, Clone, Args)]
pub(crate) struct ExportArgs {
    /// A Hub id, a model or run directory, or a GGUF file
    #[arg(long)]
    pub(crate) model: String,
    /// The file's format
    #[arg(long, value_enum, default_value = "gguf")]
    pub(crate) format: ExportFormat,
    /// Write this adapter of the model, alone, as a LoRA file for llama.cpp
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// How matrices are stored: f32, bf16, f16, q8_0 or q4_0 [default: as in the model; adapters: f32]
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// The file to write
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Replace the file if it exists
    #[arg(long)]
    pub(crate) force: bool,
    /// Where models come from [default: auto]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceChoice>,
}

/// Formats that a model can leave in.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum ExportFormat {
    /// The format of llama.cpp
    Gguf,
}

/// What `finetune` and `check` take.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct FinetuneArgs {
    /// A name in configs/datasets, a TOML file, or a data file or folder
    #[arg(long)]
    pub(crate) dataset: Option<String>,
    /// A Hub id, a model directory, or a GGUF file
    #[arg(long)]
    pub(crate) model: Option<String>,
    /// A name in configs/recipes, or a TOML file
    #[arg(long)]
    pub(crate) recipe: Option<String>,
    /// The run directory [default: runs/<dataset>]
    #[arg(long)]
    pub(crate) out: Option<PathBuf>,
    /// Continue from the newest good checkpoint, or from that of one step; start where there is none yet
    #[arg(long, value_name = "step-N", num_args = 0..=1, default_missing_value = "newest")]
    pub(crate) resume: Option<ResumeFrom>,
    /// Continue although these have changed, such as schedule.lr, dataset, tokenizer
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub(crate) allow_change: Vec<String>,
    /// Seconds between a signal and the end of this process, such as a batch system gives: says whether a save fits
    #[arg(long, value_name = "SECONDS")]
    pub(crate) grace: Option<u64>,
    /// Before step 0, send the longest batch through step, evaluation, save and reload
    #[arg(long)]
    pub(crate) rehearse: bool,
    /// As a batch job: go on where there is something to go on from, check and rehearse before step 0, and never train on a stand-in
    #[arg(long)]
    pub(crate) job: bool,
    /// Print the resolved recipe and stop
    #[arg(long)]
    pub(crate) print_recipe: bool,
    /// Start from fresh weights instead of the model's
    #[arg(long)]
    pub(crate) from_scratch: bool,
    /// Where models and data sets come from [default: auto]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceChoice>,
    /// Set any value of the recipe, such as optimizer.weight_decay=0.1
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    #[command(flatten)]
    pub(crate) knobs: KnobArgs,
}

/// What `check` takes besides.
#[derive(Debug, Clone, Args)]
pub(crate) struct CheckArgs {
    /// Load the weights too: check the step's gradients, and rehearse the longest batch
    #[arg(long)]
    pub(crate) deep: bool,
    #[command(flatten)]
    pub(crate) finetune: FinetuneArgs,
}

/// What `replay` takes.
#[derive(Debug, Args)]
pub(crate) struct ReplayArgs {
    /// runs/<name>/replay-step-<N>.json
    pub(crate) file: PathBuf,
}

/// Which checkpoint a run goes on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResumeFrom {
    /// The newest that is whole.
    Newest,
    /// That of this step.
    Step(u64),
}

impl std::str::FromStr for ResumeFrom {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "newest" {
            return Ok(Self::Newest);
        }
        let step = text.strip_prefix("step-").unwrap_or(text).parse();
        step.map(Self::Step).map_err(|_| "expected a step, such as step-500".to_owned())
    }
}

/// Flags that are short for `--set`.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Short for --set")]
pub(crate) struct KnobArgs {
    /// train.max_steps: optimizer steps; wins over epochs
    #[arg(long)]
    pub(crate) max_steps: Option<String>,
    /// train.epochs: passes over the data
    #[arg(long)]
    pub(crate) epochs: Option<String>,
    /// schedule.lr: peak learning rate
    #[arg(long, allow_hyphen_values = true)]
    pub(crate) lr: Option<String>,
    /// data.seq_len: tokens of a packed row
    #[arg(long)]
    pub(crate) seq_len: Option<String>,
    /// data.batch: packed rows of a micro-batch
    #[arg(long)]
    pub(crate) batch: Option<String>,
    /// train.accumulate: micro-batches of a step
    #[arg(long)]
    pub(crate) accumulate: Option<String>,
    /// model.dtype: fp32 or bf16
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// model.device: cpu or cuda
    #[arg(long)]
    pub(crate) device: Option<String>,
    /// model.recompute: auto, none, mlp or blocks
    #[arg(long)]
    pub(crate) recompute: Option<String>,
    /// seed: names every random choice
    #[arg(long)]
    pub(crate) seed: Option<String>,
    /// data.shuffle = false: rows in the order of the files
    #[arg(long)]
    pub(crate) no_shuffle: bool,
    /// data.packing: best-fit or none
    #[arg(long)]
    pub(crate) packing: Option<String>,
    /// data.on_bad_row: stop or skip
    #[arg(long)]
    pub(crate) on_bad_row: Option<String>,
    /// train.save_every: steps between checkpoints
    #[arg(long)]
    pub(crate) save_every: Option<String>,
    /// train.eval_every: steps between evaluations
    #[arg(long)]
    pub(crate) eval_every: Option<String>,
}

impl KnobArgs {
    /// The recipe keys that were given, as (flag, key, value).
    pub(crate) fn given(&self) -> Vec<(&'static str, &'static str, String)> {
        let options = [
            ("--max-steps", "train.max_steps", &self.max_steps),
            ("--epochs", "train.epochs", &self.epochs),
            ("--lr", "schedule.lr", &self.lr),
            ("--seq-len", "data.seq_len", &self.seq_len),
            ("--batch", "data.batch", &self.batch),
            ("--accumulate", "train.accumulate", &self.accumulate),
            ("--dtype", "model.dtype", &self.dtype),
            ("--device", "model.device", &self.device),
            ("--recompute", "model.recompute", &self.recompute),
            ("--seed", "seed", &self.seed),
            ("--packing", "data.packing", &self.packing),
            ("--on-bad-row", "data.on_bad_row", &self.on_bad_row),
            ("--save-every", "train.save_every", &self.save_every),
            ("--eval-every", "train.eval_every", &self.eval_every),
        ];
        let given =
            options.into_iter().filter_map(|(flag, key, value)| Some((flag, key, value.clone()?)));
        given
            .chain(self.no_shuffle.then(|| ("--no-shuffle", "data.shuffle", "false".to_owned())))
            .collect()
    }
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

/// A model in memory.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A Hub id, a model directory, or a run directory
    #[arg(long)]
    pub(crate) model: String,
    /// The directory of an adapter, tunesmith's or PEFT's, or of the run that trained it
    #[arg(long)]
    pub(crate) adapter: Option<PathBuf>,
    /// dense, nf4 or int8 matrices [default: as the adapter was trained, else dense]
    #[arg(long)]
    pub(crate) storage: Option<String>,
    /// fp32 or bf16 [default: the dtype of the weights]
    #[arg(long)]
    pub(crate) dtype: Option<String>,
    /// cpu or cuda
    #[arg(long, default_value = "cpu")]
    pub(crate) device: String,
    /// Where models come from [default: auto]
    #[arg(long, value_enum)]
    pub(crate) source: Option<SourceChoice>,
}

#[derive(Debug, Args)]
pub(crate) struct MergeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The directory to write; must not exist
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Merge even where it changes what the model says
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ScoreArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A data file or folder, or a name in configs/datasets
    #[arg(long)]
    pub(crate) data: String,
    /// How many rows [default: all]
    #[arg(long)]
    pub(crate) rows: Option<u64>,
    /// Tokens of a row at most; longer ones are cut
    #[arg(long)]
    pub(crate) seq_len: Option<usize>,
    /// One JSON object per line: row, ids, trained, token_logprobs, logprob, trained_tokens
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) prompt: PromptArgs,
    #[command(flatten)]
    pub(crate) sampler: SamplerArgs,
    /// One JSON object per line: prompt_ids, ids, text, finish_reason
    #[arg(long)]
    pub(crate) json: bool,
}

/// Exactly one of them.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct PromptArgs {
    /// Plain text, continued as it stands
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// A JSON file: a list of messages, {"messages": […]}, or one of these per line; answered through the chat template
    #[arg(long)]
    pub(crate) messages: Option<PathBuf>,
    /// Token ids, such as 1,2,3
    #[arg(long, value_delimiter = ',')]
    pub(crate) prompt_ids: Option<Vec<u32>>,
}

/// How the next token is chosen and when to stop.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sampler")]
pub(crate) struct SamplerArgs {
    /// Divides the scores; 0 is greedy
    #[arg(long, default_value_t = SamplerKnobs::default().temperature)]
    pub(crate) temperature: f32,
    /// Keep the k best tokens; 0 keeps all
    #[arg(long, default_value_t = SamplerKnobs::default().top_k)]
    pub(crate) top_k: usize,
    /// Keep the smallest set of tokens whose probability reaches this
    #[arg(long, default_value_t = SamplerKnobs::default().top_p)]
    pub(crate) top_p: f32,
    /// Keep tokens at least this share as probable as the best
    #[arg(long, default_value_t = SamplerKnobs::default().min_p)]
    pub(crate) min_p: f32,
    /// Above 1, makes tokens that occurred less likely
    #[arg(long, default_value_t = SamplerKnobs::default().repetition_penalty)]
    pub(crate) repetition_penalty: f32,
    /// Tokens generated at most
    #[arg(long, default_value_t = SamplerKnobs::default().max_new_tokens)]
    pub(crate) max_new_tokens: usize,
    /// Text that ends the answer; may be repeated
    #[arg(long)]
    pub(crate) stop: Vec<String>,
    /// Names the draw
    #[arg(long, default_value_t = SamplerKnobs::default().seed)]
    pub(crate) seed: u64,
}

#[derive(Debug, Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A system message
    #[arg(long)]
    pub(crate) system: Option<String>,
    #[command(flatten)]
    pub(crate) sampler: SamplerArgs,
}
