//! The weights of a model directory: one safetensors file, shards named by an index, or a GGUF file.

use super::TensorFile;
use crate::{Config, ModelError, gguf::GgufWeights};
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashMap},
    path::{Component, Path, PathBuf},
};
use tch::Tensor;

/// What a directory calls the GGUF file that holds its weights.
pub(super) const GGUF: &str = "model.gguf";

/// All tensors of a model directory, by name.
pub(crate) struct Checkpoint {
    pub(super) dir: PathBuf,
    weights: Weights,
}

enum Weights {
    Safetensors { files: Vec<TensorFile>, place: HashMap<String, usize> }, // name → index into `files`
    Gguf(GgufWeights),
}

impl Checkpoint {
    pub(crate) fn open(dir: &Path, config: &Config) -> Result<Self, ModelError> {
        let gguf = dir.join(GGUF);
        if gguf.exists() {
            let weights = Weights::Gguf(GgufWeights::open(&gguf, config)?);
            return Ok(Self { dir: dir.into(), weights });
        }
        let files = shards(dir)?
            .iter()
            .map(|path| TensorFile::open(path))
            .collect::<Result<Vec<_>, _>>()?;
        let mut place = HashMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if place.insert(name.clone(), i).is_some() {
                    let reason = format!("two shards hold {name}");
                    return Err(ModelError::BadWeights { path: dir.into(), reason });
                }
            }
        }
        Ok(Self { dir: dir.into(), weights: Weights::Safetensors { files, place } })
    }

    pub(crate) fn names(&self) -> BTreeSet<&str> {
        match &self.weights {
            Weights::Safetensors { place, .. } => place.keys().map(String::as_str).collect(),
            Weights::Gguf(gguf) => gguf.names().iter().map(String::as_str).collect(),
        }
    }

    pub(crate) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match &self.weights {
            Weights::Safetensors { files, place } => files[*place.get(name)?].shape(name),
            Weights::Gguf(gguf) => gguf.shape(name),
        }
    }

    /// The bytes of a tensor as stored, where one name stands for one run of bytes.
    pub(crate) fn bytes(&self, name: &str) -> Option<&[u8]> {
        match &self.weights {
            Weights::Safetensors { files, place } => files[*place.get(name)?].bytes(name),
            Weights::Gguf(_) => None,
        }
    }

    /// Gives the pages of a tensor back to the system.
    pub(crate) fn forget(&self, name: &str) {
        if let Weights::Safetensors { files, place } = &self.weights
            && let Some(&file) = place.get(name)
        {
            files[file].forget(name);
        }
    }

    /// A copy of a tensor, in the dtype of the file.
    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        match &self.weights {
            Weights::Safetensors { files, place } => match place.get(name) {
                Some(&file) => files[file].tensor(name),
                None => Ok(Tensor::new()),
            },
            Weights::Gguf(gguf) => gguf.tensor(name),
        }
    }
}

/// The weight files of `dir`, all of them there.
fn shards(dir: &Path) -> Result<Vec<PathBuf>, ModelError> {
    let single = dir.join("model.safetensors");
    let index_path = dir.join("model.safetensors.index.json");
    if single.exists() || !index_path.exists() {
        if !single.exists()
            && let Some(pickle) = pickled(dir)
        {
            return Err(ModelError::BadWeights {
                path: pickle,
                reason: "pickled weights can run code when they are opened, so tunesmith does not read them\n\
                         help: convert them to safetensors with transformers' `save_pretrained`"
                    .into(),
            });
        }
        return Ok(vec![single]); // opening it names it if it is not there
    }
    let text = std::fs::read_to_string(&index_path).map_err(ModelError::io(&index_path))?;
    let bad = |reason: String| ModelError::BadWeights { path: index_path.clone(), reason };
    let index: Value = serde_json::from_str(&text).map_err(|e| bad(format!("not JSON: {e}")))?;
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| bad("no `weight_map`".into()))?;
    let mut names = BTreeSet::new();
    for (tensor, file) in map {
        let file = file
            .as_str()
            .ok_or_else(|| bad(format!("weight_map[\"{tensor}\"] is not a string")))?;
        if !plain(file) {
            return Err(bad(format!(
                "weight_map[\"{tensor}\"] is {file:?}: a shard must be a file beside the index\n\
                 help: do not use this model; an index that points elsewhere is broken or hostile"
            )));
        }
        names.insert(file.to_owned());
    }
    let missing: Vec<String> =
        names.iter().filter(|name| !dir.join(name).exists()).cloned().collect();
    if !missing.is_empty() {
        return Err(ModelError::MissingShards { dir: dir.into(), missing, total: names.len() });
    }
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Whether `name` is one normal path component.
fn plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(c)), None) if c == name)
        && !name.contains('\0')
}

fn pickled(dir: &Path) -> Option<PathBuf> {
    ["pytorch_model.bin", "pytorch_model.bin.index.json", "model.pt"]
        .map(|name| dir.join(name))
        .into_iter()
        .find(|p| p.exists())
}
