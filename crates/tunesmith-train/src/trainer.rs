//! The training loop, in plain sight.

use crate::{
    AdamW, Checkpoint, Disk, Keep, Objective, OnSpike, RunState, Schedule, Snapshot, Spike,
    TrainError,
    checkpoint::{Best, Saver},
    evaluate::{self, Evaluation},
    step::{Measured, measure},
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
    /// Steps between evaluations of the held-out rows; the last step is followed by one, too. 0: none.
    pub eval_every: u64,
    /// Whether training goes on while a checkpoint is written. It costs the memory of a second copy of all that is saved;
    /// else training waits for the disk.
    pub save_in_background: bool,
    /// The newest checkpoints stay, this many, at least 2.
    pub keep: usize,
    /// So do those whose step is a multiple of this. 0: none.
    pub keep_every: u64,
    /// So does the one with the lowest loss on the held-out rows, which is saved as soon as it is known.
    pub keep_best: bool,
    /// Evaluations without a lower loss on the held-out rows after which the run ends. 0: it never ends early.
    pub patience: u64,
    /// What a spike of loss or gradient norm does: `ignore`, `skip` its update, `stop`, `roll-back` to the newest
    /// checkpoint.
    pub on_spike: OnSpike,
}

impl Default for TrainKnobs {
    fn default() -> Self {
        Self {
            max_steps: 0,
            epochs: 1,
            accumulate: 1,
            save_every: 500,
            save_in_background: true,
            eval_every: 0,
            keep: 2,
            keep_every: 0,
            keep_best: false,
            patience: 0,
            on_spike: OnSpike::Ignore,
        }
    }
}

impl TrainKnobs {
    /// Whether a run that stands at `state` has nothing left to do.
    pub fn is_done(&self, state: &RunState) -> bool {
        let early = self.patience > 0 && state.stale >= self.patience;
        early
            || match self.max_steps {
                0 => state.cursor.epoch >= self.epochs,
                max_steps => state.step >= max_steps,
            }
    }

    /// Which checkpoints stay in a run that stands at `state`.
    pub fn keep(&self, state: &RunState) -> Keep {
        let best = state.best.filter(|_| self.keep_best).map(|best| best.step);
        Keep { last: self.keep, every: self.keep_every, best }
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
    /// Set by a signal: break off what can be done again, save, leave.
    pub stop: &'a AtomicBool,
}

/// What happened, for whoever logs it.
#[derive(Debug)]
pub enum Event<'a> {
    /// An optimizer step was made.
    Step(&'a StepRecord),
    /// The held-out rows were evaluated after this many steps.
    Evaluated(u64, &'a Evaluation),
    /// The update of this step is left out.
    Skipped(u64, &'a Spike),
    /// The run goes on from an older step, because the step after the first of these spiked: (from, to).
    RolledBack(u64, u64, &'a Spike),
    /// The run ends, because this step's loss or gradient is not finite.
    Broken {
        /// What is not.
        error: &'a TrainError,
        /// The micro-batches of the step.
        batches: &'a [Batch],
        /// The state before it.
        checkpoint: Option<&'a Path>,
    },
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
    /// Tokens read so far; a prompt that answers share counts once.
    pub num_tokens: u64,
    /// Its wall time.
    pub seconds: f64,
    /// Tokens read in this step ÷ its wall time.
    pub tokens_per_second: f64,
    /// The objective's own metrics, averaged.
    pub metrics: Vec<(&'static str, f64)>,
    /// The rows of each micro-batch, in order.
    pub rows: Vec<Vec<u64>>,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// All steps are made, or the held-out rows have not got better for too long.
    Done(RunState),
    /// `stop` was set; the state was saved, if there is a place for it.
    Stopped(RunState, Option<PathBuf>),
}

/// Times that a run goes back before a spike ends it.
const ROLL_BACKS: u64 = 3;

/// Runs to the end, or until `stop` is set: a step or an evaluation in progress is broken off then, and made again by the
/// run that resumes.
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
    let mut saves = Saves::new(&run);
    run.source.seek(run.state.cursor).map_err(TrainError::Source)?;
    let mut exhausted = false;
    loop {
        let done = exhausted || knobs.is_done(&run.state);
        let mut is_best = false;
        if let Some(held_out) = run.held_out.as_deref_mut()
            && (due(run.state.step, knobs.eval_every) || (done && knobs.eval_every > 0))
            && run.state.evaluated < run.state.step
        {
            let evaluated = evaluate::evaluate(run.model, held_out, run.objective, run.stop)?;
            let Some(evaluation) = evaluated else { break };
            is_best = run.state.take(&evaluation);
            emit(Event::Evaluated(run.state.step, &evaluation))?;
        }
        if run.stop.load(Ordering::Relaxed) {
            break;
        }
        if due(run.state.step, knobs.save_every) || (is_best && knobs.keep_best) {
            saves.start(&mut run, &mut emit)?;
        }
        if done {
            return finish(run, saves, &mut emit);
        }

        let started = Instant::now();
        let learning_rate = match knobs.max_steps {
            0 => run.schedule.at(run.state.step, run.source.epoch() / knobs.epochs as f64),
            max_steps => run.schedule.at_step(run.state.step, max_steps),
        };
        let batches = next_batches(run.source, knobs.accumulate)?;
        if batches.is_empty() {
            exhausted = true; // the last rows were all left out
            continue;
        }
        let measured =
            measure(run.model, run.optimizer, run.objective, &batches, Some(run.seed), run.stop);
        let measured = match measured {
            Err(error @ TrainError::NonFinite { .. }) => {
                broken(&mut run, &mut saves, &batches, &error, &mut emit)?;
                return Err(error);
            }
            measured => measured?,
        };
        let Some(Measured { loss, gradients, metrics }) = measured else { break };
        let grad_norm = gradients.norm;
        let spike = match knobs.on_spike {
            OnSpike::Ignore => None,
            _ => run.state.recent.judge(loss, grad_norm),
        };
        match spike {
            None => run.optimizer.step(gradients, learning_rate),
            Some(spike) if knobs.on_spike == OnSpike::Skip => {
                run.state.skipped += 1;
                emit(Event::Skipped(run.state.step + 1, &spike))?;
            }
            Some(spike) => {
                roll_back(&mut run, &mut saves, &batches, spike, &mut emit)?;
                continue;
            }
        }

        let n_tokens: usize = batches.iter().map(Batch::len).sum();
        run.state.step += 1;
        run.state.cursor = run.source.cursor();
        run.state.num_tokens += n_tokens as u64;
        let seconds = started.elapsed().as_secs_f64();
        emit(Event::Step(&StepRecord {
            step: run.state.step,
            epoch: run.source.epoch(),
            loss,
            grad_norm,
            learning_rate,
            num_tokens: run.state.num_tokens,
            seconds,
            tokens_per_second: n_tokens as f64 / seconds,
            metrics,
            rows: batches
                .iter()
                .map(|batch| batch.docs.iter().map(|doc| doc.row).collect())
                .collect(),
        }))?;
        saves.poll(&mut emit)?;
    }
    saves.start(&mut run, &mut emit)?;
    let saved = saves.finish(&mut emit)?;
    Ok(Outcome::Stopped(run.state, saved))
}

/// The end of a run is a checkpoint too: a longer `--max-steps` can continue it.
fn finish(
    mut run: Run<'_>,
    mut saves: Saves,
    emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
) -> Result<Outcome, TrainError> {
    if run.knobs.save_every > 0 {
        saves.start(&mut run, emit)?;
    }
    saves.finish(emit)?;
    Ok(Outcome::Done(run.state))
}

/// What a step that is not finite leaves: the state before it, which no update has touched, and its batches.
fn broken(
    run: &mut Run<'_>,
    saves: &mut Saves,
    batches: &[Batch],
    error: &TrainError,
    emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    let mut save = || {
        if run.state.step > 0 {
            saves.start(run, emit)?;
        }
        saves.finish(emit)
    };
    // A disk that is full must not hide why the run ends.
    let saved = save().unwrap_or_else(|problem| {
        tracing::warn!("the state before the step is not saved: {problem}");
        None
    });
    emit(Event::Broken { error, batches, checkpoint: saved.as_deref() })
}

/// Ends the run, or takes it back to the newest checkpoint and on with the rows behind the spike.
fn roll_back(
    run: &mut Run<'_>,
    saves: &mut Saves,
    batches: &[Batch],
    spike: Spike,
    emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
) -> Result<(), TrainError> {
    saves.finish(emit)?;
    let rows = batches.iter().flat_map(|batch| &batch.docs).map(|doc| doc.row).collect();
    let spiked = TrainError::Spike { step: run.state.step + 1, spike, rows };
    if run.knobs.on_spike == OnSpike::Stop || run.state.roll_backs == ROLL_BACKS {
        return Err(spiked);
    }
    let newest =
        run.checkpoints.map(|root| Checkpoint::newest(&Disk::default(), root)).transpose()?;
    let Some(checkpoint) = newest.flatten() else { return Err(spiked) };
    checkpoint.restore(run.model, run.optimizer)?;
    let from = run.state.step;
    run.state = RunState {
        cursor: run.source.cursor(),
        roll_backs: run.state.roll_backs + 1,
        ..checkpoint.state
    };
    emit(Event::RolledBack(from, run.state.step, &spike))
}

/// The checkpoints of a run.
struct Saves {
    root: Option<PathBuf>,
    saver: Saver,
    /// The step of the newest, and where it lies or will lie.
    newest: Option<(u64, PathBuf)>,
}

impl Saves {
    fn new(run: &Run<'_>) -> Self {
        let root = run.checkpoints.map(Path::to_path_buf);
        let here = root.as_ref().map(|root| Checkpoint::place(root, run.state.step));
        let newest = here.filter(|dir| dir.exists()).map(|dir| (run.state.step, dir));
        Self { root, saver: Saver::default(), newest }
    }

    /// Starts to save where the run stands, unless it is saved already or there is no place for it.
    fn start(
        &mut self,
        run: &mut Run<'_>,
        emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let step = run.state.step;
        let Some(root) = &self.root else { return Ok(()) };
        if self.newest.as_ref().is_some_and(|(newest, _)| *newest == step) {
            return Ok(());
        }
        let (root, place) = (root.clone(), Checkpoint::place(root, step));
        // Never two copies at once.
        self.saver.finish()?.map_or(Ok(()), |dir| emit(Event::Saved(&dir)))?;
        emit(Event::Saving(&mut run.state))?;
        let keep = run.knobs.keep(&run.state);
        if run.knobs.save_in_background {
            let snapshot = Snapshot::take(&run.state, run.model, run.optimizer);
            self.saver.start(snapshot, &root, keep)?;
        } else {
            let snapshot = Snapshot::view(&run.state, run.model, run.optimizer);
            let dir = snapshot.commit(&Disk::default(), &root, &keep)?;
            emit(Event::Saved(&dir))?;
        }
        self.newest = Some((step, place));
        Ok(())
    }

    fn poll(
        &mut self,
        emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        self.saver.poll()?.map_or(Ok(()), |dir| emit(Event::Saved(&dir)))
    }

    /// Waits until everything is committed; the place of the newest.
    fn finish(
        &mut self,
        emit: &mut dyn FnMut(Event<'_>) -> Result<(), TrainError>,
    ) -> Result<Option<PathBuf>, TrainError> {
        self.saver.finish()?.map_or(Ok(()), |dir| emit(Event::Saved(&dir)))?;
        Ok(self.newest.as_ref().map(|(_, dir)| dir.clone()))
    }
}

impl RunState {
    /// Notes an evaluation; whether it is the best so far.
    fn take(&mut self, evaluation: &Evaluation) -> bool {
        self.evaluated = self.step;
        let is_best = self.best.is_none_or(|best| evaluation.loss < best.loss);
        if is_best {
            self.best = Some(Best { step: self.step, loss: evaluation.loss });
        }
        self.stale = if is_best { 0 } else { self.stale + 1 };
        is_best
    }
}

fn due(step: u64, every: u64) -> bool {
    step > 0 && every > 0 && step.is_multiple_of(every)
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
