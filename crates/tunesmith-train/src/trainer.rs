//! The training loop, in plain sight.

use crate::{
    AdamW, Checkpoint, Objective, RunState, Schedule, TrainError,
    evaluate::{self, Evaluation},
    step::{StepOutcome, step},
};
use serde::{Deserialize, Serialize};
use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};
use tunesmith_model::Transformer;
use tunesmith_tokens::{Batch, BatchSource, SourceError};

/// Knobs of the loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TrainKnobs {
    /// Optimizer steps; wins over `epochs`, and the data repeats. 0: as many as the epochs give.
    pub max_steps: u64,
    /// Passes over the data.
    pub epochs: u64,
    /// Micro-batches per optimizer step.
    pub accumulate: usize,
    /// Steps between checkpoints. 0: none but the final model.
    pub save_every: u64,
    /// Steps between evaluations of the held-out rows. 0: none.
    pub eval_every: u64,
    /// Checkpoints kept, at least 2.
    pub keep: usize,
}

impl Default for TrainKnobs {
    fn default() -> Self {
        Self { max_steps: 0, epochs: 1, accumulate: 1, save_every: 500, eval_every: 0, keep: 2 }
    }
}

/// Everything a run is made of.
pub struct Run<'a> {
    /// The model; its trainable parameters are trained.
    pub model: &'a Transformer,
    /// What it learns from. Repeats for ever when `max_steps` is set.
    pub source: &'a mut dyn BatchSource,
    /// Held-out rows, read from their start at every evaluation.
    pub held_out: Option<&'a mut dyn BatchSource>,
    /// What is minimised.
    pub objective: &'a dyn Objective,
    /// The optimizer of the model's parameters.
    pub optimizer: &'a mut AdamW,
    /// The learning rate.
    pub schedule: &'a Schedule,
    /// The loop's own knobs.
    pub knobs: &'a TrainKnobs,
    /// Where checkpoints go; `None`: nowhere.
    pub checkpoints: Option<&'a Path>,
    /// Where the run stands: default for a new one, a checkpoint's for a resumed one.
    pub state: RunState,
    /// Names the dropout masks of adapters.
    pub seed: u64,
    /// Set by a signal: finish the step, save, leave.
    pub stop: &'a AtomicBool,
}

/// What happened, for whoever logs it.
#[derive(Debug)]
pub enum Event<'a> {
    /// An optimizer step was made.
    Step(&'a StepRecord),
    /// The held-out rows were evaluated after this many steps.
    Evaluated(u64, &'a Evaluation),
    /// A checkpoint is about to be written: fill in `extra`.
    Saving(&'a mut RunState),
    /// It was committed here.
    Saved(&'a Path),
}

/// One optimizer step, under TRL's names.
#[derive(Debug, Clone, PartialEq)]
pub struct StepRecord {
    /// Steps made, this one included.
    pub step: u64,
    /// Epochs consumed, this step included.
    pub epoch: f64,
    /// The objective, over the whole step.
    pub loss: f64,
    /// L2 norm of the gradient before clipping.
    pub grad_norm: f64,
    /// The rate of this step.
    pub learning_rate: f64,
    /// Tokens read so far.
    pub num_tokens: u64,
    /// Tokens of this step ÷ its wall time.
    pub tokens_per_second: f64,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are made.
    Done(RunState),
    /// `stop` was set; the state was saved, if there is a place for it.
    Stopped(RunState, Option<PathBuf>),
}

/// Runs to the end, or until `stop` is set.
///
/// # Errors
/// The first thing that fails; what was committed before stays. A loss or gradient norm that is not finite stops the
/// run before the update.
pub fn train(
    mut run: Run<'_>,
    on_event: &mut dyn FnMut(Event<'_>) -> Result<(), SourceError>,
) -> Result<Outcome, TrainError> {
    let knobs = run.knobs;
    let mut emit = |event: Event<'_>| on_event(event).map_err(TrainError::Sink);
    run.source.seek(run.state.cursor).map_err(TrainError::Source)?;
    let mut saved_at = run.state.step;

    while knobs.max_steps == 0 || run.state.step < knobs.max_steps {
        let started = Instant::now();
        let learning_rate = match knobs.max_steps {
            0 => run.schedule.at(run.state.step, run.source.epoch() / knobs.epochs as f64),
            max_steps => run.schedule.at_step(run.state.step, max_steps),
        };
        let batches = next_batches(run.source, knobs.accumulate)?;
        if batches.is_empty() {
            break;
        }
        let StepOutcome { loss, grad_norm, metrics } =
            step(run.model, run.optimizer, run.objective, &batches, learning_rate, run.seed)?;

        let n_tokens: usize = batches.iter().map(Batch::len).sum();
        run.state.step += 1;
        run.state.cursor = run.source.cursor();
        run.state.num_tokens += n_tokens as u64;
        emit(Event::Step(&StepRecord {
            step: run.state.step,
            epoch: run.source.epoch(),
            loss,
            grad_norm,
            learning_rate,
            num_tokens: run.state.num_tokens,
            tokens_per_second: n_tokens as f64 / started.elapsed().as_secs_f64(),
            metrics,
        }))?;

        if let Some(held_out) = run.held_out.as_deref_mut()
            && due(run.state.step, knobs.eval_every)
        {
            let evaluation = evaluate::evaluate(run.model, held_out, run.objective)?;
            emit(Event::Evaluated(run.state.step, &evaluation))?;
        }
        let stopping = run.stop.load(Ordering::Relaxed);
        let mut saved = None;
        if stopping || due(run.state.step, knobs.save_every) {
            saved = save(&mut run, &mut emit)?;
            saved_at = run.state.step;
        }
        if stopping {
            return Ok(Outcome::Stopped(run.state, saved));
        }
    }
    // The end of a run is a checkpoint too: a longer `--max-steps` can continue it.
    if knobs.save_every > 0 && saved_at < run.state.step {
        save(&mut run, &mut emit)?;
    }
    Ok(Outcome::Done(run.state))
}

/// Commits a checkpoint, if there is a place for it, and says where.
fn save(
    run: &mut Run<'_>,
    emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
) -> Result<Option<PathBuf>, TrainError> {
    let Some(root) = run.checkpoints else { return Ok(None) };
    emit(Event::Saving(&mut run.state))?;
    let dir = Checkpoint::save(root, run.knobs.keep, &run.state, run.model, run.optimizer)?;
    emit(Event::Saved(&dir))?;
    Ok(Some(dir))
}

fn due(step: u64, every: u64) -> bool {
    every > 0 && step.is_multiple_of(every)
}

/// Up to `accumulate` micro-batches; fewer at the end of the data.
fn next_batches(source: &mut dyn BatchSource, accumulate: usize) -> Result<Vec<Batch>, TrainError> {
    let mut batches = Vec::with_capacity(accumulate);
    while batches.len() < accumulate {
        match source.next().map_err(TrainError::Source)? {
            Some(batch) => batches.push(batch),
            None => break,
        }
    }
    Ok(batches)
}
