//! What a run leaves on disk: room for its checkpoints, the time that one takes, and the model at the end.

use crate::{load, prepare::Prepared, run_dir::RunDir};
use anyhow::{Context, Result};
use std::{path::Path, time::Instant};
use tch::Tensor;
use tunesmith_model::Transformer;
use tunesmith_train::{AdamW, RunState, Snapshot, TrainError, check_space, commit_dir};

/// Whether the disk holds all the checkpoints that there will be, before the first step is made.
pub(crate) fn room(
    dir: &RunDir,
    model: &Transformer,
    optimizer: &AdamW,
    prepared: &Prepared,
) -> Result<()> {
    let knobs = &prepared.recipe.train;
    if knobs.save_every == 0 {
        return Ok(());
    }
    let bytes = |tensors: &mut dyn Iterator<Item = &Tensor>| {
        tensors.map(|t| (t.numel() * t.kind().elt_size_in_bytes()) as u64).sum::<u64>()
    };
    let weights = bytes(&mut model.params().iter().map(|p| &p.tensor));
    let trained = bytes(&mut model.params().iter().filter(|p| p.trainable()).map(|p| &p.tensor));
    let moments = optimizer.state();
    let one = trained + bytes(&mut moments.iter().map(|(_, tensor)| tensor));
    let there = std::fs::read_dir(dir.checkpoints()).into_iter().flatten().count() as u64;
    let n_steps = (knobs.max_steps > 0).then_some(knobs.max_steps);
    let n = knobs.keep(&RunState::default()).at_most(n_steps, knobs.save_every, knobs.keep_best);
    Ok(check_space(dir.root(), weights + one * n.saturating_sub(there))?)
}

/// What a save takes on this disk, in seconds, and whether it fits into the grace that a signal leaves.
pub(crate) fn rehearse_save(
    dir: &RunDir,
    state: &RunState,
    model: &Transformer,
    optimizer: &AdamW,
    grace: u64,
) -> Result<f64> {
    let started = Instant::now();
    let snapshot = Snapshot::take(state, model, optimizer);
    snapshot.rehearse(&dir.checkpoints())?;
    let seconds = started.elapsed().as_secs_f64();
    let size = tunesmith_report::format::bytes(snapshot.n_bytes());
    match seconds < grace as f64 {
        true => tracing::info!("a save takes {seconds:.1} s ({size}); grace is {grace} s"),
        false => tracing::warn!(
            "a save takes {seconds:.1} s ({size}), longer than the grace of {grace} s: what a signal interrupts is lost back to the newest checkpoint; save often, or train fewer parameters"
        ),
    }
    Ok(seconds)
}

/// `final/`: a directory that transformers loads, or PEFT where an adapter was trained.
pub(crate) fn save_final(target: &Path, model: &Transformer, prepared: &Prepared) -> Result<()> {
    if target.exists() {
        std::fs::remove_dir_all(target).with_context(|| target.display().to_string())?;
    }
    let needed = model
        .params()
        .iter()
        .map(|p| p.tensor.numel() * p.tensor.kind().elt_size_in_bytes())
        .sum::<usize>();
    commit_dir(target, needed as u64, |dir| {
        match prepared.recipe.adapter.is_used() {
            true => {
                let base = &prepared.recipe.model.name;
                model.save_adapter(0, dir, base, &prepared.model_dir)?;
            }
            false => model.save(dir, &prepared.model_dir)?,
        }
        if let Some(certificate) = &prepared.certificate {
            load::write_certificate(dir, certificate)?;
        }
        let template = dir.join("chat_template.jinja");
        if let (Some(used), false) = (prepared.encoder.template(), prepared.has_own_template()) {
            // A base model leaves with the template it was trained in, or nobody could talk to it.
            std::fs::write(&template, used.source())
                .map_err(|source| TrainError::Io { path: template, source })?;
        }
        Ok(())
    })?;
    Ok(())
}
