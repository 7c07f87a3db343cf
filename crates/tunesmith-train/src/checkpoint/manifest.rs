//! The manifest: what a checkpoint consists of, written after everything else, and sealed with a hash of itself.

use super::disk::Disk;
use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
};

/// Counts up when a tunesmith of before can no longer read a checkpoint.
const FORMAT: u32 = 2;
/// The formats that are read.
const READS: std::ops::RangeInclusive<u32> = UNSEALED..=FORMAT;
/// The first format had no seal; every later one has it, under the same name.
const UNSEALED: u32 = 1;
const NAME: &str = "MANIFEST.json";
/// What every checkpoint consists of.
pub(super) const FILES: [&str; 3] = ["model.safetensors", "optimizer.safetensors", "state.json"];

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    version: String,
    files: BTreeMap<String, Entry>,
    /// BLAKE3 of this file with zeros in the place of this value.
    #[serde(default)]
    seal: String,
}

/// What the manifests of all formats share.
#[derive(Deserialize)]
struct Head {
    format: u32,
    #[serde(default)]
    version: String,
    #[serde(default)]
    seal: String,
}

/// A file's size and hash.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Manifest {
    pub(super) fn new() -> Self {
        let (version, seal) = (env!("CARGO_PKG_VERSION").into(), blank());
        Self { format: FORMAT, version, files: BTreeMap::new(), seal }
    }

    /// Writes a file into `dir` by `write`, and lists it.
    pub(super) fn add(
        &mut self,
        disk: &Disk,
        dir: &Path,
        name: &str,
        n_bytes: u64,
        write: impl FnOnce(&mut dyn Write) -> Result<(), TrainError>,
    ) -> Result<(), TrainError> {
        let mut file = disk.create(&dir.join(name), n_bytes)?;
        write(&mut file)?;
        let (bytes, hash) = file.finish()?;
        let entry = Entry { bytes, blake3: hash.to_hex().to_string() };
        self.files.insert(name.to_owned(), entry);
        Ok(())
    }

    /// Writes itself.
    pub(super) fn write(self, disk: &Disk, dir: &Path) -> Result<(), TrainError> {
        let path = dir.join(NAME);
        let text = sealed(to_json(&self, &path)?);
        let mut file = disk.create(&path, text.len() as u64)?;
        file.write_all(text.as_bytes()).map_err(TrainError::io(&path))?;
        file.finish().map(|_| ())
    }

    pub(super) fn read(disk: &Disk, dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(NAME);
        let bytes = disk.read(&path)?;
        let bad = |reason: String| TrainError::BadCheckpoint { path: path.clone(), reason };
        let json = |e: serde_json::Error| bad(format!("damaged: {e}"));
        let Head { format, version, seal } = serde_json::from_slice(&bytes).map_err(json)?;
        let text = String::from_utf8_lossy(&bytes);
        let is_whole = seal.len() == blank().len() && sealed(text.replace(&seal, &blank())) == text;
        let has_none = format == UNSEALED && seal.is_empty();
        if !is_whole && !has_none {
            return Err(bad("damaged: its seal does not fit".into()));
        }
        if !READS.contains(&format) {
            let path = dir.to_owned();
            return Err(TrainError::OtherFormat { path, found: format, version, reads: FORMAT });
        }
        serde_json::from_slice(&bytes).map_err(json)
    }

    /// Whether it is of the format that had no seal.
    pub(super) fn is_first_format(&self) -> bool {
        self.format == UNSEALED
    }

    /// Every file that a checkpoint needs is listed, and every listed one there with the right size and content.
    ///
    /// What lies there besides is nobody's business: nothing reads it.
    pub(super) fn verify(&self, disk: &Disk, dir: &Path) -> Result<(), TrainError> {
        if let Some(name) = FILES.into_iter().find(|&name| !self.files.contains_key(name)) {
            let reason = format!("damaged: {name} is not listed");
            return Err(TrainError::BadCheckpoint { path: dir.join(NAME), reason });
        }
        for (name, expected) in &self.files {
            let path = dir.join(name);
            let found = Entry::of(disk, &path)?;
            if found != *expected {
                let reason = match found.bytes == expected.bytes {
                    true => {
                        // The beginnings tell them apart; the whole one stands in the manifest.
                        let [found, expected] = [&found.blake3, &expected.blake3]
                            .map(|hash| hash.chars().take(12).collect::<String>());
                        format!("damaged: BLAKE3 {found}… instead of {expected}…")
                    }
                    false => {
                        format!("damaged: {} bytes instead of {}", found.bytes, expected.bytes)
                    }
                };
                return Err(TrainError::BadCheckpoint { path, reason });
            }
        }
        Ok(())
    }
}

impl Entry {
    fn of(disk: &Disk, path: &Path) -> Result<Self, TrainError> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(disk.open(path)?).map_err(TrainError::io(path))?;
        Ok(Self { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }
}

/// The place of a hash.
fn blank() -> String {
    "0".repeat(2 * blake3::OUT_LEN)
}

/// Puts the hash of `text` into its blank place.
fn sealed(text: String) -> String {
    let hash = blake3::hash(text.as_bytes()).to_hex();
    text.replace(&blank(), &hash)
}

/// Pretty JSON with a newline at its end.
pub(super) fn to_json(value: &impl Serialize, path: &Path) -> Result<String, TrainError> {
    let bad = |e: serde_json::Error| TrainError::BadCheckpoint {
        path: PathBuf::from(path),
        reason: e.to_string(),
    };
    Ok(serde_json::to_string_pretty(value).map_err(bad)? + "\n")
}

/// Changes a manifest as a tunesmith of another format would have written it.
#[cfg(test)]
pub(super) fn rewrite(dir: &Path, change: impl FnOnce(&mut serde_json::Value)) {
    let path = dir.join(NAME);
    let mut manifest: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut manifest);
    manifest["seal"] = blank().into();
    std::fs::write(&path, sealed(to_json(&manifest, &path).unwrap())).unwrap();
}
