//! TensorBoard event files: scalars that `tensorboard --logdir runs` shows beside those of other trainers.
//!
//! A file is a row of records, each framed as in a TFRecord file:
//! ```text
//! u64 length · u32 masked crc32c of the length · data · u32 masked crc32c of the data      (little-endian)
//! ```
//! and each record is one `Event` protocol buffer. The few fields needed are encoded here by hand, in the order of
//! their numbers, which gives the same bytes as TensorBoard's own writer (`tests/golden/tensorboard.py` made the
//! reference). Tags follow transformers' callback: `eval_loss` is `eval/loss`, everything else `train/…`.

mod wire;

use std::fs::{File, OpenOptions, create_dir_all, read_dir};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::metrics::Record;
use wire::Event;

/// What can go wrong with an event file.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}: {source}", path.display())]
pub struct EventError {
    /// What was tried: `create`, `write` …
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// An open event file.
#[derive(Debug)]
pub struct EventWriter {
    path: PathBuf,
    file: File,
}

impl EventWriter {
    /// Starts an event file in `dir`, which is made where it does not exist.
    ///
    /// # Errors
    /// Where the folder or the file cannot be created.
    pub fn create(dir: &Path) -> Result<Self, EventError> {
        create_dir_all(dir).map_err(at("create", dir))?;
        // TensorBoard reads a folder's files in the order of their names: a run resumed within the same second must
        // still come second.
        let newest = read_dir(dir)
            .map_err(at("list", dir))?
            .filter_map(|entry| seconds_of(entry.ok()?.file_name().to_str()?))
            .max();
        let seconds = (now() as u64).max(newest.map_or(0, |s| s + 1));
        let host = crate::system::Machine::read().hostname;
        let path = dir.join(file_name(seconds, &host, std::process::id(), 0));
        let file = OpenOptions::new()
            .append(true)
            .create_new(true)
            .open(&path)
            .map_err(at("create", &path))?;
        let mut writer = Self { path, file };
        writer.put(&Event::version(now()))?;
        Ok(writer)
    }

    /// Starts a further event file for a run that goes on after `step`: TensorBoard then forgets what earlier files
    /// of the folder say of later steps.
    ///
    /// # Errors
    /// Where the folder or the file cannot be created.
    pub fn resume(dir: &Path, step: u64) -> Result<Self, EventError> {
        let mut writer = Self::create(dir)?;
        writer.put(&Event::session_start(now(), step + 1))?;
        Ok(writer)
    }

    /// Adds a record: each of its values is one scalar at its step.
    ///
    /// # Errors
    /// Where the disk is full or gone.
    pub fn write(&mut self, record: &Record) -> Result<(), EventError> {
        let mut event = Event::new(now(), record.step);
        for (name, value) in record.iter() {
            event.scalar(&tag(name), value.as_f64() as f32);
        }
        self.put(&event)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn put(&mut self, event: &Event) -> Result<(), EventError> {
        self.file.write_all(&wire::frame(&event.encode())).map_err(at("write", &self.path))
    }
}

/// `eval_loss` → `eval/loss`, `test_loss` → `test/loss`, `loss` → `train/loss`.
fn tag(name: &str) -> String {
    for split in ["eval", "test"] {
        if let Some(rest) = name.strip_prefix(split).and_then(|r| r.strip_prefix('_')) {
            return format!("{split}/{rest}");
        }
    }
    format!("train/{name}")
}

fn file_name(seconds: u64, host: &str, pid: u32, uid: u32) -> String {
    format!("events.out.tfevents.{seconds:010}.{host}.{pid}.{uid}")
}

fn seconds_of(name: &str) -> Option<u64> {
    name.strip_prefix("events.out.tfevents.")?.split('.').next()?.parse().ok()
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}

fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EventError {
    let path = path.to_owned();
    move |source| EventError { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags() {
        for (name, want) in [
            ("loss", "train/loss"),
            ("eval_loss", "eval/loss"),
            ("eval_rewards/margins", "eval/rewards/margins"),
            ("test_loss", "test/loss"),
            ("evaluation", "train/evaluation"),
            ("rewards/chosen", "train/rewards/chosen"),
        ] {
            assert_eq!(tag(name), want);
        }
    }

    #[test]
    fn names_sort_in_the_order_of_writing() {
        assert_eq!(file_name(42, "box", 7, 0), "events.out.tfevents.0000000042.box.7.0");
        let dir = tempfile::tempdir().unwrap();
        let a = EventWriter::create(dir.path()).unwrap();
        let b = EventWriter::resume(dir.path(), 5).unwrap();
        assert!(a.path() < b.path());
    }

    #[test]
    fn the_bytes_are_tensorboards_own() {
        let golden = include_bytes!("../tests/golden/events.bin");
        let mut ours = Vec::new();
        let mut put = |event: &Event| ours.extend(wire::frame(&event.encode()));
        put(&Event::version(1.5));
        put(&Event::session_start(2.25, 301));
        let mut event = Event::new(1_700_000_000.125, 0);
        event.scalar("train/loss", 0.0);
        put(&event);
        for (step, loss) in
            [(1, 5.540_172_6), (127, f32::NAN), (128, f32::INFINITY), (70_000, -1e-30)]
        {
            let mut event = Event::new(1_700_000_000.0 + step as f64, step);
            event.scalar("train/loss", loss);
            event.scalar("train/learning_rate", 9.8e-5);
            event.scalar(&format!("eval/{}", "ü".repeat(100)), 1.0);
            put(&event);
        }
        assert_eq!(ours, golden);
    }
}
