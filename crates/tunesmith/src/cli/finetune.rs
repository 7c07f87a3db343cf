//! What training takes: `finetune`, `check` and `replay`.

use super::SourceChoice;
use clap::Args;
use std::path::PathBuf;

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
    /// train.eval_every: steps between evaluations; the last step has one, too
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
