//! The report of a run: what the page holds, and the few lines that the terminal sees.

use crate::{memory, prepare::Prepared, run_dir::RunDir};
use anyhow::{Context, Result};
use std::{
    io::{IsTerminal, Write},
    time::{Duration, SystemTime},
};
use tunesmith_data::Ledger;
use tunesmith_report::{
    Machine, Record, Report, format,
    html::{
        Document, Exchange, Piece, Rows, Turn, answers, curves, facts, first_batch, recipe, rows,
        timing,
    },
    share::wilson,
    system,
};
use tunesmith_tokens::{Batch, Doc, Encoder, IGNORE};
use tunesmith_train::Confusion;

/// The release that this binary was built against; another one does not link.
pub(crate) const LIBTORCH: &str = "2.11.0";

/// What a finished run knows of itself.
pub(crate) struct Facts<'a> {
    pub(crate) prepared: &'a Prepared,
    pub(crate) records: Vec<Record>,
    pub(crate) ledger: Ledger,
    pub(crate) first_batch: Option<&'a Batch>,
    /// Of the last evaluation, where there are classes.
    pub(crate) confusion: Option<&'a Confusion>,
    pub(crate) memory: &'a memory::Plan,
    pub(crate) exchanges: Vec<Exchange>,
    pub(crate) training: Duration,
    pub(crate) total: Duration,
    pub(crate) num_tokens: u64,
}

/// Writes `report.html`.
pub(crate) fn write(facts_: &Facts, dir: &RunDir) -> Result<()> {
    let prepared = facts_.prepared;
    let run = dir.root().file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut report = Report::new(run);
    report.subtitle = format!(
        "{} on {}, {}",
        prepared.recipe.model.name,
        prepared.data.name,
        prepared.recipe.objective.title(&prepared.recipe.adapter)
    );
    report.date = format::utc(SystemTime::now());
    report.command = Some(command());
    report.warnings = prepared.warnings.clone();
    if let (Some(first), Some(last)) =
        (losses(&facts_.records).next(), losses(&facts_.records).last())
    {
        report.figure("final loss", format::loss(last), format!("from {}", format::loss(first)));
    }
    let eval = |record: &Record| record.get("eval_loss");
    if let Some(last) = facts_.records.iter().filter_map(eval).next_back() {
        let first = facts_.records.iter().find_map(eval).unwrap_or(last);
        report.figure(
            "evaluation loss",
            format::loss(last),
            format!("from {}", format::loss(first)),
        );
    }
    let accuracy = |record: &Record| {
        let n = record.get("eval_judged")? as u64;
        let share = record.get("eval_rewards/accuracies").or(record.get("eval_accuracy"))?;
        Some((share, n))
    };
    if let Some((share, n)) = facts_.records.iter().filter_map(accuracy).next_back() {
        let (low, high) = wilson(share, n);
        report.figure(
            "evaluation accuracy",
            format!("{share:.3}"),
            format!("95 %: {low:.3} to {high:.3}, of {n}"),
        );
    }
    let per_second = facts_.num_tokens as f64 / facts_.training.as_secs_f64();
    report.figure(
        "tokens",
        format::si(facts_.num_tokens as f64),
        format!("{} per second", format::si(per_second)),
    );
    report.figure("time", format::duration(facts_.training), "of training");
    if let Some(peak) = system::peak_rss() {
        report.figure("peak memory", format::bytes(peak), "resident");
    }
    if !facts_.exchanges.is_empty() {
        report.push(answers(&facts_.exchanges));
    }
    report.push(curves(&facts_.records));
    let labels = prepared.config.labels();
    if !prepared.classes.is_empty() {
        let rows = labels.iter().zip(&prepared.classes);
        let rows: Vec<_> = rows.map(|(label, n)| (label.as_str(), n.to_string())).collect();
        report.push(facts("Classes in the training rows", &rows));
    }
    if let Some(confusion) = facts_.confusion {
        let rows = labels.iter().zip(&confusion.0);
        let rows: Vec<_> =
            rows.map(|(label, row)| (label.as_str(), taken_for(row, &labels))).collect();
        report.push(facts("What each class of the held-out rows was taken for", &rows));
    }
    if let Some(batch) = facts_.first_batch {
        report.push(first_batch(&documents(batch, &prepared.encoder)));
    }
    let ledger = &facts_.ledger;
    report.push(rows(&Rows {
        trained: ledger.trained,
        truncated: ledger.truncated,
        truncated_tokens: ledger.truncated_tokens,
        dropped: ledger
            .dropped
            .iter()
            .map(|(reason, n)| (reason.clone(), *n))
            .chain(unread(ledger))
            .collect(),
    }));
    report.push(facts("Memory, as planned", &facts_.memory.rows()));
    report.push(facts("Machine and versions", &machine()));
    let rest = facts_.total.saturating_sub(facts_.training);
    report.push(timing(&[
        ("start and training", facts_.training),
        ("final model and samples", rest),
    ]));
    report.push(recipe(&prepared.layers.to_toml(&[])));
    report
        .write(&dir.file("report.html"))
        .with_context(|| dir.file("report.html").display().to_string())
}

/// The end of a run on stdout: samples, and where everything is.
pub(crate) fn say(facts: &Facts, dir: &RunDir) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for exchange in &facts.exchanges {
        writeln!(out)?;
        for Turn { role, content } in &exchange.prompt {
            writeln!(out, "{role:>9}  {}", indented(content))?;
        }
        if let Some(before) = &exchange.before {
            writeln!(out, "   before  {}", indented(&clipped(&before.text, before.stopped)))?;
        }
        let after = &exchange.after;
        writeln!(out, "    after  {}", indented(&clipped(&after.text, after.stopped)))?;
    }
    if let (Some(first), Some(last)) =
        (losses(&facts.records).next(), losses(&facts.records).last())
    {
        writeln!(out, "\nloss {} → {}", format::loss(first), format::loss(last))?;
    }
    writeln!(out, "{}", facts.ledger)?;
    writeln!(out, "model   {}", dir.final_model().display())?;
    writeln!(out, "report  {}", dir.file("report.html").display())
}

/// A row of the confusion matrix in words: `no 40, yes 2`.
fn taken_for(row: &[u64], labels: &[String]) -> String {
    let counts = row.iter().zip(labels).filter(|(n, _)| **n > 0);
    counts.map(|(n, label)| format!("{label} {n}")).collect::<Vec<_>>().join(", ")
}

fn losses(records: &[Record]) -> impl Iterator<Item = f64> {
    records.iter().filter_map(|record| record.get("loss"))
}

fn unread(ledger: &Ledger) -> Option<(String, u64)> {
    (ledger.unread > 0).then(|| ("not reached by this run".to_owned(), ledger.unread))
}

/// A text beside its label: wrapped to the terminal, if there is one, and aligned.
fn indented(text: &str) -> String {
    const INDENT: &str = "           ";
    let width = match std::io::stdout().is_terminal() {
        true => textwrap::termwidth(),
        false => usize::MAX,
    };
    let options = textwrap::Options::new(width).initial_indent(INDENT).subsequent_indent(INDENT);
    textwrap::fill(text.trim(), options).trim_start().to_owned()
}

/// An answer that did not stop by itself ends in an ellipsis.
fn clipped(text: &str, stopped: bool) -> String {
    if stopped { text.to_owned() } else { format!("{text} …") }
}

fn command() -> String {
    std::iter::once("tunesmith".to_owned())
        .chain(std::env::args().skip(1))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Each document of a batch as pieces of text with their trained tokens marked, what it shares with another included.
pub(crate) fn documents(batch: &Batch, encoder: &Encoder) -> Vec<Document> {
    let of = |index: usize| {
        let Doc { start, row, shared, .. } = batch.docs[index];
        let ids = batch.doc_tokens(index);
        // Labels are shifted: what is learned at i − 1 is the token at i.
        let trained = |i: usize| i > shared && batch.labels[start + i - shared - 1] != IGNORE;
        let texts = pieces(&ids, encoder).into_iter().enumerate();
        let piece = |(i, text)| Piece { text, trained: trained(i), id: ids[i] };
        Document { row, pieces: texts.map(piece).collect() }
    };
    (0..batch.docs.len()).map(of).collect()
}

/// The text of each token, as it stands after the ones before it: a lone token of some tokenizers has lost its space.
/// A character of several tokens stands at the last of them.
fn pieces(ids: &[u32], encoder: &Encoder) -> Vec<String> {
    let Some(tokenizer) = encoder.tokenizer() else {
        return ids.iter().map(|id| format!("{id} ")).collect();
    };
    let mut stream = tokenizer.decode_stream(false);
    // What cannot be decoded is shown as nothing: this is a page to look at.
    let mut texts: Vec<String> =
        ids.iter().map(|&id| stream.push(id).ok().flatten().unwrap_or_default()).collect();
    if let (Some(last), Ok(Some(rest))) = (texts.last_mut(), stream.flush()) {
        last.push_str(&rest);
    }
    texts
}

fn machine() -> Vec<(&'static str, String)> {
    let machine = Machine::read();
    let known = [
        ("host", Some(machine.hostname)),
        ("system", machine.os),
        ("processor", machine.cpu),
        ("cores", machine.n_cores.map(|n| n.to_string())),
        ("memory", machine.memory.map(format::bytes)),
        ("tunesmith", Some(env!("CARGO_PKG_VERSION").to_owned())),
        ("libtorch", Some(LIBTORCH.to_owned())),
    ];
    known.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
