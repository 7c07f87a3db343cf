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
/// What every checkpoint of this format consists of.
const FILES: [&str; 3] = ["model.safetensors", "optimizer.safetensors", "state.json"];

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Manifest {
    format: u32,
    version: String,
    files: BTreeMap<String, Entry>,
}

/// The one key that the manifests of all formats share.
#[derive(Deserialize)]
struct Format {
    format: u32,
    #[serde(default)]
    version: String,
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
        let text = std::fs::read(&path).map_err(TrainError::io(&path))?;
        let bad = |e: serde_json::Error| TrainError::BadCheckpoint {
            path: path.clone(),
            reason: e.to_string(),
        };
        let Format { format, version } = serde_json::from_slice(&text).map_err(bad)?;
        if format != FORMAT {
            let path = dir.to_owned();
            return Err(TrainError::OtherFormat { path, found: format, version, reads: FORMAT });
        }
        serde_json::from_slice(&text).map_err(bad)
    }

    /// Every file that a checkpoint needs is listed, and every listed one there with the right size and content.
    ///
    /// What lies there besides is nobody's business: nothing reads it.
    pub(super) fn verify(&self, dir: &Path) -> Result<(), TrainError> {
        if let Some(name) = FILES.into_iter().find(|&name| !self.files.contains_key(name)) {
            let reason = format!("damaged: {name} is not listed");
            return Err(TrainError::BadCheckpoint { path: dir.join(NAME), reason });
        }
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
