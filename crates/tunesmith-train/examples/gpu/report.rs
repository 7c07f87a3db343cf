//! What the run found: tables for people, one JSON object for machines.

use serde_json::{Map, Value, json};
use tch::Device;
use tunesmith_kernels::cuda;

/// Figures by part, in the order in which they came.
pub(crate) struct Report {
    tables: Vec<(String, Vec<Map<String, Value>>)>,
    about: Map<String, Value>,
    failures: Vec<(String, String)>,
}

impl Report {
    pub(crate) fn new(device: Device) -> anyhow::Result<Self> {
        let mut about = Map::new();
        about.insert("bench".into(), "gpu".into());
        about.insert("tunesmith".into(), env!("CARGO_PKG_VERSION").into());
        match device {
            Device::Cuda(index) => {
                let (name, architecture) = cuda::name(index)?;
                about.insert("device".into(), name.into());
                about.insert("architecture".into(), format!("sm_{architecture}").into());
            }
            _ => _ = about.insert("device".into(), "cpu (dry run)".into()),
        }
        Ok(Self { tables: Vec::new(), about, failures: Vec::new() })
    }

    /// Adds a row to the table of `part`; the object's keys are its columns.
    pub(crate) fn row(&mut self, part: &str, row: Value) {
        let Value::Object(row) = row else { return };
        eprintln!("          {}", line(&row));
        match self.tables.iter_mut().find(|(name, _)| name == part) {
            Some((_, rows)) => rows.push(row),
            None => self.tables.push((part.into(), vec![row])),
        }
    }

    pub(crate) fn fail(&mut self, part: &str, why: &str) {
        eprintln!("          {part} FAILED: {why}");
        self.failures.push((part.into(), why.into()));
    }

    /// A figure of an earlier part: `column` of the row of `part` that is called `name`.
    pub(crate) fn figure(&self, part: &str, name: &str, column: &str) -> Option<f64> {
        let (_, rows) = self.tables.iter().find(|(found, _)| found == part)?;
        rows.iter()
            .find(|row| row.get("what").is_some_and(|what| what == name))?
            .get(column)?
            .as_f64()
    }

    /// Prints everything; whether nothing failed.
    pub(crate) fn print(&self, seconds: f64) -> bool {
        for (part, rows) in &self.tables {
            println!("{part}");
            print!("{}", table(rows));
            println!();
        }
        for (part, why) in &self.failures {
            println!("FAILED  {part}: {why}");
        }
        let mut all = self.about.clone();
        all.insert("seconds".into(), json!(seconds.round()));
        for (part, rows) in &self.tables {
            all.insert(part.clone(), json!(rows));
        }
        let failures: Vec<Value> =
            self.failures.iter().map(|(part, why)| json!({"part": part, "why": why})).collect();
        all.insert("failures".into(), json!(failures));
        println!("{}", Value::Object(all));
        self.failures.is_empty()
    }
}

/// Rows in columns, under the keys of all.
fn table(rows: &[Map<String, Value>]) -> String {
    let mut header: Vec<String> = Vec::new();
    for key in rows.iter().flat_map(Map::keys) {
        if !header.contains(key) {
            header.push(key.clone());
        }
    }
    let cells = rows.iter().map(|row| header.iter().map(|key| cell(row.get(key))).collect());
    let lines: Vec<Vec<String>> = std::iter::once(header.clone()).chain(cells).collect();
    let width =
        |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        for (column, (cell, &width)) in line.iter().zip(&widths).enumerate() {
            text += &if column == 0 {
                format!("  {cell:<width$}")
            } else {
                format!("  {cell:>width$}")
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

fn line(row: &Map<String, Value>) -> String {
    row.iter()
        .map(|(key, value)| format!("{key} {}", cell(Some(value))))
        .collect::<Vec<_>>()
        .join("  ")
}

fn cell(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(Value::Number(n)) => match n.as_f64() {
            Some(x) if n.is_f64() && x != 0.0 && x.abs() < 1e-2 => format!("{x:.1e}"),
            Some(x) if n.is_f64() && x.abs() < 100.0 => format!("{x:.3}"),
            Some(x) => format!("{x:.0}"),
            None => n.to_string(),
        },
        Some(other) => other.to_string(),
    }
}
