//! `tunesmith finetune`: the whole run, top to bottom.

use crate::{
    cli::FinetuneArgs,
    exit::{Exit, Failure},
    load,
    prepare::{Plan, Prepared, now},
    recipe::Recipe,
    report::{self, Facts},
    run_dir::RunDir,
    samples,
};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
use std::{
    path::Path,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};
use tunesmith_data::Ledger;
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_report::{EventWriter, MetricsLog, Progress, Record, progress::Update, system};
use tunesmith_tokens::{BatchSource, SourceError};
use tunesmith_train::{
    AdamW, Checkpoint, Event, Outcome, Run, RunState, Sft, StepRecord, commit_dir, train,
};

pub(crate) fn run(args: &FinetuneArgs) -> Result<ExitCode> {
    let stop = stop_on_signals()?;
    let started = Instant::now();
    let plan = Plan::new(args)?;
    let dir = RunDir::open(args.out.as_deref(), &plan.data.name, args.resume)?;
    let checkpoint = Checkpoint::newest(&dir.checkpoints())?;
    let began = checkpoint.as_ref().and_then(|c| c.state.extra["identity"]["clock"].as_i64());
    let clock =
        [began, Some(plan.recipe.data.clock)].into_iter().flatten().find(|&clock| clock != 0);
    let mut prepared = plan.prepare(clock.unwrap_or_else(now))?;
    prepared.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let identity = identity(&prepared)?;
    let steps = prepared.recipe.train.max_steps;
    if let Some(checkpoint) = &checkpoint {
        refuse_changes(&checkpoint.state.extra["identity"], &identity, dir.root())?;
    }
    if is_finished(&dir, checkpoint.as_ref().map(|c| &c.state), &prepared.recipe)? {
        tracing::info!("{}: already finished", dir.root().display());
        return Ok(ExitCode::SUCCESS);
    }

    let recipe = &prepared.recipe;
    let device = load::device(recipe.model.device)?;
    let kind = recipe.model.dtype.kind();
    let options = LoadOptions::trained(kind, device);
    let model = match recipe.model.from_scratch {
        true => Transformer::fresh(prepared.config.clone(), recipe.seed, options),
        false => Transformer::load(&prepared.model_dir, options)?,
    };
    let mut optimizer = AdamW::new(recipe.optimizer.clone(), model.params());
    let mut state = RunState::default();
    if let Some(checkpoint) = &checkpoint {
        checkpoint.restore(&model, &mut optimizer)?;
        state = checkpoint.state.clone();
        tracing::info!("resuming after step {}", state.step);
    } else if args.resume {
        tracing::info!("{}: no checkpoint yet, starting at step 0", dir.root().display());
    }
    let first_batch = prepared.first_batch()?;
    let prompts = samples::prompts(&prepared)?;
    // Every input has been read: from here on the directory holds a run, and one that is not finished.
    dir.remove("report.html")?;
    dir.write("recipe.toml", &prepared.layers.to_toml(&header(&prepared)))?;
    if let Some(ledger) = state.extra.get("ledger").cloned() {
        prepared.stream.restore(serde_json::from_value::<Ledger>(ledger)?)?;
    }
    tracing::info!(
        "{} parameters, {} rows of {}, {}",
        tunesmith_report::format::si(model.n_params() as f64),
        prepared.dataset.len(),
        prepared.data.name,
        dir.root().display()
    );

    // From here on the trainer holds the stream; its ledger is watched from outside.
    let ledger = prepared.stream.watch_ledger();
    let (resumed, tokens_before) = (state.step, state.num_tokens);
    let progress_at = |step: u64, epoch: f64| match steps {
        0 => epoch / prepared.recipe.train.epochs as f64,
        steps => step as f64 / steps as f64,
    };
    let progress = Progress::stderr(progress_at(resumed, prepared.stream.epoch()));
    let mut log = Log::open(&dir, resumed, tokens_before, progress)?;
    let mut on_event = |event: Event<'_>| -> Result<(), SourceError> {
        match event {
            Event::Step(step) => log.step(step, steps, progress_at(step.step, step.epoch))?,
            Event::Evaluated(step, evaluation) => log.evaluated(step, evaluation)?,
            Event::Saving(state) => {
                // What a resumed run builds on is on disk before its checkpoint is.
                log.metrics.sync()?;
                state.extra = json!({"identity": identity, "ledger": ledger()});
            }
            Event::Saved(path) => tracing::debug!("saved {}", path.display()),
        }
        Ok(())
    };
    let checkpoints = dir.checkpoints();
    let outcome = train(
        Run {
            model: &model,
            source: &mut prepared.stream,
            held_out: prepared.held_out.as_mut().map(|stream| stream as &mut dyn BatchSource),
            objective: &Sft,
            optimizer: &mut optimizer,
            schedule: &prepared.recipe.schedule,
            knobs: &prepared.recipe.train,
            checkpoints: Some(&checkpoints),
            state,
            seed: prepared.recipe.seed,
            stop: &stop,
        },
        &mut on_event,
    )?;
    log.progress.finish();
    let training = started.elapsed();
    dir.write("ledger.json", &(serde_json::to_string_pretty(&ledger())? + "\n"))?;
    let state = match outcome {
        Outcome::Done(state) => state,
        Outcome::Stopped(state, saved) => {
            let place = saved.map_or("nothing saved".into(), |path| path.display().to_string());
            tracing::info!("stopped after step {}: {place}; continue with --resume", state.step);
            return Ok(Exit::Preempted.into());
        }
    };
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
        ledger: ledger(),
        first_batch: first_batch.as_ref(),
        exchanges: samples::exchanges(&prompts, before.as_deref(), &after),
        training,
        total: started.elapsed(),
        num_tokens: state.num_tokens - tokens_before,
    };
    report::write(&facts, &dir)?;
    report::say(&facts, &dir)?;
    Ok(ExitCode::SUCCESS)
}

/// The first signal asks for a save and an end, the second ends at once.
fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGUSR1, SIGUSR2] {
        // In this order: the shutdown sees the flag that the signal before has set.
        signal_hook::flag::register_conditional_shutdown(
            signal,
            Exit::Preempted as i32,
            stop.clone(),
        )?;
        signal_hook::flag::register(signal, stop.clone())?;
    }
    Ok(stop)
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
    Ok(match recipe.train.max_steps {
        0 => state.cursor.epoch >= recipe.train.epochs,
        steps => state.step >= steps,
    })
}

/// What must not change between a checkpoint and its continuation.
fn identity(prepared: &Prepared) -> Result<Value> {
    let recipe = &prepared.recipe;
    let data = &recipe.data;
    Ok(json!({
        "data": prepared.dataset.fingerprint()?,
        "model": recipe.model.name,
        "seed": recipe.seed,
        "clock": data.clock,
        "revision": recipe.model.revision,
        "tokens": token_files(&prepared.model_dir)?,
        "on_bad_row": data.on_bad_row,
        "dtype": recipe.model.dtype,
        "seq_len": data.seq_len,
        "batch": data.batch,
        "shuffle": data.shuffle,
        "packing": data.packing,
        "truncate": data.truncate,
        "train_on": data.train_on,
        "accumulate": recipe.train.accumulate,
        "optimizer": recipe.optimizer,
        "schedule": recipe.schedule,
    }))
}

/// A fingerprint of tokenizer and template: other files make other tokens.
fn token_files(model_dir: &Path) -> Result<String> {
    let names = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"];
    let files: Vec<_> =
        names.map(|name| model_dir.join(name)).into_iter().filter(|path| path.exists()).collect();
    Ok(tunesmith_data::fingerprint(&files)?)
}

fn refuse_changes(saved: &Value, now: &Value, root: &Path) -> Result<()> {
    let keys = now.as_object().into_iter().flatten();
    let changes: Vec<String> = keys
        .filter(|(key, value)| saved.get(key) != Some(value))
        .map(|(key, value)| {
            format!("  {key}: was {}, is {value}", saved.get(key).unwrap_or(&Value::Null))
        })
        .collect();
    if changes.is_empty() {
        return Ok(());
    }
    let text = format!(
        "{}: the checkpoint was made with other settings\n{}\nhelp: give the old settings, or a new run directory with --out",
        root.display(),
        changes.join("\n")
    );
    Err(Failure(Exit::BadConfig, text).into())
}

fn header(prepared: &Prepared) -> Vec<String> {
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    let mut lines = vec![format!("tunesmith {} {command}", env!("CARGO_PKG_VERSION"))];
    lines.extend(
        prepared.warnings.iter().map(|warning| format!("warning: {}", warning.replace('\n', " "))),
    );
    lines
}

/// `final/`: a directory that transformers loads.
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
        model.save(dir, &prepared.model_dir)?;
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
    events: EventWriter,
    progress: Progress,
    tokens_before: u64,
}

impl Log {
    /// Goes on after step `resumed`; what a run that was killed logged of later steps is cut off.
    fn open(dir: &RunDir, resumed: u64, tokens_before: u64, progress: Progress) -> Result<Self> {
        let (path, board) = (dir.file("metrics.jsonl"), dir.file("tensorboard"));
        let events = match board.exists() {
            true => EventWriter::resume(&board, resumed)?,
            false => EventWriter::create(&board)?,
        };
        Ok(Self { metrics: MetricsLog::resume(&path, resumed)?, events, progress, tokens_before })
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
