//! `metrics.jsonl`: one JSON object per record, in the names that TRL logs (`loss`, `grad_norm`, `learning_rate`,
//! `num_tokens`, `mean_token_accuracy`, `eval_loss` …), so that existing notebooks read it.
//!
//! # Why this shape
//! - **Bytes are a function of the numbers.** A float is written as the shortest decimal that reads back as the same
//!   f64, keys come in the order in which they were set: two equal runs give equal files, and `cmp` is the test.
//! - **Strict JSON.** NaN and infinities are no JSON. Such a value is written as `null`, and the object ends with
//!   `"non_finite": {"loss": "NaN"}`, from which reading restores it. Nothing is lost, and every JSON reader copes.
//! - **A line is written by one call, or it is not there.** A killed process leaves at most one torn line at the end,
//!   which [`MetricsLog::resume`] removes together with every record after the resumed step.
//! - **Evaluate before saving.** A record written after the checkpoint of its own step is not repeated by a resumed
//!   run, so a loop evaluates at step n, calls [`MetricsLog::sync`], and then saves step n.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One number of a record. Counts stay integers in the file.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Number {
    /// A count: `num_tokens`.
    Int(u64),
    /// Everything else. May be NaN or infinite.
    Float(f64),
}

impl Number {
    /// Its value; exact up to 2⁵³.
    pub fn as_f64(self) -> f64 {
        match self {
            Number::Int(n) => n as f64,
            Number::Float(x) => x,
        }
    }
}

impl From<u64> for Number {
    fn from(n: u64) -> Self {
        Number::Int(n)
    }
}

impl From<f64> for Number {
    fn from(x: f64) -> Self {
        Number::Float(x)
    }
}

/// What was measured at one step: names and numbers, in the order in which they were set.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Record {
    /// The optimizer step, counted from 1; 0 is "before training".
    pub step: u64,
    values: Vec<(String, Number)>,
}

/// The key that restores numbers JSON cannot hold.
const NON_FINITE: &str = "non_finite";

impl Record {
    /// A record of `step` without values.
    pub fn new(step: u64) -> Self {
        Self { step, values: Vec::new() }
    }

    /// The record with one more value: `Record::new(3).with("loss", 1.25).with("num_tokens", 6144)`.
    pub fn with(mut self, name: &str, value: impl Into<Number>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a value; a name set twice keeps its place and takes the new value.
    ///
    /// # Panics
    /// If `name` is `step` or `non_finite`, which the format keeps for itself.
    pub fn set(&mut self, name: &str, value: impl Into<Number>) {
        assert!(name != "step" && name != NON_FINITE, "a metric cannot be called {name:?}");
        let value = value.into();
        match self.values.iter_mut().find(|(n, _)| n == name) {
            Some((_, old)) => *old = value,
            None => self.values.push((name.to_owned(), value)),
        }
    }

    /// The value of `name`, where it was set.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.iter().find(|&(n, _)| n == name).map(|(_, v)| v.as_f64())
    }

    /// Names and values in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Number)> {
        self.values.iter().map(|(n, v)| (n.as_str(), *v))
    }

    /// The record as one line of strict JSON, without the line feed.
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        let mut odd = Map::new();
        object.insert("step".into(), self.step.into());
        for (name, value) in self.iter() {
            let json = match value {
                Number::Int(n) => n.into(),
                Number::Float(x) => Value::from(x), // null where x is not finite
            };
            if let (Number::Float(x), Value::Null) = (value, &json) {
                odd.insert(name.into(), spell(x).into());
            }
            object.insert(name.into(), json);
        }
        if !odd.is_empty() {
            object.insert(NON_FINITE.into(), odd.into());
        }
        Value::from(object).to_string()
    }

    /// Reads what [`Record::to_json`] wrote. A `null` that `non_finite` does not explain is NaN.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn from_json(line: &str) -> Result<Self, String> {
        let mut object: Map<String, Value> =
            serde_json::from_str(line).map_err(|e| e.to_string())?;
        let step = object.shift_remove("step").as_ref().and_then(Value::as_u64);
        let mut record = Record::new(step.ok_or("expected an integer `step`")?);
        let odd = object.shift_remove(NON_FINITE).unwrap_or_default();
        for (name, value) in &object {
            let number = match value {
                Value::Null => Some(Number::Float(unspell(odd.get(name)))),
                _ => value.as_u64().map(Number::Int).or(value.as_f64().map(Number::Float)),
            };
            record.set(name, number.ok_or_else(|| format!("expected a number for {name:?}"))?);
        }
        Ok(record)
    }
}

fn spell(x: f64) -> &'static str {
    if x.is_nan() {
        "NaN"
    } else if x > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    }
}

fn unspell(tag: Option<&Value>) -> f64 {
    match tag.and_then(Value::as_str) {
        Some("Infinity") => f64::INFINITY,
        Some("-Infinity") => f64::NEG_INFINITY,
        _ => f64::NAN,
    }
}

/// What can go wrong with a metrics file.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file cannot be opened, read or written.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried: `create`, `read`, `write` …
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A line before the last one is no record.
    #[error("{}:{line}: expected one metrics record per line, found {found}\nhelp: move the file away to go on without its history", path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        found: String,
    },
}

/// The open `metrics.jsonl` of a run.
#[derive(Debug)]
pub struct MetricsLog {
    path: PathBuf,
    file: File,
    n_records: u64,
}

impl MetricsLog {
    /// Starts a new log.
    ///
    /// # Errors
    /// Where the file exists already (measurements are never overwritten) or cannot be created.
    pub fn create(path: &Path) -> Result<Self, MetricsError> {
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(path)
            .map_err(at("create", path))?;
        Ok(Self { path: path.to_owned(), file, n_records: 0 })
    }

    /// Opens the log of a run that goes on after `step`: what it holds of later steps, and a torn last line, are cut
    /// off; the lines before keep their bytes. The cut is a rename, so that a crash leaves the old file or the new.
    /// Where there is no file yet, it starts one.
    ///
    /// # Errors
    /// Where the file cannot be read or replaced, or is broken elsewhere than at its end.
    pub fn resume(path: &Path, step: u64) -> Result<Self, MetricsError> {
        Self::reopen(path, &|_, record| record.step <= step)
    }

    /// The same for a run that knows how many records it had written: exact even where a step has several.
    ///
    /// # Errors
    /// As [`resume`](Self::resume).
    pub fn resume_at(path: &Path, n_records: u64) -> Result<Self, MetricsError> {
        Self::reopen(path, &|index, _| index < n_records)
    }

    fn reopen(path: &Path, keep: &dyn Fn(u64, &Record) -> bool) -> Result<Self, MetricsError> {
        let text = match std::fs::read(path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Self::create(path),
            Err(e) => return Err(at("read", path)(e)),
        };
        let lines = (0..).zip(records(path, &text)?);
        let kept: Vec<&str> = lines
            .filter(|(index, (_, record))| keep(*index, record))
            .map(|(_, (line, _))| line)
            .collect();
        let n_records = kept.len() as u64;
        let kept: String = kept.into_iter().flat_map(|line| [line, "\n"]).collect();
        if kept != text {
            replace(path, kept.as_bytes()).map_err(at("cut", path))?;
        }
        let file = OpenOptions::new().append(true).open(path).map_err(at("open", path))?;
        Ok(Self { path: path.to_owned(), file, n_records })
    }

    /// Records in the file.
    pub fn n_records(&self) -> u64 {
        self.n_records
    }

    /// Adds a record; it is in the file when this returns, though perhaps not yet on the disk.
    ///
    /// # Errors
    /// Where the disk is full or gone.
    pub fn write(&mut self, record: &Record) -> Result<(), MetricsError> {
        let line = record.to_json() + "\n";
        self.file.write_all(line.as_bytes()).map_err(at("write", &self.path))?;
        self.n_records += 1;
        Ok(())
    }

    /// Waits until everything written is on the disk: before a checkpoint is committed.
    ///
    /// # Errors
    /// Where the disk is full or gone.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.file.sync_data().map_err(at("sync", &self.path))
    }

    /// Reads a log whole. A torn last line is left out.
    ///
    /// # Errors
    /// Where the file cannot be read, or is broken elsewhere than at its end.
    pub fn read(path: &Path) -> Result<Vec<Record>, MetricsError> {
        let bytes = std::fs::read(path).map_err(at("read", path))?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(records(path, &text)?.into_iter().map(|(_, record)| record).collect())
    }
}

/// The whole lines of `text` with their records. What cannot be read is forgiven at the end only: that is where a
/// crash tears.
fn records<'a>(path: &Path, text: &'a str) -> Result<Vec<(&'a str, Record)>, MetricsError> {
    let mut good = Vec::new();
    let mut bad: Option<(usize, String)> = None;
    for (i, line) in text.split_inclusive('\n').enumerate() {
        let parsed = match line.strip_suffix('\n') {
            Some(whole) => Record::from_json(whole).map(|record| (whole, record)),
            None => Err("a line without its end".to_owned()),
        };
        match (parsed, &bad) {
            (Ok(pair), None) => good.push(pair),
            (Ok(_), Some((line, found))) => {
                let (line, found) = (*line, found.clone());
                return Err(MetricsError::Broken { path: path.to_owned(), line, found });
            }
            (Err(found), None) => bad = Some((i + 1, found)),
            (Err(_), Some(_)) => {}
        }
    }
    Ok(good)
}

/// Puts `bytes` in the place of the file at `path`: written beside it, synced, renamed over it.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".partial");
    let beside = path.with_file_name(name);
    let mut file = File::create(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    drop(file);
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => File::open(dir)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MetricsError {
    let path = path.to_owned();
    move |source| MetricsError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u64) -> Record {
        Record::new(step).with("loss", 1.0 / step as f64).with("num_tokens", step * 2048)
    }

    #[test]
    fn bytes_of_a_record() {
        let r = Record::new(3)
            .with("loss", 0.1 + 0.2)
            .with("learning_rate", 9.8e-5)
            .with("grad_norm", 2.0)
            .with("num_tokens", 6144);
        assert_eq!(
            r.to_json(),
            r#"{"step":3,"loss":0.30000000000000004,"learning_rate":0.000098,"grad_norm":2.0,"num_tokens":6144}"#
        );
    }

    #[test]
    fn every_float_survives() {
        let odd = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, f64::MIN_POSITIVE, f64::MAX];
        let mut bits = 0x3ff0_0000_0000_0001u64;
        let random = std::iter::repeat_with(|| {
            bits = bits.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            f64::from_bits(bits)
        });
        for x in odd.into_iter().chain(random.take(2000)) {
            let line = Record::new(1).with("x", x).with("n", 7).to_json();
            let back = Record::from_json(&line).unwrap();
            let y = back.get("x").unwrap();
            assert!(x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan(), "{x} {y} {line}");
            assert_eq!(back.get("n"), Some(7.0));
        }
    }

    #[test]
    fn non_finite_is_strict_json() {
        let line = Record::new(8).with("loss", f64::NAN).with("grad_norm", f64::INFINITY).to_json();
        assert_eq!(
            line,
            r#"{"step":8,"loss":null,"grad_norm":null,"non_finite":{"loss":"NaN","grad_norm":"Infinity"}}"#
        );
    }

    #[test]
    fn a_resumed_log_equals_an_uninterrupted_one() {
        let dir = tempfile::tempdir().unwrap();
        let (whole, cut) = (dir.path().join("whole.jsonl"), dir.path().join("cut.jsonl"));
        let mut log = MetricsLog::create(&whole).unwrap();
        (1..=9).for_each(|s| log.write(&record(s)).unwrap());

        let mut log = MetricsLog::create(&cut).unwrap();
        (1..=7).for_each(|s| log.write(&record(s)).unwrap());
        log.file.write_all(br#"{"step":8,"lo"#).unwrap(); // killed inside a write
        drop(log);
        assert_eq!(MetricsLog::read(&cut).unwrap().len(), 7);
        let mut log = MetricsLog::resume(&cut, 5).unwrap();
        assert_eq!(MetricsLog::read(&cut).unwrap().len(), 5);
        log.write(&record(6)).unwrap();
        log.write(&record(6)).unwrap();
        let mut log = MetricsLog::resume_at(&cut, 6).unwrap();
        (7..=9).for_each(|s| log.write(&record(s)).unwrap());
        assert_eq!(log.n_records(), 9);
        log.sync().unwrap();
        assert_eq!(std::fs::read(&whole).unwrap(), std::fs::read(&cut).unwrap());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2, "nothing left beside");
    }

    #[test]
    fn nothing_is_overwritten_and_nothing_broken_is_accepted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics.jsonl");
        MetricsLog::resume(&path, 0).unwrap().write(&record(1)).unwrap();
        assert!(matches!(
            MetricsLog::create(&path),
            Err(MetricsError::Io { source, .. }) if source.kind() == io::ErrorKind::AlreadyExists
        ));
        for (text, line) in [
            ("{\"step\":1}\nnonsense\n{\"step\":2}\n", 2),
            ("{\"loss\":1.0}\n{\"step\":2}\n", 1),
            ("{\"step\":1,\"loss\":\"low\"}\n{\"step\":2}\n", 1),
        ] {
            std::fs::write(&path, text).unwrap();
            let before = std::fs::read(&path).unwrap();
            match MetricsLog::resume(&path, 9) {
                Err(MetricsError::Broken { line: found, .. }) => assert_eq!(found, line, "{text}"),
                other => panic!("{text}: {other:?}"),
            }
            assert_eq!(std::fs::read(&path).unwrap(), before);
        }
    }

    #[test]
    #[should_panic(expected = "cannot be called \"step\"")]
    fn step_is_no_metric() {
        Record::new(1).set("step", 2);
    }
}
