//! Adapters on disk: `adapter_config.json` and `adapter_model.safetensors` as PEFT reads and writes them, and a file of
//! our own that names the base.

use super::{
    Adapter, LoraConfig, LoraInit, Modules, PREFIX, base::Base, base_hash, in_file, peft, prefix,
    targets, tokens,
};
use crate::{ModelError, Param, TensorFile, Transformer, write_tensors};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};
use tch::{Kind, Tensor};

/// What PEFT writes into `modules_to_save` of every adapter for sequence classification.
const CLASSIFIER_HEADS: [&str; 2] = ["classifier", "score"];
const WEIGHTS: &str = "adapter_model.safetensors";

impl Transformer {
    /// Adds the adapter in `dir`, tunesmith's or PEFT's, and returns its number.
    ///
    /// # Errors
    /// Files that are missing or not sound; a base that is not the one it was trained on; tensors that are missing, that
    /// have no place, another shape, or numbers that are not finite: all of them together.
    pub fn load_adapter(&mut self, dir: &Path, trainable: bool) -> Result<usize, ModelError> {
        let (config, base_name) = peft::read(dir)?;
        if let (Some(base), Some(own)) = (Base::read(dir)?, &self.dir) {
            let found = base_hash(own)?;
            if found != base.blake3 {
                let reason = format!(
                    "it was trained on a base of hash {}{}, and {} has hash {found}\n\
                     help: give the base it was trained on",
                    base.blake3,
                    base_name.map(|name| format!(" ({name})")).unwrap_or_default(),
                    own.display()
                );
                return Err(ModelError::BadAdapter { place: dir.display().to_string(), reason });
            }
        }
        let path = dir.join(WEIGHTS);
        if !path.exists() && dir.join("adapter_model.bin").exists() {
            let reason = "pickled weights can run code when they are opened, so tunesmith does not read them\n\
                          help: load and save the adapter with PEFT, which writes safetensors";
            let place = dir.join("adapter_model.bin").display().to_string();
            return Err(ModelError::BadAdapter { place, reason: reason.into() });
        }
        let file = TensorFile::open(&path)?;
        let place = |error| match error {
            ModelError::BadAdapter { reason, .. } => {
                ModelError::BadAdapter { place: dir.display().to_string(), reason }
            }
            other => other,
        };
        self.check_adapter(&config, false).map_err(place)?;
        let number = self.attach_adapter(&config, 0, trainable)?;
        self.hold_tables(&config, &file);
        if let Err(problems) = fill(&self.adapters[number], &file) {
            self.drop_adapter();
            let shown: Vec<&str> = problems.iter().take(5).map(String::as_str).collect();
            let more = problems.len().saturating_sub(5);
            let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
            let reason = format!(
                "it does not fit this model:\n  {}{more}\nhelp: adapter and base do not belong together",
                shown.join("\n  ")
            );
            return Err(ModelError::BadAdapter { place: path.display().to_string(), reason });
        }
        Ok(number)
    }

    /// Tables that PEFT saved whole beside the rows that were trained, because the vocabulary had grown: they hold the new
    /// rows that were not trained, and stand in for the base's under this adapter, frozen.
    fn hold_tables(&mut self, config: &LoraConfig, file: &TensorFile) {
        let names = self.config.names;
        let head = self.config.n_labels.is_none().then_some(names.head);
        let tables: Vec<&str> = [Some(names.embed), head].into_iter().flatten().collect();
        let number = self.adapters.len() - 1;
        for (module, stored) in tokens::whole_tables(config, file, &tables) {
            let name = format!("{}{}", prefix(number), &stored[PREFIX.len()..]);
            let base = self.base_params().iter().find(|p| p.name == format!("{module}.weight"));
            // A tied head has no weight of its own.
            let Some(base) = base.or_else(|| self.base_params().first()) else { continue };
            let (role, copy) = (base.role, tch::no_grad(|| base.tensor.detach().copy()));
            self.hold_weight(module, Param::new(name, role, copy, false));
        }
    }

    /// Writes an adapter into `dir`, which exists, as PEFT does; `base_name` is what others load the base by. Tokenizer
    /// and template come from `origin`, the base's directory.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save_adapter(
        &self,
        number: usize,
        dir: &Path,
        base_name: &str,
        origin: &Path,
    ) -> Result<(), ModelError> {
        let adapter = &self.adapters[number];
        let mut config = adapter.config.clone();
        let classifies = self.config.n_labels.is_some();
        if classifies && config.modules_to_save == ["score"] {
            config.modules_to_save = CLASSIFIER_HEADS.map(str::to_owned).to_vec();
        }
        let converted = match config.init {
            LoraInit::Pissa => Some(self.as_plain_lora(number, &mut config)),
            _ => None,
        };
        let tensors: Vec<(String, &Tensor)> = match &converted {
            Some(tensors) => tensors.iter().map(|(name, tensor)| (name.clone(), tensor)).collect(),
            None => adapter.params.iter().map(|p| (in_file(&p.name).into(), &p.tensor)).collect(),
        };
        let companions = adapter.companions.iter().map(|(name, p)| (name.clone(), &p.tensor));
        write_tensors(&dir.join(WEIGHTS), tensors.into_iter().chain(companions))?;
        let card = peft::Card {
            base_name,
            task_type: if classifies { "SEQ_CLS" } else { "CAUSAL_LM" },
            transposed: self.config.names.transposed,
            targets: self.written_targets(adapter, &config),
        };
        let path = dir.join(peft::FILE);
        std::fs::write(&path, peft::write(&config, &card)).map_err(ModelError::io(path))?;
        if let Some(own) = &self.dir {
            let (blake3, labels) = (base_hash(own)?, self.config.labels());
            Base { blake3, storage: self.storage, labels }.write(dir)?;
        }
        crate::weights::copy_companions(origin, dir)
    }

    /// `target_modules` as PEFT writes it: it replaces `all-linear` by names, and shortens a long list.
    fn written_targets(&self, adapter: &Adapter, config: &LoraConfig) -> Value {
        let others = || -> BTreeSet<String> {
            let params = self.base_params().iter();
            let modules = params.filter_map(|p| Some(p.name.rsplit_once('.')?.0.to_owned()));
            modules.filter(|name| !adapter.adapted.contains(name)).collect()
        };
        match &config.target_modules {
            all if all.is_all_linear() => {
                json!(targets::written_names(&adapter.adapted, &others()))
            }
            Modules::Names(names) => {
                let mut names = names.clone();
                names.sort();
                json!(names)
            }
            Modules::Pattern(pattern) => json!(pattern),
        }
    }

    /// PiSSA's change of the base, s (BA − B₀A₀), as LoRA of twice the rank with the same scale.
    fn as_plain_lora(&self, number: usize, config: &mut LoraConfig) -> Vec<(String, Tensor)> {
        let grown = if config.use_rslora { 2f64.sqrt() } else { 2.0 };
        config.r *= 2;
        config.alpha *= grown;
        config.rank_pattern.iter_mut().for_each(|p| p.value *= 2.0);
        config.alpha_pattern.iter_mut().for_each(|p| p.value *= grown);
        config.init = LoraInit::Kaiming;
        let initial: BTreeMap<String, (Tensor, bool)> = self.initial_matrices(number);
        let doubled = self.adapters[number].params.iter().map(|param| {
            let tensor = tch::no_grad(|| match initial.get(&param.name) {
                Some((first, true)) => Tensor::cat(&[&param.tensor, first], 0), // A (2R, I)
                Some((first, false)) => Tensor::cat(&[&param.tensor, &-first], 1), // B (O, 2R)
                None => param.tensor.shallow_clone(),
            });
            (in_file(&param.name).to_owned(), tensor.contiguous())
        });
        doubled.collect()
    }
}

/// Puts the file's tensors into the adapter's parameters, or says all that does not fit.
fn fill(adapter: &Adapter, file: &TensorFile) -> Result<(), Vec<String>> {
    let mut extra: BTreeSet<String> = file.names().into_iter().collect();
    let mut problems = Vec::new();
    let read = |name: &str, like: &Tensor| -> Result<Tensor, String> {
        let expected = like.size();
        let Some(found) = file.shape(name) else {
            return Err(format!("{name}: expected shape {expected:?}, found no such tensor"));
        };
        if found != expected {
            return Err(format!("{name}: expected shape {expected:?}, found {found:?}"));
        }
        let tensor = file.tensor(name).map_err(|error| error.to_string())?;
        let n_wrong = (tensor.numel() as i64) - tensor.isfinite().sum(Kind::Int64).int64_value(&[]);
        match n_wrong {
            0 => Ok(tensor),
            n => Err(format!("{name}: {n} of its {} numbers are not finite", tensor.numel())),
        }
    };
    for param in &adapter.params {
        let name = in_file(&param.name);
        extra.remove(name);
        match read(name, &param.tensor) {
            Ok(stored) => tch::no_grad(|| param.tensor.shallow_clone().copy_(&stored)),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, param) in &adapter.companions {
        if !extra.remove(name) {
            continue; // older writers left it out
        }
        match read(name, &param.tensor) {
            Ok(stored)
                if stored.to_kind(param.tensor.kind()).to_device(param.tensor.device())
                    == param.tensor => {}
            Ok(_) => problems.push(format!("{name}: other numbers than the base's")),
            Err(problem) => problems.push(problem),
        }
    }
    // Where a vocabulary was resized, PEFT writes embedding and head twice more: the trained one again, and the base's,
    // whose new rows nobody trained.
    let copies: Vec<String> = extra
        .iter()
        .filter(|name| {
            name.ends_with(".modules_to_save.weight") || name.ends_with(".original_module.weight")
        })
        .cloned()
        .collect();
    let rows_twice = |name: &String| name.ends_with(".token_adapter.trainable_tokens_delta");
    for name in extra.iter().filter(|name| rows_twice(name)).cloned().collect::<Vec<_>>() {
        // Of a tied head that was saved beside its embedding: the same rows again.
        let Some(param) = adapter.params.iter().find(|param| rows_twice(&param.name)) else {
            continue; // no place for it
        };
        extra.remove(&name);
        match read(&name, &param.tensor) {
            Ok(stored)
                if stored.to_kind(param.tensor.kind()).to_device(param.tensor.device())
                    != param.tensor =>
            {
                problems
                    .push(format!("{name}: other numbers than those of {}", in_file(&param.name)));
            }
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
    }
    for name in copies {
        let again = name.contains(".modules_to_save.");
        let short = name.replace(".modules_to_save.", ".").replace(".original_module.", ".");
        let Some(param) = adapter.params.iter().find(|param| in_file(&param.name) == short) else {
            continue; // no place for it
        };
        extra.remove(&name);
        match read(&name, &param.tensor) {
            Ok(stored)
                if again
                    && stored.to_kind(param.tensor.kind()).to_device(param.tensor.device())
                        != param.tensor =>
            {
                problems.push(format!("{name}: other numbers than those of {short}"));
            }
            Ok(_) => {}
            Err(problem) => problems.push(problem),
        }
    }
    problems
        .extend(extra.into_iter().map(|name| format!("{name}: this adapter has no place for it")));
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}
