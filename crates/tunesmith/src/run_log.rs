//! What a run writes down while it goes: metrics, rows, TensorBoard events, the progress line.

use crate::{consumed::RowLog, run_dir::RunDir};
use anyhow::Result;
use tunesmith_report::{
    EventWriter, MetricsLog, Progress, Record, progress::Update, share::with_interval, system,
};
use tunesmith_tokens::SourceError;
use tunesmith_train::{Confusion, Evaluation, Judged, StepRecord};

/// Everything that records a step.
pub(crate) struct RunLog {
    pub(crate) metrics: MetricsLog,
    pub(crate) rows: RowLog,
    events: EventWriter,
    pub(crate) progress: Progress,
    tokens_before: u64,
    /// Of the newest evaluation, where there are classes.
    pub(crate) confusion: Option<Confusion>,
}

impl RunLog {
    /// Goes on after step `resumed`, of which and before which there were so many records; what a run that was killed
    /// logged later is cut off.
    pub(crate) fn open(
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
    pub(crate) fn roll_back(&mut self, dir: &RunDir, to: u64) -> Result<()> {
        self.metrics = MetricsLog::resume(&dir.file("metrics.jsonl"), to)?;
        self.rows = RowLog::resume(&dir.file("rows.jsonl"), to)?;
        self.events = EventWriter::resume(&dir.file("tensorboard"), to)?;
        Ok(())
    }

    pub(crate) fn step(
        &mut self,
        step: &StepRecord,
        n_steps: u64,
        progress: f64,
    ) -> Result<(), SourceError> {
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

    pub(crate) fn evaluated(
        &mut self,
        step: u64,
        evaluation: &Evaluation,
    ) -> Result<(), SourceError> {
        let mut record = Record::new(step).with("eval_loss", evaluation.loss);
        evaluation
            .metrics
            .iter()
            .for_each(|(name, value)| record.set(&format!("eval_{name}"), *value));
        if let Some(judged) = evaluation.judged {
            record.set("eval_judged", judged.n as f64);
        }
        record.set("eval_runtime", evaluation.seconds);
        self.write(&record)?;
        self.confusion.clone_from(&evaluation.confusion);
        let judged = evaluation.judged.map_or_else(String::new, |Judged { name, share, n }| {
            format!("  eval_{name} {}", with_interval(share, n))
        });
        let loss = tunesmith_report::format::loss(evaluation.loss);
        self.progress.note(&format!("step {step}  eval_loss {loss}{judged}"));
        Ok(())
    }

    fn write(&mut self, record: &Record) -> Result<(), SourceError> {
        self.metrics.write(record)?;
        self.events.write(record)?;
        Ok(())
    }
}
