//! The recipe: every knob of a run. Each crate owns the struct of its own knobs; here is only their nesting.

mod layers;
mod write;

pub(crate) use layers::{Layers, Origin};

use crate::{cli::SourceChoice, objective::ObjectiveKnobs};
use serde::{Deserialize, Serialize};
use tunesmith_data::{OnBadRow, Packing};
use tunesmith_model::{LoraConfig, Recompute, Storage};
use tunesmith_tokens::{TrainOn, Truncate};
use tunesmith_train::{AdamWKnobs, Schedule, TrainKnobs};

/// What a run is made with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Recipe {
    /// Names every random choice.
    pub(crate) seed: u64,
    /// Where models and data sets come from.
    pub(crate) source: SourceChoice,
    pub(crate) model: ModelKnobs,
    pub(crate) adapter: AdapterKnobs,
    pub(crate) objective: ObjectiveKnobs,
    pub(crate) data: DataKnobs,
    pub(crate) optimizer: AdamWKnobs,
    pub(crate) schedule: Schedule,
    pub(crate) train: TrainKnobs,
    pub(crate) samples: SampleKnobs,
}

/// Which model, and how it lies in memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ModelKnobs {
    /// A Hub id or a directory.
    pub(crate) name: String,
    /// A branch, tag or commit of the Hub.
    pub(crate) revision: String,
    pub(crate) dtype: Dtype,
    pub(crate) device: DeviceName,
    /// How the base under an adapter lies in memory: dense, nf4 or int8.
    pub(crate) storage: Storage,
    /// Special tokens to add, those of them that the model lacks: each gets a row in the embedding and in the head.
    pub(crate) new_tokens: Vec<String>,
    /// What is computed again in the backward pass, so that the forward pass need not keep it; `auto`: what memory asks for.
    pub(crate) recompute: RecomputeChoice,
    /// Memory that a run may take, in GB (10⁹ bytes); 0: what the machine has.
    pub(crate) memory_gb: f64,
    /// Fresh weights instead of the model's.
    pub(crate) from_scratch: bool,
}

/// What happens where a prompt that is served is not the beginning of what was trained, or nothing trained would end it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnMismatch {
    Stop,
    Warn,
}

/// Dtype of weights and activations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Dtype {
    #[default]
    Fp32,
    Bf16,
}

/// Where the model lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum DeviceName {
    #[default]
    Cpu,
    Cuda,
}

/// What is computed again in the backward pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum RecomputeChoice {
    /// Nothing where that fits into memory, else as little as does.
    #[default]
    Auto,
    None,
    Mlp,
    Blocks,
}

impl RecomputeChoice {
    /// The policy that is asked for, if one is.
    pub(crate) fn policy(self) -> Option<Recompute> {
        match self {
            Self::Auto => None,
            Self::None => Some(Recompute::None),
            Self::Mlp => Some(Recompute::Mlp),
            Self::Blocks => Some(Recompute::Blocks),
        }
    }
}

/// What is trained in place of the model's own weights.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct AdapterKnobs {
    pub(crate) method: Method,
    /// The directory of an adapter, tunesmith's or PEFT's, to go on with; its own settings hold then.
    pub(crate) from: String,
    /// Tokens by their texts, such as `<|im_start|>`, that join `trainable_token_indices`.
    pub(crate) trainable_tokens: Vec<String>,
    #[serde(flatten)]
    pub(crate) lora: LoraConfig,
}

/// Kinds of adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Method {
    /// All weights are trained.
    #[default]
    None,
    /// Low-rank matrices beside a frozen base.
    Lora,
}

impl AdapterKnobs {
    /// Whether there is an adapter at all.
    pub(crate) fn is_used(&self) -> bool {
        self.method != Method::None
    }
}

/// What it learns from, and how rows become batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DataKnobs {
    /// A name in configs/datasets, a TOML file, or a data file or folder.
    pub(crate) dataset: String,
    /// Tokens of a packed row.
    pub(crate) seq_len: usize,
    /// Packed rows of a micro-batch; with packing `none`, examples.
    pub(crate) batch: usize,
    pub(crate) shuffle: bool,
    pub(crate) packing: Packing,
    /// Whether a prompt that several answers share, those of a preference pair, goes through the model once.
    pub(crate) share_prompt: bool,
    /// What becomes of an example longer than `seq_len`.
    pub(crate) truncate: Truncate,
    /// Which turns of a conversation are trained, where its row does not say so itself.
    pub(crate) train_on: TrainOn,
    pub(crate) on_bad_row: OnBadRow,
    /// What happens where training and serving would see other tokens.
    pub(crate) on_mismatch: OnMismatch,
    /// Tokens that `data prepare` wrote: the file or its folder; empty: where `data prepare` writes, if they are there.
    pub(crate) prepared: String,
    /// The present that chat templates tell the date from, in Unix seconds; 0: the start of the run.
    pub(crate) clock: i64,
    /// Rows held out for evaluation, at most, taken from the data set's evaluation split.
    pub(crate) eval_rows: u64,
}

/// The same prompts, answered before and after.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SampleKnobs {
    /// What is asked; empty: the first questions of the data set's evaluation split.
    pub(crate) prompts: Vec<String>,
    /// How many of them, at most. 0: no samples.
    pub(crate) count: usize,
    /// Tokens of an answer, at most.
    pub(crate) max_new_tokens: usize,
}

impl Default for Recipe {
    fn default() -> Self {
        Self {
            seed: 42,
            source: SourceChoice::default(),
            model: ModelKnobs::default(),
            adapter: AdapterKnobs::default(),
            objective: ObjectiveKnobs::default(),
            data: DataKnobs::default(),
            optimizer: AdamWKnobs::default(),
            schedule: Schedule::default(),
            train: TrainKnobs::default(),
            samples: SampleKnobs::default(),
        }
    }
}

impl Default for ModelKnobs {
    fn default() -> Self {
        Self {
            name: "HuggingFaceTB/SmolLM2-135M".into(),
            revision: "main".into(),
            dtype: Dtype::default(),
            device: DeviceName::default(),
            storage: Storage::default(),
            new_tokens: Vec::new(),
            recompute: RecomputeChoice::default(),
            memory_gb: 0.0,
            from_scratch: false,
        }
    }
}

impl Default for DataKnobs {
    fn default() -> Self {
        Self {
            dataset: String::new(),
            seq_len: 1024,
            batch: 2,
            shuffle: true,
            packing: Packing::BestFit,
            share_prompt: true,
            truncate: Truncate::default(),
            train_on: TrainOn::default(),
            on_bad_row: OnBadRow::Stop,
            on_mismatch: OnMismatch::Stop,
            prepared: String::new(),
            clock: 0,
            eval_rows: 100,
        }
    }
}

impl Default for SampleKnobs {
    fn default() -> Self {
        Self { prompts: Vec::new(), count: 3, max_new_tokens: 64 }
    }
}

impl Recipe {
    /// Values that no run can work with: (key, expected, found). All of them.
    pub(crate) fn problems(&self) -> Vec<(&'static str, &'static str, String)> {
        let positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let (optimizer, lr) = (&self.optimizer, self.schedule.lr);
        let adapter = &self.adapter;
        let is_fresh = adapter.is_used() && adapter.from.is_empty();
        let rows =
            "none where all weights are trained, or where adapter.from brings its own settings";
        let checks = [
            (
                positive(lr) && lr < 1.0,
                "schedule.lr",
                "a number above 0 and below 1",
                lr.to_string(),
            ),
            (
                share(optimizer.beta1),
                "optimizer.beta1",
                "a number from 0 to below 1",
                optimizer.beta1.to_string(),
            ),
            (
                share(optimizer.beta2),
                "optimizer.beta2",
                "a number from 0 to below 1",
                optimizer.beta2.to_string(),
            ),
            (
                positive(optimizer.eps),
                "optimizer.eps",
                "a number above 0",
                optimizer.eps.to_string(),
            ),
            (
                share(optimizer.weight_decay),
                "optimizer.weight_decay",
                "a number from 0 to below 1",
                optimizer.weight_decay.to_string(),
            ),
            (
                optimizer.max_grad_norm >= 0.0,
                "optimizer.max_grad_norm",
                "a number of at least 0",
                optimizer.max_grad_norm.to_string(),
            ),
            (
                self.data.seq_len >= 2,
                "data.seq_len",
                "at least 2 tokens",
                self.data.seq_len.to_string(),
            ),
            (
                self.data.eval_rows >= 1,
                "data.eval_rows",
                "at least 1",
                self.data.eval_rows.to_string(),
            ),
            (
                self.model.storage == Storage::Dense || self.adapter.is_used(),
                "model.storage",
                "dense where all weights are trained; adapter.method = \"lora\" trains beside quantised ones",
                format!("{:?}", self.model.storage).to_lowercase(),
            ),
            (
                is_fresh || adapter.trainable_tokens.is_empty(),
                "adapter.trainable_tokens",
                rows,
                format!("{:?}", adapter.trainable_tokens),
            ),
            (
                is_fresh || adapter.lora.trainable_token_indices.is_empty(),
                "adapter.trainable_token_indices",
                rows,
                format!("{:?}", adapter.lora.trainable_token_indices),
            ),
            (
                self.model.new_tokens.iter().all(|token| !token.trim().is_empty()),
                "model.new_tokens",
                "texts that are not empty",
                format!("{:?}", self.model.new_tokens),
            ),
            (
                self.model.memory_gb.is_finite() && self.model.memory_gb >= 0.0,
                "model.memory_gb",
                "a number of at least 0",
                self.model.memory_gb.to_string(),
            ),
            (self.data.batch >= 1, "data.batch", "at least 1", self.data.batch.to_string()),
            (
                self.train.accumulate >= 1,
                "train.accumulate",
                "at least 1",
                self.train.accumulate.to_string(),
            ),
            (
                self.train.epochs >= 1 || self.train.max_steps >= 1,
                "train.epochs",
                "at least 1, or train.max_steps",
                self.train.epochs.to_string(),
            ),
            (
                self.train.max_steps == 0 || self.schedule.warmup_steps <= self.train.max_steps,
                "schedule.warmup_steps",
                "at most train.max_steps",
                self.schedule.warmup_steps.to_string(),
            ),
            (
                self.train.keep >= 2,
                "train.keep",
                "at least 2, so that one survives a damaged one",
                self.train.keep.to_string(),
            ),
        ];
        let own = checks.into_iter().filter(|(good, ..)| !good);
        let own = own.map(|(_, key, expected, found)| (key, expected, found));
        own.chain(self.objective.problems()).collect()
    }
}
