//! The weights of a model in a GGUF file, under the names of its Hugging Face checkpoint.

use super::{Gguf, config, names};
use crate::{Config, ModelError};
use std::{collections::BTreeMap, path::Path};
use tch::Tensor;

/// A model's weights in a GGUF file, seen under their Hugging Face names.
#[derive(Debug)]
pub(crate) struct GgufWeights {
    gguf: Gguf,
    places: BTreeMap<String, names::Place>,
    /// Hugging Face names of what the file holds; what has none stands under the file's own name.
    names: Vec<String>,
}

impl GgufWeights {
    pub(crate) fn open(path: &Path, config: &Config) -> Result<Self, ModelError> {
        let gguf = Gguf::open(path)?;
        let places = names::places(config);
        let hf = |name: &str| {
            let place = places.iter().find(|(_, place)| place.name == name);
            place.map_or(name, |(hf, _)| hf).to_owned()
        };
        let names = gguf.names().filter(|name| *name != config::ROPE_FREQS).map(hf).collect();
        Ok(Self { places, names, gguf })
    }

    pub(crate) fn names(&self) -> &[String] {
        &self.names
    }

    pub(crate) fn shape(&self, name: &str) -> Option<Vec<i64>> {
        match self.places.get(name) {
            Some(place) => Some(place.layout.shape(self.gguf.shape(&place.name)?)),
            None => self.gguf.shape(name).map(<[i64]>::to_vec),
        }
    }

    pub(crate) fn tensor(&self, name: &str) -> Result<Tensor, ModelError> {
        match self.places.get(name) {
            Some(place) => Ok(place.layout.undo(self.gguf.tensor(&place.name)?)),
            None => self.gguf.tensor(name),
        }
    }
}
