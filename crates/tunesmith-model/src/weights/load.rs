//! From a model directory to a [`Transformer`], with every tensor accounted for.

use super::checkpoint::Checkpoint;
use crate::{
    Config, ModelError, Role, Transformer,
    linear::Weight,
    param::{Init, Param, Place, Spec},
    quant::{Quantised, Storage},
    random,
};
use std::{
    collections::{BTreeSet, HashMap},
    path::Path,
};
use tch::{Device, Kind, Tensor};

/// The head over labels.
const SCORE: &str = "score.weight";

/// How weights come into memory.
#[derive(Debug, Clone, Copy)]
pub struct LoadOptions {
    /// Dtype of weights and stream: `Kind::Float` or `Kind::BFloat16`.
    pub kind: Kind,
    /// Where they live.
    pub device: Device,
    /// What will be trained.
    pub trainable: Trainable,
    /// How the matrices of linear layers lie in memory. They are quantised one by one while they are loaded, and cannot
    /// be trained then.
    pub storage: Storage,
}

/// Which parameters take part in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trainable {
    /// None: the model answers, or is the base of an adapter.
    Nothing,
    /// All.
    Everything,
    /// Those of these roles; the rest is frozen.
    Roles(&'static [Role]),
}

impl LoadOptions {
    /// A model that is not trained itself.
    pub const fn frozen(kind: Kind, device: Device) -> Self {
        Self { kind, device, trainable: Trainable::Nothing, storage: Storage::Dense }
    }

    /// A model whose every weight is trained.
    pub const fn trained(kind: Kind, device: Device) -> Self {
        Self { kind, device, trainable: Trainable::Everything, storage: Storage::Dense }
    }
}

impl Trainable {
    fn includes(self, role: Role) -> bool {
        match self {
            Self::Nothing => false,
            Self::Everything => true,
            Self::Roles(roles) => roles.contains(&role),
        }
    }
}

impl Transformer {
    /// Loads a Hugging Face model directory.
    ///
    /// # Errors
    /// All missing, extra or misshapen tensors together; files that are missing, truncated or not safetensors; what
    /// [`Config::from_dir`] refuses.
    pub fn load(dir: &Path, options: LoadOptions) -> Result<Self, ModelError> {
        Self::load_as(Config::from_dir(dir)?, dir, options, 0)
    }

    /// Loads a directory as the model that `config` describes: the directory's own, or the same with another head. A head
    /// that the directory does not have is fresh, a pure function of `seed` and its name.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_as(
        config: Config,
        dir: &Path,
        options: LoadOptions,
        seed: u64,
    ) -> Result<Self, ModelError> {
        let checkpoint = Checkpoint::open(dir, &config)?;
        let names = match_up(&config, &checkpoint)?;
        let mut failure = None;
        let mut model = Self::build(config, options.device, &mut |spec: Spec| {
            let Some(stored) = names.get(&spec.name) else {
                return supplied(spec.name.clone(), &spec, options, || fresh(&spec, seed));
            };
            supplied(stored.clone(), &spec, options, || {
                let tensor = checkpoint.tensor(stored).unwrap_or_else(|error| {
                    failure.get_or_insert(error);
                    Tensor::zeros(&spec.shape[..], (Kind::Float, Device::Cpu))
                });
                if spec.shape == tensor.size() { tensor } else { grown(&tensor, &spec) }
            })
        });
        model.dir = Some(dir.into());
        model.storage = options.storage;
        failure.map_or(Ok(model), Err)
    }

    /// How well the first quantised matrix stands for the one on file: its name, and the largest error of its weights as a
    /// share of what rounding to its storage can do (at most 1). `None` where all matrices are dense, or fresh.
    ///
    /// # Errors
    /// What reading the file says.
    pub fn quantisation_error(&self) -> Result<Option<(String, f64)>, ModelError> {
        let quantised = self.linears().find_map(|linear| match &linear.weight {
            Weight::Quantised { codes, .. } => Some((linear, codes)),
            Weight::Dense(_) => None,
        });
        let (Some((linear, codes)), Some(dir)) = (quantised, &self.dir) else { return Ok(None) };
        let checkpoint = Checkpoint::open(dir, &self.config)?;
        let name = format!("{}.weight", linear.name);
        let Some(stored) = match_up(&self.config, &checkpoint)?.remove(&name) else {
            return Ok(None);
        };
        // Rounded to the stream's dtype first, as it was when it was quantised.
        let w = checkpoint.tensor(&stored)?.to_kind(self.kind()).to_device(self.device());
        Ok(Some((name, codes.worst_error(&w))))
    }

    /// A model with fresh weights, each a pure function of `seed` and its name.
    pub fn fresh(config: Config, seed: u64, options: LoadOptions) -> Self {
        Self::build(config, options.device, &mut |spec: Spec| {
            supplied(spec.name.clone(), &spec, options, || fresh(&spec, seed))
        })
    }

    /// A model for measurements, with weights drawn by libtorch where they will lie: in seconds, not minutes, but not a
    /// function of a seed.
    pub fn drawn(config: Config, options: LoadOptions) -> Self {
        let to = (options.kind, options.device);
        Self::build(config, options.device, &mut |spec: Spec| {
            let shape = &spec.shape[..];
            let draw = || match spec.init {
                Init::Zeros => Tensor::zeros(shape, to),
                Init::Ones => Tensor::ones(shape, to),
                Init::Normal { std } => Tensor::empty(shape, to).normal_(0.0, std),
            };
            supplied(spec.name.clone(), &spec, options, || tch::no_grad(draw))
        })
    }

    /// What a model of this configuration is made of.
    pub(crate) fn specs(config: &Config) -> Vec<Spec> {
        let mut specs = Vec::new();
        Self::build(config.clone(), Device::Cpu, &mut |spec: Spec| {
            let nothing = || Tensor::zeros([0], (Kind::Float, Device::Cpu));
            let options = LoadOptions::frozen(Kind::Float, Device::Cpu);
            let weight = supplied(spec.name.clone(), &spec, options, nothing);
            specs.push(spec);
            weight
        });
        specs
    }
}

/// The weight that `spec` asks for, under `name` and out of the tensor that `read` gives.
fn supplied(
    name: String,
    spec: &Spec,
    options: LoadOptions,
    read: impl FnOnce() -> Tensor,
) -> Weight {
    let quantised = (spec.role == Role::Projection)
        .then(|| Quantised::empty(&spec.shape, options.storage, options.device));
    let tensor = || read().to_kind(options.kind).to_device(options.device);
    if let Some(mut codes) = quantised.flatten() {
        codes.fill(&tensor());
        return Weight::Quantised { codes, kind: options.kind };
    }
    let trainable = options.trainable.includes(spec.role);
    Weight::Dense(Place::new(Param::new(name, spec.role, tensor(), trainable)))
}

/// The stored name of every tensor that `config` needs, or everything that does not fit.
fn match_up(
    config: &Config,
    checkpoint: &Checkpoint,
) -> Result<HashMap<String, String>, ModelError> {
    let mut extra: BTreeSet<&str> = checkpoint.names();
    let mut names = HashMap::new();
    let (mut missing, mut mismatches) = (Vec::new(), Vec::new());
    let specs = Transformer::specs(config);
    if config.fresh_head {
        // The checkpoint's own head, over the vocabulary or over other labels.
        extra.retain(|&name| name != format!("{}.weight", config.names.head) && name != SCORE);
    }
    for spec in &specs {
        let Spec { name, shape, .. } = spec;
        if config.fresh_head && name == SCORE {
            continue;
        }
        // A checkpoint saved from the bare base class lacks the prefix ("wte.weight" for "transformer.wte.weight").
        let bare = name.strip_prefix(config.names.base).unwrap_or(name);
        let Some(stored) = [name.as_str(), bare].into_iter().find(|stored| extra.remove(stored))
        else {
            missing.push(name.clone());
            continue;
        };
        match checkpoint.shape(stored) {
            Some(found) if found != *shape && found != stored_shape(config, spec) => {
                mismatches.push((stored.to_owned(), shape.clone(), found))
            }
            _ => {}
        }
        names.insert(name.clone(), stored.to_owned());
    }
    extra.retain(|name| !config.names.ignored.iter().any(|ending| name.ends_with(ending)));
    if config.tie_word_embeddings {
        drop_tied_head(config, checkpoint, &mut extra);
    }
    let dir = checkpoint.dir.clone();
    if !missing.is_empty() {
        return Err(ModelError::MissingTensors { dir, names: missing });
    }
    if !mismatches.is_empty() {
        return Err(ModelError::Misshapen { dir, mismatches });
    }
    if !extra.is_empty() {
        let names = extra.into_iter().map(str::to_owned).collect();
        return Err(ModelError::ExtraTensors { dir, names });
    }
    Ok(names)
}

/// The shape in the checkpoint: embedding and head may have fewer rows than the vocabulary that has grown since.
fn stored_shape(config: &Config, spec: &Spec) -> Vec<i64> {
    let of_vocab = matches!(spec.role, Role::Embedding | Role::Head) && spec.name != SCORE;
    match (config.stored_vocab_size, &spec.shape[..]) {
        (Some(stored), [_, rest @ ..]) if of_vocab => [&[stored], rest].concat(),
        _ => spec.shape.clone(),
    }
}

/// Scale of the spread of new rows, as transformers 5 has it.
const SPREAD: f64 = 1e-9;

/// `stored` (V, C) with new rows behind it, for tokens that were added (Hewitt 2021, "Initializing new word embeddings for
/// pretrained language models"). transformers draws them from N(μ, εΣ), μ and Σ the mean and covariance of the rows and
/// ε = 1e-9. Here each is μ + √ε (e − μ) for a row e drawn from the table, which has the same mean and covariance, and is
/// a pure function of the table, the parameter's name and the row's number.
fn grown(stored: &Tensor, spec: &Spec) -> Tensor {
    let n_stored = stored.size().first().copied().unwrap_or(0);
    let n = spec.shape.first().copied().unwrap_or(0) - n_stored;
    let stream = random::stream(0, &spec.name);
    let drawn = random::uniform(stream, &[n], Device::Cpu).to_kind(Kind::Double) * n_stored;
    let table = stored.to_kind(Kind::Float);
    let mean = table.mean_dim([0i64].as_slice(), true, Kind::Float); // (1, C)
    let rows = table.index_select(0, &drawn.to_kind(Kind::Int64)); // (n, C)
    let new = &mean + (rows - &mean) * SPREAD.sqrt();
    Tensor::cat(&[stored, &new.to_kind(stored.kind())], 0)
}

/// A tied head may be stored a second time, if it is the same.
fn drop_tied_head<'a>(
    config: &Config,
    checkpoint: &'a Checkpoint,
    extra: &mut std::collections::BTreeSet<&'a str>,
) {
    let (head, embed) =
        (format!("{}.weight", config.names.head), format!("{}.weight", config.names.embed));
    let head_bytes = checkpoint.bytes(&head);
    if head_bytes.is_some() && head_bytes == checkpoint.bytes(&embed) {
        extra.remove(head.as_str());
    }
}

fn fresh(spec: &Spec, seed: u64) -> Tensor {
    let options = (Kind::Float, Device::Cpu);
    match spec.init {
        Init::Zeros => Tensor::zeros(&spec.shape[..], options),
        Init::Ones => Tensor::ones(&spec.shape[..], options),
        Init::Normal { std } => {
            let n = spec.shape.iter().product::<i64>() as usize;
            let stream = random::stream(seed, &spec.name);
            let values: Vec<f32> =
                (0..n).map(|i| (std * random::normal(stream, i as u64)) as f32).collect();
            Tensor::from_slice(&values).view(&spec.shape[..])
        }
    }
}
