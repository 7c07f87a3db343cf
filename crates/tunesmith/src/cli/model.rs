//! What the commands on a trained model take: `score`, `generate`, `chat`, `merge` and `export`.

use super::SourceChoice;
use crate::adapters::AdapterArg;
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use tunesmith_sample::SamplerKnobs;

/// A model in memory.
#[derive(Debug, Clone, Args)]
pub(crate) struct ModelArgs {
    /// A Hub id, a model directory, or a run directory
    #[arg(long)]
    pub(crate) model: String,
    /// The directory of an adapter, tunesmith's or PEFT's, or of the run that trained it; may be repeated, and a name
    /// may stand before it
    #[arg(long, value_name = "[NAME=]DIR")]
    pub(crate) adapter: Vec<AdapterArg>,
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
    /// One JSON object per line: row, ids, trained, token_logprobs, logprob, trained_tokens; of several adapters, adapter
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
    /// One JSON object per line: prompt_ids, ids, text, finish_reason; of several adapters, adapter
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
    /// A JSON file: a list of messages, {"messages": […]}, or one of these per line; answered through the chat template,
    /// by the adapter that "adapter" beside "messages" names
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
