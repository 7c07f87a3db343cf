//! The step that broke a run, on file: what it met, where the weights before it are, and its micro-batches.

use crate::{
    cli::ReplayArgs,
    exit::{Exit, Failure},
    load, locate,
    objective::ObjectiveKind,
    recipe::Recipe,
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
};
use tunesmith_model::Config;
use tunesmith_tokens::Batch;
use tunesmith_train::{AdamW, Checkpoint, Disk, Sft, TrainError, measure};

/// A broken step.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Replay {
    /// The step, counted from 1.
    step: u64,
    /// The error as it was told.
    error: String,
    /// The checkpoint of the state before it, from the run directory.
    checkpoint: Option<PathBuf>,
    batches: Vec<Batch>,
}

impl Replay {
    pub(crate) fn of(
        error: &TrainError,
        step: u64,
        checkpoint: Option<&Path>,
        batches: &[Batch],
    ) -> Self {
        // From the run directory, so that it can move.
        let below =
            |path: &Path| path.iter().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect();
        let checkpoint = checkpoint.map(below);
        Self { step, error: error.to_string(), checkpoint, batches: batches.to_vec() }
    }
}

/// `tunesmith replay`: the step again, from the weights before it, and what it meets.
pub(crate) fn run(args: &ReplayArgs) -> Result<ExitCode> {
    let place = || args.file.display().to_string();
    let text = std::fs::read_to_string(&args.file).with_context(place)?;
    let bad = |e: serde_json::Error| {
        Failure(Exit::BadData, format!("{}: not a replay file: {e}", place()))
    };
    let replay: Replay = serde_json::from_str(&text).map_err(bad)?;
    let run = args.file.parent().unwrap_or(Path::new("."));
    let path = run.join("recipe.toml");
    let recipe = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let recipe: Recipe = toml::from_str(&recipe).with_context(|| path.display().to_string())?;
    let knobs = &recipe.model;
    let dir = locate::model(&knobs.name, Some(&knobs.revision), recipe.source, true)?.dir;
    if recipe.objective.kind != ObjectiveKind::Sft {
        let text =
            "replay makes steps of supervised fine-tuning again, and this run learned otherwise";
        return Err(Failure(Exit::BadConfig, text.into()).into());
    }
    let device = load::device(knobs.device)?;
    let model = load::for_training(&recipe, &Config::from_dir(&dir)?, &dir, device)?;
    let mut optimizer = AdamW::new(recipe.optimizer.clone(), model.params());
    if replay.checkpoint.is_some() {
        let root = run.join("checkpoints");
        Checkpoint::at(&Disk::default(), &root, replay.step - 1)?
            .restore(&model, &mut optimizer)?;
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "step {} of {}, {} micro-batches",
        replay.step,
        run.display(),
        replay.batches.len()
    )?;
    let never = AtomicBool::new(false);
    match measure(&model, &optimizer, &Sft, &replay.batches, recipe.seed, &never) {
        Ok(measured) => {
            let found = measured.map_or((f64::NAN, f64::NAN), |m| (m.loss, m.gradients.norm));
            writeln!(out, "loss {}, gradient norm {}: this time it is finite", found.0, found.1)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}
