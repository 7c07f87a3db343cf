//! The manifest: what a checkpoint consists of, written after everything else.

use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
};

/// Counts up when a checkpoint of before can no longer be read.
const FORMAT: u32 = 1;
const NAME: &str = "MANIFEST.json";

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    version: String,
    files: BTreeMap<String, Entry>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    bytes: u64,
    blake3: String,
}

impl Manifest {
    /// Describes the files that lie in `dir`.
    pub(super) fn of(dir: &Path) -> Result<Self, TrainError> {
        let mut files = BTreeMap::new();
        for entry in std::fs::read_dir(dir).map_err(TrainError::io(dir))? {
            let entry = entry.map_err(TrainError::io(dir))?;
            files.insert(
                entry.file_name().to_string_lossy().into_owned(),
                Entry::of(&entry.path())?,
            );
        }
        Ok(Self { format: FORMAT, version: env!("CARGO_PKG_VERSION").into(), files })
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), TrainError> {
        let path = dir.join(NAME);
        std::fs::write(&path, to_json(self, &path)?).map_err(TrainError::io(path))
    }

    pub(super) fn read(dir: &Path) -> Result<Self, TrainError> {
        let path = dir.join(NAME);
        let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
        let bad = |reason: String| TrainError::BadCheckpoint { path: path.clone(), reason };
        let manifest: Self = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        if manifest.format != FORMAT {
            return Err(bad(format!(
                "checkpoint format {}, written by tunesmith {}; this one reads format {FORMAT}",
                manifest.format, manifest.version
            )));
        }
        Ok(manifest)
    }

    /// Every file there, of the right size and content, and none besides.
    pub(super) fn verify(&self, dir: &Path) -> Result<(), TrainError> {
        for (name, expected) in &self.files {
            let path = dir.join(name);
            let found = Entry::of(&path)?;
            if found != *expected {
                let reason = match found.bytes == expected.bytes {
                    true => {
                        format!("damaged: BLAKE3 {} instead of {}", found.blake3, expected.blake3)
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
    fn of(path: &Path) -> Result<Self, TrainError> {
        let mut hasher = blake3::Hasher::new();
        let file = File::open(path).map_err(TrainError::io(path))?;
        hasher.update_reader(file).map_err(TrainError::io(path))?;
        Ok(Self { bytes: hasher.count(), blake3: hasher.finalize().to_hex().to_string() })
    }
}

/// Pretty JSON with a newline at its end.
pub(super) fn to_json(value: &impl Serialize, path: &Path) -> Result<String, TrainError> {
    let bad = |e: serde_json::Error| TrainError::BadCheckpoint {
        path: PathBuf::from(path),
        reason: e.to_string(),
    };
    Ok(serde_json::to_string_pretty(value).map_err(bad)? + "\n")
}
