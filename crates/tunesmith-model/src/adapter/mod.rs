//! Adapters: small trainable parts beside a frozen base. An adapter is a property of the modules it touches; a model may
//! carry several, and each pass chooses one by its number ([`Pass::adapter`](crate::Pass)).
//!
//! Names of its parameters are those of PEFT's files, `base_model.model.<module>.lora_A.weight` and so on; those of a second
//! adapter begin with `adapter_1.`, so that no two parameters of a model have one name.

mod base;
mod config;
mod file;
mod init;
mod merge;
mod module;
mod peft;
mod targets;
mod tokens;

pub use base::{adapter_labels, adapter_storage, adapter_vocab_size, base_hash};
pub use config::{Bias, LoraConfig, LoraInit, Modules, Pattern};
pub(crate) use module::{Module, ModuleKind};
pub use tokens::TokenIndices;

use crate::{
    ModelError, Param, Role, Transformer,
    embedding::{Embedding, EmbeddingLora},
    linear::{Linear, Weight},
    lora::Lora,
    random,
    token_rows::TokenRows,
};
use std::{collections::BTreeSet, rc::Rc};
use targets::Targets;
use tch::{Device, Kind, Tensor};

/// What stands before a module's name in PEFT's files.
pub(crate) const PREFIX: &str = "base_model.model.";

/// What stands before a module's name in the names of an adapter's parameters.
fn prefix(number: usize) -> String {
    match number {
        0 => PREFIX.into(),
        n => format!("adapter_{n}.{PREFIX}"),
    }
}

/// The name of an adapter's parameter in PEFT's files.
pub(crate) fn in_file(name: &str) -> &str {
    name.find(PREFIX).map_or(name, |at| &name[at..])
}

/// An adapter of a model.
#[derive(Debug)]
pub struct Adapter {
    /// What it was made with.
    pub config: LoraConfig,
    /// Its own parameters, in the order of the architecture.
    params: Vec<Rc<Param>>,
    /// Names of the modules with A and B.
    adapted: BTreeSet<String>,
    /// Base embeddings that PEFT saves beside the matrices that adapt them, under their names there.
    companions: Vec<(String, Rc<Param>)>,
}

impl Adapter {
    /// Its own parameters: matrices, magnitudes, modules and biases trained whole.
    pub fn params(&self) -> &[Rc<Param>] {
        &self.params
    }

    /// A weight that it brings for good, frozen.
    pub(crate) fn hold(&mut self, param: Rc<Param>) {
        self.params.push(param);
    }

    /// How many numbers it holds.
    pub fn n_params(&self) -> usize {
        self.params.iter().map(|param| param.tensor.numel()).sum()
    }
}

impl Transformer {
    /// Adds a fresh adapter and returns its number; the base is frozen from then on. A fresh adapter changes no logit.
    ///
    /// Its values are a pure function of `seed` and the names of its parameters.
    ///
    /// # Errors
    /// Settings out of range; names that no module has; a rank above a layer's own. The model is as it was then.
    pub fn add_adapter(
        &mut self,
        config: &LoraConfig,
        seed: u64,
        trainable: bool,
    ) -> Result<usize, ModelError> {
        self.check_adapter(config, true)?;
        self.attach_adapter(config, seed, trainable)
    }

    /// Adds an adapter whose settings have been checked.
    fn attach_adapter(
        &mut self,
        config: &LoraConfig,
        seed: u64,
        trainable: bool,
    ) -> Result<usize, ModelError> {
        let targets = Targets::new(config)?;
        let (number, device) = (self.adapters.len(), self.device());
        let vocab_size = self.config.vocab_size;
        let fresh = Fresh { config, prefix: prefix(number), seed, device, trainable };
        for param in self.base_params() {
            let _ = param.tensor.shallow_clone().set_requires_grad(false);
        }
        let (mut params, mut adapted, mut companions) = (Vec::new(), BTreeSet::new(), Vec::new());
        let (tied, mut of_embedding) = (self.ties_head(), None);
        for mut module in self.modules_mut() {
            let (name, kind) = (module.name().to_owned(), module.kind());
            if targets.adapts(&name, kind) {
                adapted.insert(name.clone());
                let (rank, alpha) = targets.rank_and_alpha(&name);
                match &mut module {
                    Module::Projection(linear) | Module::Head(linear) => {
                        let lora = fresh.linear(linear, rank, alpha);
                        params
                            .extend([&lora.a, &lora.b].into_iter().chain(&lora.magnitude).cloned());
                        linear.attach(number, lora);
                    }
                    Module::Embedding(embedding) => {
                        let lora = fresh.embedding(embedding, rank, alpha);
                        params
                            .extend([&lora.a, &lora.b].into_iter().chain(&lora.magnitude).cloned());
                        embedding.attach(number, lora);
                    }
                    Module::Norm(_) => {}
                }
                if saves_base(config, &name, kind) {
                    let named = module.params().into_iter();
                    companions.extend(
                        named.map(|(end, param)| {
                            (format!("{PREFIX}{name}.base_layer.{end}"), param)
                        }),
                    );
                }
            }
            let own = config.trainable_token_indices.of(&name, kind);
            match &mut module {
                Module::Embedding(embedding) => {
                    if let Some(ids) = own {
                        let rows = fresh.rows(&name, embedding.base(), ids);
                        params.push(rows.clone());
                        of_embedding = Some((rows.clone(), ids));
                        embedding.attach_rows(number, fresh.token_rows(rows, ids, vocab_size));
                    }
                }
                Module::Head(linear) => {
                    let shared = of_embedding
                        .take()
                        .filter(|(_, ids)| tied && own.is_none_or(|own| own == *ids));
                    let rows = match (shared, own, &linear.weight) {
                        (Some(shared), ..) => Some(shared),
                        (None, Some(ids), Weight::Dense(place)) => {
                            let rows = fresh.rows(&name, place.base(), ids);
                            params.push(rows.clone());
                            Some((rows, ids))
                        }
                        _ => None,
                    };
                    if let Some((rows, ids)) = rows {
                        linear.attach_rows(number, fresh.token_rows(rows, ids, vocab_size));
                    }
                }
                Module::Projection(_) | Module::Norm(_) => {}
            }
            let whole = targets.keeps_whole(&name);
            for (ending, param) in module.params() {
                let bias = ending == "bias"
                    && (config.bias == Bias::All
                        || config.bias == Bias::LoraOnly && adapted.contains(&name));
                if whole || bias {
                    let layer = if adapted.contains(&name) { ".base_layer" } else { "" };
                    let copy =
                        fresh.copy(format!("{}{name}{layer}.{ending}", fresh.prefix), &param);
                    module.replace(number, ending, copy.clone());
                    params.push(copy);
                }
            }
        }
        let adapter = Adapter { config: config.clone(), params, adapted, companions };
        self.hold(adapter);
        Ok(number)
    }

    /// The adapters, by number.
    pub fn adapters(&self) -> &[Adapter] {
        &self.adapters
    }

    /// Everything that is wrong with `config` for this model; `strict`: names that no module has, too, which PEFT
    /// overlooks.
    fn check_adapter(&mut self, config: &LoraConfig, strict: bool) -> Result<(), ModelError> {
        config.check()?;
        let targets = Targets::new(config)?;
        let place = "adapter".to_owned();
        let mut modules = Vec::new();
        let mut wrong = Vec::new();
        for module in self.modules_mut() {
            let (name, kind) = (module.name().to_owned(), module.kind());
            if targets.adapts(&name, kind) {
                let (rank, _) = targets.rank_and_alpha(&name);
                let limit = match &module {
                    Module::Projection(linear) | Module::Head(linear) => {
                        linear.n_in.min(linear.n_out)
                    }
                    Module::Embedding(embedding) => embedding.size().into_iter().min().unwrap_or(0),
                    Module::Norm(_) => 0,
                };
                if limit == 0 {
                    wrong.push(format!(
                        "{name}: a norm has no matrix to adapt; name it in `modules_to_save`"
                    ));
                } else if rank as i64 > limit {
                    wrong.push(format!("{name}: expected a rank of at most {limit}, found {rank}"));
                }
            }
            let quantised =
                matches!(&module, Module::Projection(linear) if linear.n_quantised().is_some());
            if quantised && targets.keeps_whole(&name) {
                wrong.push(format!(
                    "{name}: `modules_to_save`: a quantised layer cannot be trained whole"
                ));
            }
            modules.push((name, kind));
        }
        let (vocab_size, tied) = (self.config.vocab_size, self.ties_head());
        let tokens = &config.trainable_token_indices;
        wrong.extend(tokens.misfits(&targets, &modules, vocab_size, tied));
        if strict {
            wrong.extend(targets.unmatched(&modules));
        }
        let ends: BTreeSet<&str> =
            modules.iter().map(|(name, _)| name.rsplit('.').next().unwrap_or(name)).collect();
        if !modules.iter().any(|(name, kind)| targets.adapts(name, *kind)) {
            wrong.push("`target_modules` matches no module of this model".into());
        }
        if wrong.is_empty() {
            return Ok(());
        }
        let shown: Vec<&str> = wrong.iter().take(5).map(String::as_str).collect();
        let more = wrong.len().saturating_sub(5);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        let names = ends.into_iter().collect::<Vec<_>>().join(", ");
        let reason = format!("{}{more}\nhelp: its modules are {names}", shown.join("\n  "));
        Err(ModelError::BadAdapter { place, reason })
    }
}

/// PEFT saves an embedding or a head that is adapted by name together with its matrices.
fn saves_base(config: &LoraConfig, name: &str, kind: ModuleKind) -> bool {
    let known = |end: &str| end == "embed_tokens" || end == "lm_head";
    let named = match &config.target_modules {
        Modules::Names(names) => names.iter().any(|name| known(name)),
        pattern => !pattern.is_all_linear() && known(name.rsplit('.').next().unwrap_or(name)),
    };
    let rows_alone = !config.trainable_token_indices.is_empty();
    named && !rows_alone && matches!(kind, ModuleKind::Embedding | ModuleKind::Head)
}

/// Makes the parameters of a fresh adapter.
struct Fresh<'a> {
    config: &'a LoraConfig,
    prefix: String,
    seed: u64,
    device: Device,
    trainable: bool,
}

impl Fresh<'_> {
    fn linear(&self, linear: &Linear, rank: usize, alpha: f64) -> Lora {
        let (n_in, n_out, r) = (linear.n_in, linear.n_out, rank as i64);
        let name = |part: &str| format!("{}{}.{part}", self.prefix, linear.name);
        let (a_name, scale) = (name("lora_A.weight"), self.scale(rank, alpha));
        let w = linear.base_matrix();
        let (a, b, initial) = match self.config.init {
            LoraInit::Kaiming => (self.uniform(&a_name, &[r, n_in], n_in), None, None),
            LoraInit::Gaussian => (self.normal(&a_name, &[r, n_in], 1.0 / r as f64), None, None),
            LoraInit::Pissa => {
                let (a, b) = init::principal(&w, r, scale);
                (a.copy(), Some(b.copy()), Some((a, b)))
            }
        };
        let b = b.unwrap_or_else(|| self.zeros(&[n_out, r]));
        let a = self.param(a_name, Role::LoraA, a);
        let b = self.param(name("lora_B.weight"), Role::LoraB, b);
        let mut lora = Lora { a, b, magnitude: None, scale, dropout: self.config.dropout, initial };
        if self.config.use_dora {
            let norm = lora.norm(&w);
            lora.magnitude = Some(self.param(name("lora_magnitude_vector"), Role::Magnitude, norm));
        }
        lora
    }

    fn embedding(&self, embedding: &Embedding, rank: usize, alpha: f64) -> EmbeddingLora {
        let [vocab_size, width] = embedding.size();
        let r = rank as i64;
        let name = |part: &str| format!("{}{}.{part}", self.prefix, embedding.name);
        let b_name = name("lora_embedding_B");
        let b = self.normal(&b_name, &[width, r], 1.0);
        let a = self.param(name("lora_embedding_A"), Role::LoraA, self.zeros(&[r, vocab_size]));
        let b = self.param(b_name, Role::LoraB, b);
        let mut lora = EmbeddingLora { a, b, magnitude: None, scale: self.scale(rank, alpha) };
        if self.config.use_dora {
            let norm = lora.norm(&embedding.base().tensor);
            lora.magnitude = Some(self.param(name("lora_magnitude_vector"), Role::Magnitude, norm));
        }
        lora
    }

    /// Rows of a table that are trained on their own, as they stand in the base.
    fn rows(&self, module: &str, table: &Param, ids: &[i64]) -> Rc<Param> {
        let ids = Tensor::from_slice(ids).to_device(self.device);
        let rows = tch::no_grad(|| table.tensor.index_select(0, &ids).to_kind(Kind::Float));
        let name = format!("{}{module}.token_adapter.trainable_tokens_delta", self.prefix);
        self.param(name, table.role, rows)
    }

    fn token_rows(&self, rows: Rc<Param>, ids: &[i64], vocab_size: i64) -> TokenRows {
        TokenRows::new(rows, ids, vocab_size, self.device)
    }

    /// A trained copy of a base parameter.
    fn copy(&self, name: String, base: &Param) -> Rc<Param> {
        let tensor = tch::no_grad(|| base.tensor.detach().copy());
        Param::new(name, base.role, tensor, self.trainable)
    }

    fn scale(&self, rank: usize, alpha: f64) -> f64 {
        let r = rank as f64;
        if self.config.use_rslora { alpha / r.sqrt() } else { alpha / r }
    }

    /// U(−1/√n, 1/√n): Kaiming's bound √(6 / ((1 + a²) n)) for a = √5.
    fn uniform(&self, name: &str, shape: &[i64], n_in: i64) -> Tensor {
        let unit = random::uniform(random::stream(self.seed, name), shape, self.device);
        (unit * 2.0 - 1.0) / (n_in as f64).sqrt()
    }

    fn normal(&self, name: &str, shape: &[i64], std: f64) -> Tensor {
        let stream = random::stream(self.seed, name);
        let n = shape.iter().product::<i64>() as u64;
        let values: Vec<f32> = (0..n).map(|i| (std * random::normal(stream, i)) as f32).collect();
        Tensor::from_slice(&values).view(shape).to_device(self.device)
    }

    fn zeros(&self, shape: &[i64]) -> Tensor {
        Tensor::zeros(shape, (Kind::Float, self.device))
    }

    fn param(&self, name: String, role: Role, tensor: Tensor) -> Rc<Param> {
        Param::new(name, role, tensor.detach(), self.trainable)
    }
}
