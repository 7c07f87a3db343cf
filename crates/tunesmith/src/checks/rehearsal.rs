//! The rehearsal: the longest batch that can come goes through everything that a run does, before the run begins.

use crate::{
    exit::{Exit, Failure},
    memory,
    prepare::Prepared,
};
use anyhow::{Context, Result, bail};
use std::{
    fs,
    path::Path,
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};
use tch::Tensor;
use tunesmith_model::Transformer;
use tunesmith_report::{format, system};
use tunesmith_tokens::{Batch, BatchSource, Cursor, Example, SourceError};
use tunesmith_train::{
    AdamW, Checkpoint, Disk, Keep, Objective, RunState, Snapshot, evaluate, step,
};

/// Reads, trains on, evaluates, saves and reloads the longest batch; prints what it took. `place` is made and removed.
///
/// # Errors
/// What would stop the run later; a peak of memory that this machine does not have, with the nearest settings that fit.
pub(crate) fn run(
    prepared: &Prepared,
    model: &Transformer,
    optimizer: &mut AdamW,
    objective: &dyn Objective,
    examples: &[Example],
    place: &Path,
) -> Result<Vec<String>> {
    let (knobs, train) = (&prepared.recipe.data, &prepared.recipe.train);
    let seq_len = knobs.seq_len.min(prepared.config.max_position_embeddings as usize);
    let sizes = Sizes { batch: knobs.batch, seq_len, accumulate: train.accumulate };
    let half = if sizes.batch > 1 { (sizes.batch / 2, seq_len) } else { (1, seq_len.div_ceil(2)) };
    let lr = prepared.recipe.schedule.lr;
    let mut lines = Vec::new();

    // Half of it says what the whole will take.
    let [small, large] =
        [half, (sizes.batch, seq_len)].map(|(n, length)| longest(examples, n, length));
    let on_cpu = model.device() == tch::Device::Cpu;
    step(model, optimizer, objective, &[longest(examples, 1, 2.min(seq_len))], lr, 0)?; // moments come into being
    let before = system::rss().unwrap_or(0);
    let (_, peak) =
        peak_of(|| step(model, optimizer, objective, std::slice::from_ref(&small), lr, 0))?;
    let grown = peak.saturating_sub(before) as f64;
    let per_token = grown / small.len() as f64;
    // A checkpoint that is written while the next step runs is a second copy of what it holds.
    let state = RunState::default();
    let copy = memory::copy(&prepared.recipe, model, optimizer) as f64;
    // The gradients of a step's first micro-batch lie beside the forward pass of its second.
    let gradients = memory::gradients(model) as f64;
    let beside = if train.accumulate > 1 { gradients } else { 0.0 };
    let predicted = before as f64 + per_token * large.len() as f64 + beside + copy;
    let available = memory::room(&prepared.recipe, model.device()).unwrap_or(u64::MAX) as f64;
    if on_cpu && predicted > available {
        let left = Left { bytes: available - before as f64, copy, gradients, per_token };
        let text = format!(
            "the longest batch, {} rows of {seq_len} tokens, needs about {} of memory{}; {} are there\nhelp: {}",
            sizes.batch,
            format::bytes(predicted as u64),
            with_copy(copy),
            format::bytes(available as u64),
            sizes.nearest(&left)
        );
        return Err(Failure(Exit::BadConfig, text).into());
    }

    let snapshot = (copy > 0.0).then(|| Snapshot::take(&state, model, optimizer));
    let micro_batches: Vec<Batch> = (0..train.accumulate.min(2)).map(|_| large.clone()).collect();
    let started = Instant::now();
    let (_, peak) = peak_of(|| step(model, optimizer, objective, &micro_batches, lr, 0))?;
    let step_time = started.elapsed() / micro_batches.len().max(1) as u32;
    drop(snapshot);
    let started = Instant::now();
    evaluate(model, &mut Once(Some(large.clone())), objective, &AtomicBool::new(false))?;
    let evaluation = started.elapsed();
    let (save, reload) = save_and_reload(model, optimizer, place)?;
    lines.push(format!(
        "rehearsal    {} rows of {seq_len} tokens: step {}, evaluation {}, save {}, reload {}",
        sizes.batch,
        seconds(step_time),
        seconds(evaluation),
        seconds(save),
        seconds(reload)
    ));
    if on_cpu {
        lines.push(format!(
            "memory       predicted {}, measured {}, available {}{}",
            format::bytes(predicted as u64),
            format::bytes(peak),
            format::bytes(available as u64),
            with_copy(copy)
        ));
    }
    if train.max_steps > 0 {
        let all = step_time * train.accumulate as u32 * train.max_steps as u32;
        lines.push(format!(
            "time         at most {} for {} steps",
            format::duration(all),
            train.max_steps
        ));
    }
    Ok(lines)
}

/// `n` rows of `length` tokens, all trained, out of the ids of real examples; tied and labelled as they are. Of
/// answers that are tied, each may be so long, and a row holds two.
fn longest(examples: &[Example], n: usize, length: usize) -> Batch {
    let ids: Vec<u32> = examples.iter().flat_map(|e| e.ids.iter().copied()).collect();
    let mut ids = ids.into_iter().cycle();
    let tied = examples.iter().any(|e| e.tied);
    let rows: Vec<Example> = (0..if tied { 2 * n } else { n })
        .map(|i| Example {
            ids: ids.by_ref().take(length).collect(),
            trained: vec![true; length],
            label: examples.first().and_then(|e| e.label),
            tied: tied && i % 2 == 1,
            ..Example::default()
        })
        .collect();
    Batch::new(&rows)
}

/// What a run was asked for.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    batch: usize,
    seq_len: usize,
    accumulate: usize,
}

/// What a batch has to share.
#[derive(Debug, Clone, Copy)]
struct Left {
    /// Beside weights, gradients and moments.
    bytes: f64,
    /// Of it, for a checkpoint that is written beside the step.
    copy: f64,
    /// Of it, for the gradients, where a step has several micro-batches.
    gradients: f64,
    /// What a token of a batch takes.
    per_token: f64,
}

impl Sizes {
    /// The settings nearest to these that fit: the same batch with saves that training waits for, or fewer tokens at once.
    fn nearest(self, left: &Left) -> String {
        const WAIT: &str = "--set train.save_in_background=false";
        let Left { bytes, copy, gradients, per_token } = *left;
        let alone = self.fewer((bytes - gradients) / per_token);
        let beside = self.fewer((bytes - gradients - copy) / per_token);
        let held = if self.accumulate > 1 { gradients } else { 0.0 };
        let whole = (self.batch * self.seq_len) as f64 * per_token + held;
        match (copy > 0.0, beside) {
            (true, beside) if whole <= bytes => {
                let other = beside.map_or(String::new(), |flags| format!("; so does {flags}"));
                format!("{WAIT} fits: training waits for each save{other}")
            }
            (_, Some(flags)) => format!("{flags} fits"),
            (true, None) if alone.is_some() => {
                format!("{WAIT} {} fits: training waits for each save", alone.unwrap_or_default())
            }
            _ => "no batch of this model fits; use a smaller model, bf16 weights or an adapter"
                .into(),
        }
    }

    /// Flags for at most `tokens` tokens at once; with as many rows in a step, while a row still fits.
    fn fewer(self, tokens: f64) -> Option<String> {
        let tokens = tokens.max(0.0) as usize;
        let (batch, rows) = (tokens / self.seq_len, self.batch * self.accumulate);
        if batch >= 1 {
            let accumulate = rows.div_ceil(batch);
            return Some(format!("--batch {batch} --accumulate {accumulate}"));
        }
        let seq_len = tokens / 64 * 64;
        (seq_len > 0).then(|| {
            format!("--seq-len {seq_len} --batch 1 --accumulate {rows} (which cuts longer rows)")
        })
    }
}

/// What the figures hold besides the step.
fn with_copy(copy: f64) -> String {
    match copy > 0.0 {
        true => format!(", {} of it for a checkpoint in the making", format::bytes(copy as u64)),
        false => String::new(),
    }
}

/// Commits a checkpoint, spoils the weights, restores them, and compares them bit by bit.
fn save_and_reload(
    model: &Transformer,
    optimizer: &mut AdamW,
    place: &Path,
) -> Result<(Duration, Duration)> {
    let n_steps = optimizer.n_steps();
    let state = RunState { step: n_steps, ..RunState::default() };
    let mut saved = || -> Result<(Duration, Duration)> {
        let started = Instant::now();
        let snapshot = Snapshot::take(&state, model, optimizer);
        snapshot.commit(&Disk::default(), place, &Keep { last: 2, every: 0, best: None })?;
        let save = started.elapsed();
        let weights = || model.params().iter().filter(|param| param.trainable());
        let _no_grad = tch::no_grad_guard();
        let before: Vec<Tensor> = weights().map(|param| param.tensor.copy()).collect();
        weights().for_each(|param| _ = param.tensor.shallow_clone().zero_());
        let started = Instant::now();
        let checkpoint =
            Checkpoint::newest(&Disk::default(), place)?.context("a checkpoint was just saved")?;
        checkpoint.restore(model, optimizer)?;
        let reload = started.elapsed();
        if let Some((param, _)) =
            weights().zip(&before).find(|(param, before)| param.tensor != **before)
        {
            bail!("{}: other values after a save and a reload", param.name);
        }
        Ok((save, reload))
    };
    let result = saved();
    if place.exists() {
        fs::remove_dir_all(place).with_context(|| place.display().to_string())?;
    }
    result
}

/// The peak of resident memory while `act` runs, in bytes.
fn peak_of<T>(act: impl FnOnce() -> Result<T, tunesmith_train::TrainError>) -> Result<(T, u64)> {
    let _ = fs::write("/proc/self/clear_refs", "5"); // where this is not allowed, the peak so far counts
    let made = act()?;
    Ok((made, system::peak_rss().unwrap_or(0)))
}

fn seconds(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

/// A source of one batch.
pub(super) struct Once(pub(super) Option<Batch>);

impl BatchSource for Once {
    fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        Ok(self.0.take())
    }

    fn cursor(&self) -> Cursor {
        Cursor::default()
    }

    fn seek(&mut self, _: Cursor) -> Result<(), SourceError> {
        Ok(())
    }

    fn epoch(&self) -> f64 {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_settings_keep_the_rows_of_a_step() {
        let sizes = Sizes { batch: 8, seq_len: 1024, accumulate: 2 };
        let check = |bytes: f64, copy: f64, expected: &str| {
            for gradients in [0.0, 512.0] {
                let bytes = bytes + gradients;
                let left = Left { bytes, copy, gradients, per_token: 2.0 };
                assert_eq!(sizes.nearest(&left), expected);
            }
        };
        check(7000.0, 0.0, "--batch 3 --accumulate 6 fits");
        check(2048.0, 0.0, "--batch 1 --accumulate 16 fits");
        let short = "--seq-len 640 --batch 1 --accumulate 16 (which cuts longer rows) fits";
        check(1400.0, 0.0, short);
        let none = "no batch of this model fits; use a smaller model, bf16 weights or an adapter";
        check(126.0, 0.0, none);
        check(-5.0, 0.0, none);
        // With a checkpoint in the making.
        let wait = "--set train.save_in_background=false";
        let after = "fits: training waits for each save";
        check(17000.0, 4000.0, &format!("{wait} {after}; so does --batch 6 --accumulate 3"));
        check(17000.0, 17000.0, &format!("{wait} {after}"));
        check(11000.0, 4000.0, "--batch 3 --accumulate 6 fits");
        check(5000.0, 6000.0, &format!("{wait} --batch 2 --accumulate 8 {after}"));
        check(100.0, 6000.0, none);
    }

    #[test]
    fn the_longest_batch_is_full_trained_and_tied_as_the_data_is() {
        let plain = Example { ids: vec![5, 6, 7], trained: vec![true; 3], ..Example::default() };
        let batch = longest(std::slice::from_ref(&plain), 3, 10);
        assert_eq!((batch.len(), batch.docs.len(), batch.n_trained()), (30, 3, 27));
        let pair = [plain.clone(), Example { tied: true, ..plain }];
        let batch = longest(&pair, 3, 10);
        assert_eq!(batch.docs.iter().map(|doc| doc.group).collect::<Vec<_>>(), [0, 0, 1, 1, 2, 2]);
    }
}
