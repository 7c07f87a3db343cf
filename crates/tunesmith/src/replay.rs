//! The step that broke a run, on file: what it met, where the weights before it are, and its micro-batches.

use crate::{
    cli::{FinetuneArgs, ReplayArgs},
    exit::{Exit, Failure},
    job::Job,
    prepare::{Plan, now},
};
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::atomic::AtomicBool,
};
use tunesmith_tokens::Batch;
use tunesmith_train::{Checkpoint, Disk, TrainError, measure};

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
    let args = FinetuneArgs { recipe: Some(path.display().to_string()), ..Default::default() };
    let plan = Plan::new(&args)?;
    let clock = plan.recipe.data.clock;
    let prepared = plan.prepare(if clock == 0 { now() } else { clock })?;
    let Job { model, objective, mut optimizer, .. } = Job::open(&prepared)?;
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
    let seed = Some(prepared.recipe.seed);
    let never = AtomicBool::new(false);
    match measure(&model, &optimizer, objective.as_ref(), &replay.batches, seed, &never) {
        Ok(measured) => {
            let found = measured.map_or((f64::NAN, f64::NAN), |m| (m.loss, m.gradients.norm));
            writeln!(out, "loss {}, gradient norm {}: this time it is finite", found.0, found.1)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(error.into()),
    }
}
