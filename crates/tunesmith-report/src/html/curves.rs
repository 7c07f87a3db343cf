//! The section "Curves": the loss large, everything else that was measured in small plots below it.

use super::plot::{Plot, Unit};
use super::{Html, Section};
use crate::metrics::Record;

/// Measured, but no curve: bookkeeping, and totals of a whole run.
const NO_CURVE: [&str; 8] = [
    "epoch",
    "judged",
    "num_tokens",
    "total_flos",
    "runtime",
    "samples_per_second",
    "steps_per_second",
    "seconds",
];

/// What comes first, in this order; other names follow in the order in which they were logged.
const FIRST: [&str; 4] = ["learning_rate", "grad_norm", "tokens_per_second", "mean_token_accuracy"];

/// A plot for every name that the records carry; `eval_x` goes into the plot of `x`.
pub fn curves(records: &[Record]) -> Section {
    let mut names: Vec<&str> = Vec::new();
    for record in records {
        for (name, _) in record.iter() {
            let name = name.strip_prefix("eval_").unwrap_or(name);
            if !names.contains(&name) && !NO_CURVE.contains(&name) && !name.starts_with("train_") {
                names.push(name);
            }
        }
    }
    names.sort_by_key(|name| match *name {
        "loss" => 0,
        _ => 1 + FIRST.iter().position(|f| f == name).unwrap_or(FIRST.len()),
    });
    if names.is_empty() {
        let body = Html::markup("<p class=\"empty\">No step was logged.</p>\n");
        return Section::new("Curves", body);
    }
    let plots: Vec<Plot> = names.iter().map(|name| plot(name, records)).collect();
    let (large, small): (Vec<&Plot>, Vec<&Plot>) = plots.iter().partition(|p| p.large);
    let html = |plots: &[&Plot]| plots.iter().map(|p| p.to_html().to_string()).collect::<String>();
    let body = format!("{}<div class=\"plots\">\n{}</div>\n", html(&large), html(&small));
    Section::new("Curves", Html::markup(body))
}

fn plot(name: &str, records: &[Record]) -> Plot {
    let points = |name: &str| -> Vec<(f64, f64)> {
        records.iter().filter_map(|r| Some((r.step as f64, r.get(name)?))).collect()
    };
    let unit = match name {
        "learning_rate" => Unit::Rate,
        _ if name.ends_with("_per_second") => Unit::Si,
        _ => Unit::Plain,
    };
    Plot {
        title: title(name),
        unit,
        from_zero: unit != Unit::Plain,
        smoothed: unit != Unit::Rate,
        large: name == "loss",
        train: points(name),
        eval: points(&format!("eval_{name}")),
    }
}

fn title(name: &str) -> String {
    match name {
        "grad_norm" => "gradient norm".to_owned(),
        "mean_token_accuracy" => "token accuracy".to_owned(),
        _ => name.replace('_', " "),
    }
}
