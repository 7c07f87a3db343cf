//! From the text of a data set's TOML file to its configuration: unknown keys and values come with the nearest known one.

use super::{DatasetConfig, Patterns};
use crate::{DataError, Format, Shape, TextRows, suggest};
use std::collections::BTreeSet;

const KEYS: &[&str] = &[
    "shape",
    "split",
    "eval_split",
    "template",
    "sample",
    "eval_sample",
    "sample_prompts",
    "hub",
    "splits",
    "columns",
    "roles",
    "format",
    "delimiter",
    "text_rows",
    "mix",
    "keys",
    "labels",
    "clean",
];
const HUB_KEYS: &[&str] = &["repo", "revision", "subset"];
const CLEAN_KEYS: &[&str] = &[
    "duplicates",
    "near_duplicates",
    "min_chars",
    "max_chars",
    "min_letters",
    "max_repetition",
    "drop_secrets",
    "against",
];
const MIX_KEYS: &[&str] = &["dataset", "split", "weight"];
/// The templates that tunesmith brings itself.
const TEMPLATES: &[&str] = &["chat", "alpaca"];

impl DatasetConfig {
    /// Parses the text of a TOML file; `place` names it in messages.
    ///
    /// # Errors
    /// No TOML, an unknown key or an unknown value.
    pub fn parse(text: &str, place: &str) -> Result<Self, DataError> {
        let broken = |error: toml::de::Error| {
            let problem = error.to_string().trim_end().to_owned();
            DataError::Config { place: place.into(), problem, help: None }
        };
        let table: toml::Table = toml::from_str(text).map_err(broken)?;
        check_keys(&table, KEYS, place, "")?;
        if let Some(hub) = table.get("hub").and_then(toml::Value::as_table) {
            check_keys(hub, HUB_KEYS, place, "hub.")?;
        }
        if let Some(clean) = table.get("clean").and_then(toml::Value::as_table) {
            check_keys(clean, CLEAN_KEYS, place, "clean.")?;
        }
        let mix = table.get("mix").and_then(toml::Value::as_array).into_iter().flatten();
        for entry in mix.filter_map(toml::Value::as_table) {
            check_keys(entry, MIX_KEYS, place, "mix.")?;
        }
        for (key, known) in [("format", &Format::NAMES[..]), ("text_rows", &TextRows::NAMES[..])] {
            if let Some(value) = table.get(key).and_then(toml::Value::as_str) {
                one_of(value, known, key, place)?;
            }
        }
        if let Some(shape) = table.get("shape").and_then(toml::Value::as_str) {
            one_of(shape, &Shape::ALL.map(Shape::name), "shape", place)?;
        }
        if let Some(template) = table.get("template").and_then(toml::Value::as_str) {
            one_of(template, TEMPLATES, "template", place)?;
        }
        let mut config: Self = toml::from_str(text).map_err(broken)?;
        config.has_own_splits = !config.splits.is_empty();
        config.lay_out();
        config.check(place)?;
        Ok(config)
    }

    /// Fills in the subset, and the splits of a repository that are not written down.
    pub(super) fn lay_out(&mut self) {
        let Some(hub) = &self.hub else { return };
        if self.splits.is_empty() {
            let folder = hub.subset.as_deref().unwrap_or("data");
            let named = [&self.split, &self.eval_split].into_iter().flatten().cloned();
            let names: BTreeSet<_> = named.collect();
            let names = if names.is_empty() { BTreeSet::from(["train".to_owned()]) } else { names };
            let pattern = |name: String| {
                let pattern = format!("{folder}/{name}-*.parquet");
                (name, Patterns::One(pattern))
            };
            self.splits = names.into_iter().map(pattern).collect();
        }
        if let Some(subset) = &hub.subset {
            for patterns in self.splits.values_mut() {
                let fill = |pattern: &String| pattern.replace("{subset}", subset);
                *patterns = Patterns::Many(patterns.as_slice().iter().map(fill).collect());
            }
        }
    }

    /// What keys alone cannot tell: names that must agree with each other.
    fn check(&self, place: &str) -> Result<(), DataError> {
        let wrong = |problem: &str, help: &str| DataError::Config {
            place: place.into(),
            problem: problem.into(),
            help: Some(help.into()),
        };
        if !self.mix.is_empty() && (self.hub.is_some() || !self.splits.is_empty()) {
            return Err(wrong(
                "expected either [[mix]] or [hub] and [splits], found both",
                "give the files a TOML of their own, and name it in [[mix]]",
            ));
        }
        if let Some(entry) = self.mix.iter().find(|e| !(e.weight >= 0.0 && e.weight.is_finite())) {
            let problem =
                format!("mix.weight: expected a number of at least 0, found {}", entry.weight);
            return Err(wrong(&problem, "1 takes each row once per epoch, 0.5 every other row"));
        }
        let splits: Vec<_> = self.splits.keys().map(String::as_str).collect();
        for (key, split) in [("split", &self.split), ("eval_split", &self.eval_split)] {
            if let Some(split) = split {
                one_of(split, &splits, key, place)?;
            }
        }
        let shapes = self.shape.map_or(Shape::ALL.to_vec(), |shape| vec![shape]);
        let columns: BTreeSet<_> = shapes.into_iter().flat_map(Shape::columns).collect();
        let columns: Vec<_> = columns.into_iter().collect();
        for column in self.columns.keys() {
            one_of(column, &columns, "columns", place)?;
        }
        for key in self.keys.keys() {
            one_of(key, &["role", "content"], "keys", place)?;
        }
        Ok(())
    }
}

fn check_keys(
    table: &toml::Table,
    known: &[&str],
    place: &str,
    prefix: &str,
) -> Result<(), DataError> {
    let Some(key) = table.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let help = match suggest::nearest(key, known.iter().copied()) {
        Some(near) => format!("did you mean `{prefix}{near}`?"),
        None => format!("known keys are {}", suggest::list(known)),
    };
    let problem = format!("unknown key `{prefix}{key}`");
    Err(DataError::Config { place: place.into(), problem, help: Some(help) })
}

fn one_of(value: &str, known: &[&str], key: &str, place: &str) -> Result<(), DataError> {
    if known.contains(&value) { Ok(()) } else { Err(unknown(value, known, key, place)) }
}

pub(crate) fn unknown(value: &str, known: &[&str], key: &str, place: &str) -> DataError {
    let help = suggest::nearest(value, known.iter().copied())
        .map(|near| format!("did you mean `{near}`?"));
    let problem = format!("{key}: expected one of {}, found `{value}`", suggest::list(known));
    DataError::Config { place: place.into(), problem, help }
}
