//! `tunesmith check`: everything up to the first batch, before any weight is touched, with all errors at once.

use crate::{
    checks::{self, tokens},
    cli::FinetuneArgs,
    commands::data::print_documents,
    exit::{Exit, Failure},
    preflight,
    prepare::{Plan, now},
    report,
};
use anyhow::Result;
use std::{io::Write, process::ExitCode};
use tunesmith_data::OnBadRow;
use tunesmith_tokens::IGNORE;

/// Errors of rows shown in full; the rest is counted.
const SHOWN_ERRORS: usize = 20;
/// Documents of the first batch shown.
const SHOWN_DOCUMENTS: usize = 3;

pub(crate) fn run(args: &FinetuneArgs, deep: bool) -> Result<ExitCode> {
    let mut prepared = Plan::new(args)?.prepare(now())?;
    let rows = prepared.dataset.check(SHOWN_ERRORS, Some(&prepared.encoder));
    if !rows.is_sound() && prepared.recipe.data.on_bad_row == OnBadRow::Stop {
        return Err(Failure(Exit::BadData, rows.to_string()).into());
    }
    let Some(batch) = prepared.first_batch()? else {
        let text = "not one row gives a batch\nhelp: look at them with `tunesmith data show`";
        return Err(Failure(Exit::BadData, text.into()).into());
    };
    let documents = report::documents(&batch, &prepared.encoder);
    print_documents(&documents[..documents.len().min(SHOWN_DOCUMENTS)])?;

    let mut out = std::io::stdout().lock();
    let knobs = &prepared.recipe.data;
    let trained = batch.labels.iter().filter(|&&label| label != IGNORE).count();
    writeln!(
        out,
        "model        {} ({})",
        prepared.model_dir.display(),
        prepared.config.architecture
    )?;
    writeln!(
        out,
        "data         {} rows of {}, {} malformed",
        prepared.dataset.len(),
        prepared.data.name,
        rows.n_errors
    )?;
    writeln!(
        out,
        "first batch  {} documents, {} tokens of {}, {trained} trained",
        batch.docs.len(),
        batch.len(),
        knobs.batch * knobs.seq_len
    )?;
    for warning in &prepared.warnings {
        writeln!(out, "warning      {warning}")?;
    }
    drop(out);
    let findings = tokens::all(&prepared);
    checks::print(&findings)?;
    checks::refuse(&findings)?;
    if deep {
        let place = format!("tunesmith-rehearsal-{}", std::process::id());
        preflight::run(&prepared, &std::env::temp_dir().join(place))?;
    }
    Ok(ExitCode::SUCCESS)
}
