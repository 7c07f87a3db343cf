//! `tunesmith finetune`: the whole run, top to bottom.

use crate::{
    checks::{self, Verdict, tokens},
    cli::{FinetuneArgs, ResumeFrom},
    exit::{Exit, Failure},
    identity::{identity, refuse_changes},
    job::Job,
    preflight,
    prepare::{self, Plan, Prepared, now},
    recipe::Recipe,
    replay::Replay,
    report::{self, Facts},
    run_dir::{REHEARSAL, RunDir},
    run_log::RunLog,
    samples,
    saves::{rehearse_save, room, save_final},
    signals::Signals,
};
use anyhow::{Context, Result};
use serde_json::json;
use std::{io::Write, process::ExitCode, time::Instant};
use tunesmith_data::Ledger;
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_report::{MetricsLog, Progress};
use tunesmith_tokens::{BatchSource, SourceError};
use tunesmith_train::{Checkpoint, Disk, Event, Outcome, Run, RunState, Spike, train};

pub(crate) fn run(args: &FinetuneArgs) -> Result<ExitCode> {
    let signals = Signals::catch()?;
    let started = Instant::now();
    if args.print_recipe {
        write!(std::io::stdout(), "{}", prepare::resolved(args)?)?;
        return Ok(ExitCode::SUCCESS);
    }
    let plan = Plan::new(args)?;
    let resume = args.resume.or(args.job.then_some(ResumeFrom::Newest));
    let dir = RunDir::open(args.out.as_deref(), &plan.data.name, resume.is_some())?;
    let checkpoint = match resume {
        Some(ResumeFrom::Step(step)) => {
            Some(Checkpoint::at(&Disk::default(), &dir.checkpoints(), step)?)
        }
        _ => Checkpoint::newest(&Disk::default(), &dir.checkpoints())?,
    };
    // What is there to lose is committed already. A run without a checkpoint makes one before it leaves.
    if signals.leave_at_once(checkpoint.is_some())
        && let Some(checkpoint) = &checkpoint
    {
        // A signal has come while the program was loaded.
        tracing::info!("stopped at step {}; continue with --resume", checkpoint.state.step);
        return Ok(Exit::Preempted.into());
    }
    let made_with = checkpoint.as_ref().map(|c| &c.state.extra["identity"]);
    let began = made_with.and_then(|i| i["data.clock"].as_i64().or(i["clock"].as_i64()));
    let clock =
        [began, Some(plan.recipe.data.clock)].into_iter().flatten().find(|&clock| clock != 0);
    let mut prepared = plan.prepare(clock.unwrap_or_else(now))?;
    prepared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let identity = identity(&prepared)?;
    let steps = prepared.recipe.train.max_steps;
    if let Some(checkpoint) = &checkpoint {
        let made_with = &checkpoint.state.extra["identity"];
        refuse_changes(made_with, &identity, &args.allow_change, checkpoint.dir())?;
    }
    if is_finished(&dir, checkpoint.as_ref().map(|c| &c.state), &prepared.recipe)? {
        tracing::info!("{}: already finished", dir.root().display());
        return Ok(ExitCode::SUCCESS);
    }

    if args.rehearse || (args.job && checkpoint.is_none()) {
        preflight::run(&prepared, &dir.file(REHEARSAL))?;
    }

    let Job { model, objective, mut optimizer, memory } = Job::open(&prepared)?;
    let mut state = RunState::default();
    if let Some(checkpoint) = &checkpoint {
        checkpoint.restore(&model, &mut optimizer)?;
        state = checkpoint.state.clone();
        tracing::info!("resuming after step {}", state.step);
    } else if resume.is_some() {
        tracing::info!("{}: no checkpoint yet, starting at step 0", dir.root().display());
    }
    let first_batch = prepared.first_batch()?;
    let findings = tokens::all(&prepared);
    checks::refuse(&findings)?;
    for doubtful in findings.iter().filter(|finding| finding.verdict == Verdict::Doubtful) {
        let warning = format!("{}: {}", doubtful.check, doubtful.evidence);
        tracing::warn!("{warning}");
        prepared.warnings.push(warning);
    }
    let prompts = samples::prompts(&prepared)?;
    // Every input has been read: from here on the directory holds a run, and one that is not finished.
    dir.remove("report.html")?;
    dir.write("recipe.toml", &prepared.layers.to_toml(&header(&prepared)))?;
    if let Some(ledger) = state.extra.get("ledger").cloned() {
        prepared.stream.restore(serde_json::from_value::<Ledger>(ledger)?)?;
    }
    match memory.is_too_small() {
        true => tracing::warn!(
            "{}: it may not be enough; --rehearse tries the longest batch",
            memory.line()
        ),
        false => tracing::info!("{}", memory.line()),
    }
    let trained = model.params().iter().filter(|p| p.trainable()).map(|p| p.tensor.numel());
    tracing::info!(
        "{} of {} parameters trained, {} rows of {}, {}",
        tunesmith_report::format::si(trained.sum::<usize>() as f64),
        tunesmith_report::format::si(model.n_params() as f64),
        prepared.dataset.len(),
        prepared.data.name,
        dir.root().display()
    );

    if let Some(checkpoint) = &checkpoint {
        for later in checkpoint.leave_later_ones()? {
            tracing::info!("going on from step {}: set {} aside", state.step, later.display());
        }
        prepared.recipe.train.keep(&state).tidy(&Disk::default(), &dir.checkpoints())?;
    }
    for (label, rows) in prepared.config.labels().iter().zip(&prepared.classes) {
        tracing::info!("class {label}: {rows} rows");
    }
    room(&dir, &model, &optimizer, &prepared)?;
    let save_seconds = match args.grace {
        Some(grace) => Some(rehearse_save(&dir, &state, &model, &optimizer, grace)?),
        None => None,
    };

    // From here on the trainer holds the stream; its ledger is watched from outside, and noted after each step: what a
    // broken-off step has read is read again.
    let ledger = prepared.stream.watch_ledger();
    let (mut counted, mut counted_step) = (ledger(), state.step);
    let (resumed, tokens_before) = (state.step, state.num_tokens);
    let progress_at = |step: u64, epoch: f64| match steps {
        0 => epoch / prepared.recipe.train.epochs as f64,
        steps => step as f64 / steps as f64,
    };
    let progress = Progress::stderr(progress_at(resumed, prepared.stream.epoch()));
    let logged = state.extra["logged"].as_u64();
    let mut log = RunLog::open(&dir, resumed, logged, tokens_before, progress)?;
    let (mut late, accumulate) = (save_seconds, prepared.recipe.train.accumulate as f64);
    let mut on_event = |event: Event<'_>| -> Result<(), SourceError> {
        match event {
            Event::Step(step) => {
                (counted, counted_step) = (ledger(), step.step);
                log.step(step, steps, progress_at(step.step, step.epoch))?;
                if let (Some(save), Some(grace)) = (late.take(), args.grace) {
                    let micro_batch = step.seconds / accumulate;
                    if save + micro_batch > grace as f64 {
                        tracing::warn!(
                            "a micro-batch takes {micro_batch:.1} s and a save {save:.1} s: a signal may come too late for a grace of {grace} s"
                        );
                    }
                }
            }
            Event::Evaluated(step, evaluation) => log.evaluated(step, evaluation)?,
            Event::Skipped(step, spike) => {
                log.progress
                    .note(&format!("step {step}  {}: its update is left out", spike_text(spike)));
            }
            Event::RolledBack(from, to, spike) => {
                log.roll_back(&dir, to)?;
                log.progress.note(&format!(
                    "step {}  {}: back to step {to}, on with the rows behind it",
                    from + 1,
                    spike_text(spike)
                ));
            }
            Event::Broken { error, batches, checkpoint } => {
                let step = counted_step + 1;
                let replay = Replay::of(error, step, checkpoint, batches);
                let name = format!("replay-step-{step:09}.json");
                dir.write(&name, &serde_json::to_string(&replay)?)?;
                let path = dir.file(&name);
                let path = path.display();
                tracing::warn!("`tunesmith replay {path}` makes this step again");
            }
            Event::Saving(state) => {
                // What a resumed run builds on is on disk before its checkpoint is.
                log.metrics.sync()?;
                log.rows.sync()?;
                let logged = log.metrics.n_records();
                state.extra = json!({"identity": identity, "ledger": counted, "logged": logged});
            }
            Event::Saved(path) => tracing::debug!("saved {}", path.display()),
        }
        Ok(())
    };
    let checkpoints = dir.checkpoints();
    signals.leave_at_once(false);
    let outcome = train(
        Run {
            model: &model,
            source: &mut prepared.stream,
            held_out: prepared.held_out.as_mut().map(|stream| stream as &mut dyn BatchSource),
            objective: objective.as_ref(),
            optimizer: &mut optimizer,
            schedule: &prepared.recipe.schedule,
            knobs: &prepared.recipe.train,
            checkpoints: Some(&checkpoints),
            state,
            seed: prepared.recipe.seed,
            stop: signals.stop(),
        },
        &mut on_event,
    )?;
    log.progress.finish();
    let confusion = log.confusion.take();
    let training = started.elapsed();
    dir.write("ledger.json", &(serde_json::to_string_pretty(&counted)? + "\n"))?;
    let state = match outcome {
        Outcome::Done(state) => state,
        Outcome::Stopped(state, saved) => {
            let place = saved.map_or("nothing saved".into(), |path| path.display().to_string());
            tracing::info!("stopped after step {}: {place}; continue with --resume", state.step);
            return Ok(Exit::Preempted.into());
        }
    };
    if Checkpoint::place(&checkpoints, state.step).exists() && signals.leave_at_once(true) {
        return Ok(Exit::Preempted.into()); // a signal has come since the last step
    }
    let (kind, device) = (model.kind(), model.device());
    drop(objective); // a reference may be a second model
    drop(optimizer); // its moments are larger than the model that answers below
    save_final(&dir.final_model(), &model, &prepared)?;

    let max_new_tokens = prepared.recipe.samples.max_new_tokens;
    let after = samples::answer(&model, &prepared.encoder, &prompts, max_new_tokens)?;
    // The untrained model answers last, so that a run starts training at once.
    drop(model);
    let before = match prepared.recipe.model.from_scratch || prompts.is_empty() {
        true => None,
        false => {
            let options = LoadOptions::frozen(kind, device);
            let base = Transformer::load(&prepared.model_dir, options)?;
            Some(samples::answer(&base, &prepared.encoder, &prompts, max_new_tokens)?)
        }
    };
    let facts = Facts {
        prepared: &prepared,
        records: MetricsLog::read(&dir.file("metrics.jsonl"))?,
        ledger: counted,
        first_batch: first_batch.as_ref(),
        confusion: confusion.as_ref(),
        memory: &memory,
        exchanges: samples::exchanges(&prompts, before.as_deref(), &after),
        training,
        total: started.elapsed(),
        num_tokens: state.num_tokens - tokens_before,
    };
    report::write(&facts, &dir)?;
    report::say(&facts, &dir)?;
    Ok(ExitCode::SUCCESS)
}

fn spike_text(spike: &Spike) -> String {
    format!("{} {:.4} after {:.4} ± {:.4}", spike.what, spike.value, spike.mean, spike.deviation)
}

/// Whether there is nothing left to do: the report, written last, is there, and the recipe asks for no further step.
fn is_finished(dir: &RunDir, state: Option<&RunState>, recipe: &Recipe) -> Result<bool> {
    if !dir.file("report.html").exists() {
        return Ok(false);
    }
    let Some(state) = state else {
        // It was told to keep no checkpoint. Nothing can be added to it, and it must not start again in silence.
        let path = dir.file("recipe.toml");
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        if toml::from_str::<Recipe>(&text).is_ok_and(|finished| finished == *recipe) {
            return Ok(true);
        }
        let text = format!(
            "{}: the run is finished and kept no checkpoint to continue from\nhelp: choose another place with --out",
            dir.root().display()
        );
        return Err(Failure(Exit::BadConfig, text).into());
    };
    Ok(recipe.train.is_done(state))
}

fn header(prepared: &Prepared) -> Vec<String> {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let mut lines = vec![format!("tunesmith {} {command}", env!("CARGO_PKG_VERSION"))];
    lines.extend(
        prepared.warnings.iter().map(|warning| format!("warning: {}", warning.replace('\n', " "))),
    );
    lines
}
