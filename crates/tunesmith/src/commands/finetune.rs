//! `tunesmith finetune`: the whole run, top to bottom.

use crate::{
    checks::{self, Verdict, tokens},
    cli::{FinetuneArgs, ResumeFrom},
    consumed::RowLog,
    exit::{Exit, Failure},
    identity::{identity, refuse_changes},
    load,
    objective::{self, ObjectiveKind},
    preflight,
    prepare::{self, Plan, Prepared, now},
    recipe::Recipe,
    replay::Replay,
    report::{self, Facts},
    run_dir::{REHEARSAL, RunDir},
    samples,
    signals::Signals,
};
use anyhow::{Context, Result};
use serde_json::json;
use std::{io::Write, path::Path, process::ExitCode, time::Instant};
use tch::Tensor;
use tunesmith_data::Ledger;
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_report::{EventWriter, MetricsLog, Progress, Record, progress::Update, system};
use tunesmith_tokens::{BatchSource, SourceError};
use tunesmith_train::{
    AdamW, Checkpoint, Confusion, Disk, Event, Outcome, Run, RunState, Snapshot, Spike, StepRecord,
    check_space, commit_dir, train,
};

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
    signals.leave_at_once(checkpoint.is_some());
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

    let recipe = &prepared.recipe;
    let device = load::device(recipe.model.device)?;
    let kind = recipe.model.dtype.kind();
    let mut model = load::for_training(recipe, &prepared.config, &prepared.model_dir, device)?;
    let objective = objective::build(&prepared, &mut model, device)?;
    let mut optimizer = AdamW::new(recipe.optimizer.clone(), model.params());
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
    let mut log = Log::open(&dir, resumed, logged, tokens_before, progress)?;
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
                match prepared.recipe.objective.kind {
                    ObjectiveKind::Sft => {
                        tracing::warn!(
                            "`tunesmith replay {}` makes this step again",
                            path.display()
                        )
                    }
                    _ => tracing::warn!("{} holds the step's batches", path.display()),
                }
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
            let base = Transformer::load(&prepared.model_dir, LoadOptions::frozen(kind, device))?;
            Some(samples::answer(&base, &prepared.encoder, &prompts, max_new_tokens)?)
        }
    };
    let facts = Facts {
        prepared: &prepared,
        records: MetricsLog::read(&dir.file("metrics.jsonl"))?,
        ledger: counted,
        first_batch: first_batch.as_ref(),
        confusion: confusion.as_ref(),
        exchanges: samples::exchanges(&prompts, before.as_deref(), &after),
        training,
        total: started.elapsed(),
        num_tokens: state.num_tokens - tokens_before,
    };
    report::write(&facts, &dir)?;
    report::say(&facts, &dir)?;
    Ok(ExitCode::SUCCESS)
}

/// Whether the disk holds all the checkpoints that there will be, before the first step is made.
fn room(dir: &RunDir, model: &Transformer, optimizer: &AdamW, prepared: &Prepared) -> Result<()> {
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
fn rehearse_save(
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
    let size = tunesmith_report::format::si(snapshot.n_bytes() as f64);
    match seconds < grace as f64 {
        true => tracing::info!("a save takes {seconds:.1} s ({size}B); grace is {grace} s"),
        false => tracing::warn!(
            "a save takes {seconds:.1} s ({size}B), longer than the grace of {grace} s: what a signal interrupts is lost back to the newest checkpoint; save often, or train fewer parameters"
        ),
    }
    Ok(seconds)
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

/// `final/`: a directory that transformers loads, or PEFT where an adapter was trained.
fn save_final(target: &Path, model: &Transformer, prepared: &Prepared) -> Result<()> {
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
                .map_err(|source| tunesmith_train::TrainError::Io { path: template, source })?;
        }
        Ok(())
    })?;
    Ok(())
}

/// Everything that records a step.
struct Log {
    metrics: MetricsLog,
    rows: RowLog,
    events: EventWriter,
    progress: Progress,
    tokens_before: u64,
    /// Of the newest evaluation, where there are classes.
    confusion: Option<Confusion>,
}

impl Log {
    /// Goes on after step `resumed`, of which and before which there were so many records; what a run that was killed
    /// logged later is cut off.
    fn open(
        dir: &RunDir,
        resumed: u64,
        logged: Option<u64>,
        tokens_before: u64,
        progress: Progress,
    ) -> Result<Self> {
        let (path, board) = (dir.file("metrics.jsonl"), dir.file("tensorboard"));
        let events = match board.exists() {
            true => EventWriter::resume(&board, resumed)?,
            false => EventWriter::create(&board)?,
        };
        let metrics = match logged {
            Some(logged) => MetricsLog::resume_at(&path, logged)?,
            None => MetricsLog::resume(&path, resumed)?,
        };
        let rows = RowLog::resume(&dir.file("rows.jsonl"), resumed)?;
        Ok(Self { metrics, rows, events, progress, tokens_before, confusion: None })
    }

    /// Goes on after step `to`: what was logged of later steps is cut off.
    fn roll_back(&mut self, dir: &RunDir, to: u64) -> Result<()> {
        self.metrics = MetricsLog::resume(&dir.file("metrics.jsonl"), to)?;
        self.rows = RowLog::resume(&dir.file("rows.jsonl"), to)?;
        self.events = EventWriter::resume(&dir.file("tensorboard"), to)?;
        Ok(())
    }

    fn step(&mut self, step: &StepRecord, n_steps: u64, progress: f64) -> Result<(), SourceError> {
        let mut record = Record::new(step.step)
            .with("epoch", step.epoch)
            .with("loss", step.loss)
            .with("grad_norm", step.grad_norm)
            .with("learning_rate", step.learning_rate)
            .with("num_tokens", step.num_tokens);
        step.metrics.iter().for_each(|(name, value)| record.set(name, *value));
        record.set("tokens_per_second", step.tokens_per_second);
        self.write(&record)?;
        self.rows.write(step.step, &step.rows)?;
        self.progress.update(&Update {
            step: step.step,
            n_steps: (n_steps > 0).then_some(n_steps),
            progress,
            loss: step.loss,
            lr: step.learning_rate,
            n_tokens: step.num_tokens.saturating_sub(self.tokens_before),
            memory: system::rss(),
        });
        self.tokens_before = step.num_tokens;
        Ok(())
    }

    fn evaluated(
        &mut self,
        step: u64,
        evaluation: &tunesmith_train::Evaluation,
    ) -> Result<(), SourceError> {
        let mut record = Record::new(step).with("eval_loss", evaluation.loss);
        evaluation
            .metrics
            .iter()
            .for_each(|(name, value)| record.set(&format!("eval_{name}"), *value));
        record.set("eval_runtime", evaluation.seconds);
        self.write(&record)?;
        self.confusion.clone_from(&evaluation.confusion);
        self.progress.note(&format!(
            "step {step}  eval_loss {}",
            tunesmith_report::format::loss(evaluation.loss)
        ));
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), SourceError> {
        self.metrics.write(record)?;
        self.events.write(record)?;
        Ok(())
    }
}
