//! Which base an adapter belongs to: a hash of its weights, kept in a file of its own beside PEFT's.

use super::{PREFIX, peft};
use crate::{Config, ModelError, Storage, TensorFile, weights::Checkpoint};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::SystemTime,
};
use tch::Kind;

/// The file beside `adapter_config.json`; PEFT does not know it, and does not mind.
pub(super) const FILE: &str = "tunesmith_base.json";

/// What `tunesmith_base.json` says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Base {
    /// [`base_hash`] of the model that the adapter was trained on.
    pub(super) blake3: String,
    /// How the matrices of the base lay in memory while the adapter was trained.
    #[serde(default)]
    pub(super) storage: Storage,
    /// The labels of a classifier, which PEFT's files do not hold; none for a language model.
    #[serde(default)]
    pub(super) labels: Vec<String>,
}

/// Hashes that this process has made, by the files they were made of: a base of many gigabytes is read once, whatever
/// number of adapters asks for it.
static KNOWN: Mutex<BTreeMap<Files, String>> = Mutex::new(BTreeMap::new());

/// Paths, sizes and times of the files in a directory.
type Files = Vec<(PathBuf, u64, SystemTime)>;

/// A BLAKE3 hash over names, shapes and bytes of all weights in a model directory, whatever files they lie in.
///
/// # Errors
/// Files that are missing or not sound.
pub fn base_hash(dir: &Path) -> Result<String, ModelError> {
    let mut files: Files = Vec::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if let Ok(about) = std::fs::metadata(entry.path())
            && let Ok(time) = about.modified()
        {
            files.push((entry.path(), about.len(), time));
        }
    }
    files.sort();
    let known = || KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(hash) = known().get(&files) {
        return Ok(hash.clone());
    }
    let hash = read_hash(dir)?;
    known().insert(files, hash.clone());
    Ok(hash)
}

fn read_hash(dir: &Path) -> Result<String, ModelError> {
    let checkpoint = Checkpoint::open(dir, &Config::from_dir(dir)?)?;
    let mut hasher = blake3::Hasher::new();
    for name in checkpoint.names() {
        let shape = checkpoint.shape(name).unwrap_or_default();
        hasher.update(format!("{name} {shape:?}\n").as_bytes());
        match checkpoint.bytes(name) {
            Some(bytes) => {
                hasher.update(bytes);
                checkpoint.forget(name);
            }
            // A GGUF file's blocks: what they stand for.
            None => {
                let tensor = checkpoint.tensor(name)?.to_kind(Kind::Float).contiguous();
                let mut bytes = vec![0; tensor.numel() * 4];
                tensor.copy_data_u8(&mut bytes, tensor.numel());
                hasher.update(&bytes);
            }
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}

/// How the base of the adapter in `dir` lay in memory while it was trained: dense, where nobody says otherwise.
///
/// # Errors
/// A file that is not sound.
pub fn adapter_storage(dir: &Path) -> Result<Storage, ModelError> {
    Ok(Base::read(dir)?.map_or(Storage::Dense, |base| base.storage))
}

/// The labels that the adapter in `dir` gives its base; `None` where it is for a language model. An adapter of PEFT does
/// not say them: there its saved head tells how many they are.
///
/// # Errors
/// Files that are not sound.
pub fn adapter_labels(dir: &Path) -> Result<Option<Vec<String>>, ModelError> {
    if let Some(base) = Base::read(dir)?.filter(|base| !base.labels.is_empty()) {
        return Ok(Some(base.labels));
    }
    let path = dir.join("adapter_model.safetensors");
    let shape = match path.exists() {
        true => TensorFile::open(&path)?.shape("base_model.model.score.weight"),
        false => None, // loading it says so
    };
    let n = shape.and_then(|shape| shape.first().copied());
    Ok(n.map(|n| (0..n).map(|i| format!("LABEL_{i}")).collect()))
}

/// The rows of the embedding that the adapter in `dir` brings with it, or that it at least needs: more than its base's,
/// where tokens were added. `None` where it keeps the base's.
///
/// # Errors
/// A file that is not sound.
pub fn adapter_vocab_size(dir: &Path, config: &Config) -> Result<Option<i64>, ModelError> {
    let path = dir.join("adapter_model.safetensors");
    if !path.exists() {
        return Ok(None); // loading it says so
    }
    let file = TensorFile::open(&path)?;
    let tables = ["", ".token_adapter.base_layer"];
    let rows = tables.into_iter().find_map(|layer| {
        let name = format!("{PREFIX}{}{layer}.weight", config.names.embed);
        file.shape(&name)?.first().copied()
    });
    if rows.is_some() || !dir.join(peft::FILE).exists() {
        return Ok(rows);
    }
    Ok(peft::read(dir)?.0.trainable_token_indices.largest().map(|last| last + 1))
}

impl Base {
    /// What lies beside the adapter in `dir`; `None` where it came from elsewhere.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, ModelError> {
        let path = dir.join(FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).map_err(ModelError::io(&path))?;
        let bad = |e: serde_json::Error| ModelError::BadAdapter {
            place: path.display().to_string(),
            reason: e.to_string(),
        };
        serde_json::from_slice(&text).map(Some).map_err(bad)
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), ModelError> {
        let path = dir.join(FILE);
        let bad = |e: serde_json::Error| ModelError::BadAdapter {
            place: path.display().to_string(),
            reason: e.to_string(),
        };
        let text = serde_json::to_string_pretty(self).map_err(bad)? + "\n";
        std::fs::write(&path, text).map_err(ModelError::io(path))
    }
}
