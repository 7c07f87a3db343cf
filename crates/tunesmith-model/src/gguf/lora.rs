//! LoRA adapters as llama.cpp has them: A and B of each matrix in one GGUF file, and a single α.
//!
//! llama.cpp scales each pair by α / r, r the pair's own rank. What scales otherwise (rsLoRA, patterns of α) is folded
//! into B.

use super::{Gguf, GgufType, GgufValue, export::export_lora_gguf, names};
use crate::{
    LoraConfig, ModelError, Modules, Pattern, Transformer,
    adapter::{PREFIX, in_file},
};
use std::{collections::BTreeMap, path::Path};
use tch::{Kind, Tensor};

const ALPHA: &str = "adapter.lora.alpha";

impl Transformer {
    /// Writes an adapter of this model as a LoRA file for llama.cpp.
    ///
    /// # Errors
    /// What such a file cannot hold: magnitudes (DoRA), modules and biases trained whole, an adapted embedding; a model
    /// that GGUF has no architecture for; what the operating system says.
    pub fn export_adapter_gguf(
        &self,
        number: usize,
        path: &Path,
        kind: GgufType,
    ) -> Result<(), ModelError> {
        let n_adapters = self.adapters.len();
        let adapter =
            self.adapters.get(number).ok_or(ModelError::NoSuchAdapter { number, n_adapters })?;
        let mut pairs = BTreeMap::new();
        let mut held = 0;
        for linear in self.linears() {
            let Some(lora) = linear.lora_of(number) else { continue };
            held += 2;
            let _no_grad = tch::no_grad_guard();
            let (a, b) = match &lora.initial {
                // s (BA − B₀A₀) as one pair of twice the rank.
                Some((a, b)) => {
                    let down = Tensor::cat(&[&lora.a.tensor, a], 0);
                    (down, Tensor::cat(&[&lora.b.tensor, &-b], 1))
                }
                None => (lora.a.tensor.detach(), lora.b.tensor.detach()),
            };
            let rank = a.size().first().copied().unwrap_or(1) as f64;
            let folded = lora.scale * rank / adapter.config.alpha;
            let b = if (folded - 1.0).abs() < 1e-12 { b } else { b * folded };
            pairs.insert(format!("{}.weight", linear.name), (a.contiguous(), b.contiguous()));
        }
        if held != adapter.params().len() {
            let other = adapter.params().iter().map(|param| param.name.as_str());
            let other = other.filter(|name| !name.ends_with("lora_A.weight"));
            let other = other.filter(|name| !name.ends_with("lora_B.weight"));
            let names: Vec<&str> = other.take(3).collect();
            let reason = format!(
                "llama.cpp's LoRA files hold A and B of matrices alone; this adapter also has {} …\n\
                 help: merge it (`tunesmith merge`) and export the model",
                names.join(", ")
            );
            return Err(ModelError::BadAdapter { place: path.display().to_string(), reason });
        }
        let pairs = pairs.into_iter().map(|(name, (a, b))| (name, a, b)).collect();
        export_lora_gguf(path, &self.config, pairs, adapter.config.alpha as f32, kind)
    }

    /// Adds the adapter in a LoRA file of llama.cpp, frozen, and returns its number.
    ///
    /// # Errors
    /// A file that is not sound, or not an adapter; pairs that this model has no matrices for.
    pub fn load_adapter_gguf(&mut self, path: &Path) -> Result<usize, ModelError> {
        let gguf = Gguf::open(path)?;
        let bad = |reason: String| ModelError::BadWeights { path: path.into(), reason };
        let alpha = match gguf.metadata().get(ALPHA) {
            Some(GgufValue::F32(alpha)) => f64::from(*alpha),
            _ => return Err(bad(format!("no {ALPHA}: not a LoRA file"))),
        };
        let places = names::places(&self.config);
        let mut pairs = BTreeMap::new();
        for name in gguf.names() {
            let Some(stem) = name.strip_suffix(".lora_a") else { continue };
            let place = places.iter().find(|(_, place)| place.name == stem);
            let module = place.and_then(|(hf, place)| Some((hf.strip_suffix(".weight")?, place)));
            let (module, place) =
                module.ok_or_else(|| bad(format!("{name}: this model has no such matrix")))?;
            let a = gguf.tensor(name)?;
            let b = gguf.tensor(&format!("{stem}.lora_b"))?;
            let b = match place.layout {
                names::Layout::Paired(_) => place.layout.undo(b),
                names::Layout::Same | names::Layout::Transposed => b,
            };
            pairs.insert(module.to_owned(), (a, b));
        }
        let rank = |a: &Tensor| a.size().first().copied().unwrap_or(0) as usize;
        let r = pairs.values().map(|(a, _)| rank(a)).max().unwrap_or(0);
        let others = pairs.iter().filter(|(_, (a, _))| rank(a) != r);
        let pattern = |(module, (a, _)): (&String, &(Tensor, Tensor))| Pattern {
            pattern: regex::escape(module),
            value: rank(a) as f64,
        };
        let config = LoraConfig {
            r,
            alpha,
            target_modules: Modules::Names(pairs.keys().cloned().collect()),
            rank_pattern: others.map(pattern).collect(),
            ..LoraConfig::default()
        };
        let number = self.add_adapter(&config, 0, false)?;
        let misfit = self.adapters[number].params().iter().find(|param| {
            let name = in_file(&param.name).strip_prefix(PREFIX).unwrap_or_default();
            let found = pairs.iter().find_map(|(module, (a, b))| {
                match name.strip_prefix(module.as_str())? {
                    ".lora_A.weight" => Some(a),
                    ".lora_B.weight" => Some(b),
                    _ => None,
                }
            });
            let found = found.filter(|found| found.size() == param.tensor.size());
            if let Some(found) = found {
                let found = found.to_kind(Kind::Float);
                tch::no_grad(|| param.tensor.shallow_clone().copy_(&found));
            }
            found.is_none()
        });
        if let Some(param) = misfit {
            let error = bad(format!("{}: no pair of this shape", param.name));
            self.drop_adapter();
            return Err(error);
        }
        Ok(number)
    }
}
