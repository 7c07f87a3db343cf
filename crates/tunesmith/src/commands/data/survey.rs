//! `tunesmith data check`, `stats`, `clean` and `prepare`: one pass over all rows.

use super::Opened;
use crate::{
    cli::{
        CleanArgs, DataCheckArgs, FinetuneArgs, InputArgs, KnobArgs, MessageFormat, PrepareArgs,
        StatsArgs,
    },
    exit::Exit,
    locate,
    prepare::{Plan, now},
    tokens,
};
use anyhow::Result;
use serde_json::json;
use std::{io::Write, path::Path, process::ExitCode, time::SystemTime};
use tunesmith_data::{CleanKnobs, Dataset, Histogram, Level, Stats};
use tunesmith_report::{
    Report, Section, format,
    html::{Bars, Html, facts},
};

/// Kinds of errors shown in full; the rest is counted.
const SHOWN_ERRORS: usize = 20;
/// Bars of a histogram.
const BARS: u32 = 40;

pub(crate) fn check(args: &DataCheckArgs) -> Result<ExitCode> {
    let opened = Opened::new(&args.input, Some(args.seq_len))?;
    let report = opened.dataset.check(SHOWN_ERRORS, Some(&opened.encoder));
    let mut out = std::io::stdout().lock();
    match args.message_format {
        MessageFormat::Text => writeln!(out, "{report}")?,
        MessageFormat::Json => {
            for diagnostic in report.diagnostics() {
                writeln!(out, "{}", serde_json::to_string(&diagnostic)?)?;
            }
        }
    }
    if let Some(eval) = &opened.eval {
        let overlap = eval.overlap(&opened.dataset)?;
        if overlap.count > 0 {
            let message = format!(
                "{} rows of the evaluation split stand in the training split word for word",
                overlap.count
            );
            let rows = overlap.first;
            match args.message_format {
                MessageFormat::Text => writeln!(out, "note[overlap]: {message}: {rows:?}")?,
                MessageFormat::Json => {
                    let line = json!({"level": Level::Note, "code": "overlap", "message": message, "alike": overlap.count, "rows": rows});
                    writeln!(out, "{line}")?;
                }
            }
        }
    }
    Ok(if report.is_sound() { ExitCode::SUCCESS } else { Exit::BadData.into() })
}

pub(crate) fn stats(args: &StatsArgs) -> Result<ExitCode> {
    let opened = Opened::new(&args.input, Some(args.seq_len))?;
    let (stats, report) =
        opened.dataset.stats(&opened.encoder, Some(args.seq_len), SHOWN_ERRORS)?;
    let mut out = std::io::stdout().lock();
    match args.json {
        true => writeln!(out, "{}", serde_json::to_string(&stats)?)?,
        false => write!(out, "{stats}")?,
    }
    for diagnostic in report.diagnostics().iter().filter(|d| d.level == Level::Error) {
        tracing::warn!("{} malformed rows: {}", diagnostic.alike.unwrap_or(1), diagnostic.message);
    }
    if let Some(path) = &args.html {
        page(&opened, &stats, args.seq_len, path)?;
        tracing::info!("wrote {}", path.display());
    }
    Ok(ExitCode::SUCCESS)
}

/// What cleaning leaves out: the steps of the data set's TOML, or repetitions where it names none.
pub(crate) fn clean(args: &CleanArgs) -> Result<ExitCode> {
    let data = locate::dataset(&args.dataset, args.source.unwrap_or_default(), true)?;
    data.say_fallback();
    let repetitions =
        CleanKnobs { duplicates: true, near_duplicates: Some(0.8), ..CleanKnobs::default() };
    let knobs = data.config.clean.clone().unwrap_or(repetitions);
    let cleaning = data.clean(&Dataset::mix(&data.train)?, &knobs)?;
    writeln!(std::io::stdout().lock(), "{cleaning}")?;
    Ok(ExitCode::SUCCESS)
}

pub(crate) fn prepare(args: &PrepareArgs) -> Result<ExitCode> {
    let InputArgs { dataset, model, source, .. } = args.input.clone();
    let plan = Plan::new(&FinetuneArgs {
        dataset: Some(dataset),
        model,
        source,
        recipe: args.recipe.clone(),
        set: args.set.clone(),
        knobs: KnobArgs { seq_len: args.seq_len.clone(), ..KnobArgs::default() },
        ..FinetuneArgs::default()
    })?;
    let clock = match plan.recipe.data.clock {
        0 => now(),
        clock => clock,
    };
    let folder = args.out.clone().unwrap_or_else(tokens::folder);
    let (written, plan) = plan.write_tokens(clock, &folder)?;
    plan.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    writeln!(std::io::stdout().lock(), "{}", written.path.display())?;
    let clock = plan.recipe.data.clock;
    if clock != 0 {
        tracing::info!(
            "the model's template tells the date: finetune takes these tokens with --set data.clock={clock}"
        );
    }
    if written.existed {
        tracing::info!("it was there already");
    } else {
        tracing::info!(
            "{} rows, {} tokens, {}; {} malformed rows",
            written.rows,
            written.tokens,
            format::bytes(written.bytes),
            written.malformed
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// The statistics as a page.
fn page(opened: &Opened, stats: &Stats, seq_len: usize, path: &Path) -> Result<()> {
    let mut report = Report::new(format!("{}: statistics", opened.name));
    report.subtitle = format!("{} rows as tokens of {}", stats.rows, opened.model_name);
    report.date = format::utc(SystemTime::now());
    let share = |part: u64, whole: u64| format::percent(part, whole.max(1));
    report.figure("rows", format::count(stats.rows), format!("{} malformed", stats.malformed));
    report.figure(
        "tokens",
        format::si(stats.tokens.sum as f64),
        format!("{} trained", share(stats.trained.sum, stats.tokens.sum)),
    );
    report.figure(
        "duplicates",
        format::count(stats.duplicates),
        "rows repeat an earlier one".to_owned(),
    );
    let (cut, lost) = stats.truncated;
    report.figure("truncated", format::count(cut), format!("rows, {lost} tokens lost"));
    if let Some((packs, full)) = stats.packs {
        report.figure(
            "packs",
            format::count(packs),
            format!("of {seq_len} tokens, {:.2} % full", 100.0 * full),
        );
    }
    let mut charts = String::from("<div class=\"plots\">");
    for (title, histogram) in [
        ("tokens of a row", &stats.tokens),
        ("trained tokens of a row", &stats.trained),
        ("turns of a row", &stats.turns),
    ] {
        if histogram.n > 0 {
            charts += &bars(title, histogram).to_html().to_string();
        }
    }
    if !stats.labels.is_empty() {
        let bars = stats.labels.iter().map(|(label, count)| (label.clone(), *count)).collect();
        let labels = Bars { title: "labels".into(), unit: "rows".into(), bars };
        charts += &labels.to_html().to_string();
    }
    report.push(Section::new("Lengths", Html::markup(charts + "</div>")));
    let notes: Vec<(&str, String)> =
        stats.notes.iter().map(|(note, count)| (*note, format!("{count} rows"))).collect();
    if !notes.is_empty() {
        report.push(facts("What is odd", &notes));
    }
    Ok(report.write(path)?)
}

fn bars(title: &str, histogram: &Histogram) -> Bars {
    let bars = histogram.bars(BARS).into_iter();
    Bars {
        title: title.into(),
        unit: "rows".into(),
        bars: bars.map(|(start, count)| (start.to_string(), count)).collect(),
    }
}
