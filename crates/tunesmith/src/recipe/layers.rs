//! Layers of a recipe (defaults, recipe file, flags), each value with where it came from.

use super::Recipe;
use crate::exit::ConfigError;
use std::{collections::BTreeMap, fmt, path::Path};
use toml::{Table, Value};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Origin {
    Default,
    /// A recipe file.
    Recipe(String),
    /// A flag, as typed.
    Flag(String),
    /// tunesmith's own choice, with its reason.
    Chosen(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => write!(f, "default"),
            Self::Recipe(path) => write!(f, "recipe {path}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
            Self::Chosen(why) => write!(f, "{why}"),
        }
    }
}

/// A recipe on its way: values, and the origin of each.
pub(crate) struct Layers {
    /// The defaults: what is a table there is a section, and any other value is one, whatever is put there.
    sections: Table,
    values: Table,
    origins: BTreeMap<String, Origin>,
}

impl Layers {
    /// The defaults.
    pub(crate) fn new() -> Result<Self, ConfigError> {
        let values = Table::try_from(Recipe::default())
            .map_err(|e| ConfigError::new("defaults", e.to_string(), ""))?;
        Ok(Self { sections: values.clone(), values, origins: BTreeMap::new() })
    }

    /// Lays a recipe file over what is there.
    pub(crate) fn file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|e| ConfigError::new(&place, e.to_string(), ""))?;
        let table: Table = toml::from_str(&text).map_err(|e| {
            ConfigError::new(&place, e.to_string().trim_end().to_owned(), "recipes are TOML files")
        })?;
        let mut leaves = Vec::new();
        flatten("", &table, Some(&self.sections), &mut leaves);
        leaves
            .into_iter()
            .try_for_each(|(key, value)| self.put(&key, value, Origin::Recipe(place.clone())))
    }

    /// Sets one value given as text, such as `1e-4`, `true` or `best-fit`.
    pub(crate) fn set(&mut self, key: &str, text: &str, origin: Origin) -> Result<(), ConfigError> {
        // What parses as a TOML value is one; anything else is a string without its quotes.
        let value = toml::from_str::<Table>(&format!("v = {text}"))
            .ok()
            .and_then(|mut table| table.remove("v"));
        self.put(key, value.unwrap_or_else(|| Value::String(text.to_owned())), origin)
    }

    /// Sets one string, whatever is in it.
    pub(crate) fn put_text(
        &mut self,
        key: &str,
        text: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        self.put(key, Value::String(text.to_owned()), origin)
    }

    /// `KEY=VALUE`, as `--set` takes it.
    pub(crate) fn assignment(&mut self, assignment: &str) -> Result<(), ConfigError> {
        let origin = Origin::Flag(format!("--set {assignment}"));
        let Some((key, value)) = assignment.split_once('=') else {
            return Err(ConfigError::new(
                "--set",
                format!("expected KEY=VALUE, found `{assignment}`"),
                "such as --set schedule.lr=1e-4",
            ));
        };
        self.set(key.trim(), value.trim(), origin)
    }

    fn put(&mut self, key: &str, value: Value, origin: Origin) -> Result<(), ConfigError> {
        let Some(slot) = find(&mut self.values, &self.sections, key) else {
            let mut known = Vec::new();
            flatten("", &self.values, Some(&self.sections), &mut known);
            let near = known
                .iter()
                .map(|(k, _)| k.as_str())
                .max_by(|a, b| similarity(key, a).total_cmp(&similarity(key, b)));
            let help = near.filter(|near| similarity(key, near) > 0.7).map_or_else(
                || "the keys are those of a run's recipe.toml".to_owned(),
                |near| format!("did you mean `{near}`?"),
            );
            return Err(ConfigError::new(origin.to_string(), format!("unknown key `{key}`"), help));
        };
        let value = match (&*slot, value) {
            // 1 is a fine learning rate's exponent and a fine number of epochs; TOML tells 1 from 1.0, people do not.
            (Value::Float(_), Value::Integer(n)) => Value::Float(n as f64),
            (Value::Integer(_), Value::Float(x)) if x.fract() == 0.0 && x.abs() < 9e15 => {
                Value::Integer(x as i64)
            }
            (Value::Integer(_), Value::String(text)) => {
                steps(&text).map_or(Value::String(text), Value::Integer)
            }
            (_, value) => value,
        };
        let before = std::mem::replace(slot, value.clone());
        if let Err(error) = self.values.clone().try_into::<Recipe>() {
            let reason = error.message().lines().next().unwrap_or_default().to_owned();
            let expected = match before {
                Value::Float(_) => "a number",
                Value::Integer(_) => "a whole number of at least 0",
                Value::Boolean(_) => "true or false",
                Value::Array(_) if self.takes(key, Value::String("a = 1".into())) => {
                    "a list of strings"
                }
                Value::Array(_) => "a list of whole numbers",
                // serde's `unknown variant …, expected …`
                _ => reason.split_once("expected ").map_or(reason.as_str(), |(_, names)| names),
            };
            let problem = format!("`{key}`: expected {expected}, found {value}");
            return Err(ConfigError::new(origin.to_string(), problem, ""));
        }
        self.origins.insert(key.to_owned(), origin);
        Ok(())
    }

    /// Whether `key` could be a list of such values.
    fn takes(&self, key: &str, element: Value) -> bool {
        let mut values = self.values.clone();
        if let Some(slot) = find(&mut values, &self.sections, key) {
            *slot = Value::Array(vec![element]);
        }
        values.try_into::<Recipe>().is_ok()
    }

    /// Where the value of `key` came from.
    pub(crate) fn origin(&self, key: &str) -> Origin {
        self.origins.get(key).cloned().unwrap_or(Origin::Default)
    }

    /// The recipe, if every value is within its range.
    pub(crate) fn resolve(&self) -> Result<Recipe, ConfigError> {
        let recipe: Recipe = self
            .values
            .clone()
            .try_into()
            .map_err(|e: toml::de::Error| ConfigError::new("recipe", e.to_string(), ""))?;
        let problems = recipe.problems();
        if problems.is_empty() {
            return Ok(recipe);
        }
        let line = |(key, expected, found): &(&str, &str, String)| {
            format!("`{key}`: expected {expected}, found {found} ({})", self.origin(key))
        };
        let lines: Vec<String> = problems.iter().map(line).collect();
        Err(ConfigError::new("recipe", lines.join("\n  "), ""))
    }

    /// All values in order, with their origins.
    pub(crate) fn leaves(&self) -> Vec<(String, Value, Origin)> {
        let mut leaves = Vec::new();
        flatten("", &self.values, Some(&self.sections), &mut leaves);
        leaves.into_iter().map(|(key, value)| (key.clone(), value, self.origin(&key))).collect()
    }
}

/// `"500 steps"` is 500.
fn steps(text: &str) -> Option<i64> {
    text.strip_suffix("steps").or(text.strip_suffix("step")).unwrap_or(text).trim().parse().ok()
}

fn similarity(a: &str, b: &str) -> f64 {
    let last = |key: &str| key.rsplit('.').next().unwrap_or_default().to_owned();
    strsim::jaro_winkler(a, b).max(strsim::jaro_winkler(&last(a), &last(b)))
}

fn find<'a>(table: &'a mut Table, sections: &Table, key: &str) -> Option<&'a mut Value> {
    match key.split_once('.') {
        Some((head, rest)) => {
            find(table.get_mut(head)?.as_table_mut()?, sections.get(head)?.as_table()?, rest)
        }
        None => table.get_mut(key).filter(|_| !sections.get(key).is_some_and(Value::is_table)),
    }
}

fn flatten(
    prefix: &str,
    table: &Table,
    sections: Option<&Table>,
    leaves: &mut Vec<(String, Value)>,
) {
    for (name, value) in table {
        let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        let section = sections.and_then(|sections| sections.get(name));
        match value {
            Value::Table(inner) if section.is_none_or(Value::is_table) => {
                flatten(&key, inner, section.and_then(Value::as_table), leaves);
            }
            leaf => leaves.push((key, leaf.clone())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(changes: &[&str]) -> Result<Recipe, String> {
        let mut layers = Layers::new().unwrap();
        changes
            .iter()
            .try_for_each(|change| layers.assignment(change))
            .map_err(|e| e.to_string())?;
        layers.resolve().map_err(|e| e.to_string())
    }

    #[test]
    fn values_are_read_as_people_write_them() {
        let recipe = layers(&[
            "schedule.lr=1e-4",
            "train.epochs=2",
            "data.packing=none",
            "train.save_every=7 steps",
            "seed=3",
        ]);
        let recipe = recipe.unwrap();
        assert_eq!(
            (recipe.schedule.lr, recipe.train.epochs, recipe.train.save_every, recipe.seed),
            (1e-4, 2, 7, 3)
        );
        assert_eq!(recipe.data.packing, tunesmith_data::Packing::None);
    }

    #[test]
    fn wrong_values_are_named() {
        let check = |change: &str, expected: &[&str]| {
            let error = layers(&[change]).unwrap_err();
            for part in expected {
                assert!(error.contains(part), "{change}: {error:?} lacks {part:?}");
            }
        };
        check("schedule.learning_rate=1", &["unknown key `schedule.learning_rate`"]);
        check("scheduel.lr=1", &["unknown key `scheduel.lr`", "did you mean `schedule.lr`?"]);
        check(
            "schedule.lr=-1",
            &[
                "`schedule.lr`: expected a number above 0 and below 1, found -1",
                "--set schedule.lr=-1",
            ],
        );
        check("schedule.lr=fast", &["expected a number, found \"fast\""]);
        check("data.packing=tight", &["`data.packing`", "best-fit"]);
        check("train.epochs=-1", &["expected a whole number of at least 0"]);
        check("data.seq_len", &["expected KEY=VALUE"]);
    }
}
