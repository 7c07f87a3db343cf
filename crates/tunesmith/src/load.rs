//! The parts that several commands build the same way: encoder, model, device.

use crate::{
    adapters,
    cli::{ModelArgs, SamplerArgs},
    exit::{ConfigError, Exit, Failure},
    locate,
    recipe::{DeviceName, Dtype, Recipe},
};
use anyhow::{Context, Result};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};
use tch::{Device, Kind};
use tunesmith_model::{Config, LoadOptions, LoraConfig, Storage, Transformer};
use tunesmith_sample::SamplerKnobs;
use tunesmith_tokens::{Certificate, EncodeKnobs, Encoder, Template, Tokenizer, special_tokens};
use tunesmith_train::TrainError;

/// An encoder, and what there is to say about its template.
pub(crate) struct Encoding {
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) note: Option<String>,
}

/// The encoder of the model in `dir`: its tokenizer and its template, or the built-in `fallback` template.
///
/// A model without tokenizer.json takes pre-tokenised rows only. `clock`: the present that templates see, in Unix
/// seconds; else the real one.
pub(crate) fn encoder(
    dir: &Path,
    fallback: Option<&str>,
    knobs: EncodeKnobs,
    clock: Option<i64>,
) -> Result<Encoding> {
    if !dir.join("tokenizer.json").exists() {
        let note =
            "the model has no tokenizer.json: rows must be token ids, and there is no text to show";
        return Ok(Encoding {
            encoder: Arc::new(Encoder::without_tokenizer(knobs)),
            note: Some(note.into()),
        });
    }
    let tokenizer = Tokenizer::from_dir(dir)?;
    let own = Template::from_dir(dir).with_context(|| dir.display().to_string())?;
    let fallback = fallback.unwrap_or("chat");
    let note = own.is_none().then(|| {
        format!("the model carries no chat template: the built-in `{fallback}` stands in")
    });
    let template = match own {
        Some(template) => template,
        None => Template::builtin(fallback, special_tokens(dir)?)?,
    };
    let template = match clock {
        Some(seconds) => template.at(seconds),
        None => template,
    };
    Ok(Encoding {
        encoder: Arc::new(Encoder::new(Arc::new(tokenizer), Some(template), knobs)),
        note,
    })
}

/// What decides how an [`encoder`] of these arguments makes tokens, as a short name: the files it reads, the built-in
/// template, and the clock where a template tells the date.
pub(crate) fn encoder_name(
    dir: &Path,
    fallback: Option<&str>,
    clock: Option<i64>,
) -> Result<String> {
    const FILES: [&str; 7] = [
        "tokenizer.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "chat_template.jinja",
        "chat_template.json",
        "config.json",
        "generation_config.json",
    ];
    let mut files: Vec<_> = FILES.iter().map(|name| dir.join(name)).collect();
    files.retain(|file| file.is_file());
    let tells_date = Template::from_dir(dir)?.is_some_and(|template| template.tells_date());
    let clock = clock.filter(|_| tells_date);
    Ok(format!("{} {} {clock:?}", tunesmith_data::fingerprint(&files)?, fallback.unwrap_or("chat")))
}

/// The knobs of a command that has no recipe.
pub(crate) fn up_to(max_len: Option<usize>) -> EncodeKnobs {
    EncodeKnobs { max_len, ..EncodeKnobs::default() }
}

/// Where tensors go.
pub(crate) fn device(name: DeviceName) -> Result<Device> {
    match name {
        DeviceName::Cpu => {
            tunesmith_kernels::use_fast_fp32_matmul()?;
            Ok(Device::Cpu)
        }
        DeviceName::Cuda if tunesmith_kernels::cuda::load()? => Ok(Device::Cuda(0)),
        DeviceName::Cuda => Err(ConfigError::new(
            "--device cuda",
            "no CUDA device answers",
            "`tunesmith doctor` says what is missing; `--device cpu` runs here",
        )
        .into()),
    }
}

impl Dtype {
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Fp32 => Kind::Float,
            Self::Bf16 => Kind::BFloat16,
        }
    }
}

/// A model for inference with its adapters, numbered as they were given, and its encoder; `fallback` is the template of
/// a model that carries none.
pub(crate) fn model(
    args: &ModelArgs,
    fallback: Option<&str>,
    max_len: Option<usize>,
) -> Result<(Transformer, Arc<Encoder>)> {
    let dir = model_dir(args)?;
    let device = device(parse(
        "--device",
        &args.device,
        &[("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda)],
    )?)?;
    let kind = match &args.dtype {
        Some(dtype) => {
            parse("--dtype", dtype, &[("fp32", Dtype::Fp32), ("bf16", Dtype::Bf16)])?.kind()
        }
        None => stored_kind(&dir),
    };
    let mut config = Config::from_dir(&dir)?;
    if let Some(labels) = adapters::labels(&args.adapter)? {
        config = config.into_classifier(&labels);
    }
    let storage = storage(args)?;
    let options = LoadOptions { storage, ..LoadOptions::frozen(kind, device) };
    let mut model = Transformer::load_as(config, &dir, options, 0)?;
    for adapter in &args.adapter {
        model.load_adapter(&adapter.dir, false)?;
    }
    let Encoding { encoder, note } = encoder(&dir, fallback, up_to(max_len), None)?;
    note.iter().for_each(|note| tracing::info!("{note}"));
    if args.adapter.is_empty() {
        check_certificate(&dir, &encoder)?;
    }
    for adapter in &args.adapter {
        check_certificate(&adapter.dir, &encoder)?;
    }
    Ok((model, encoder))
}

/// The directory of the model that is asked for, with the tokens that its adapters bring.
pub(crate) fn model_dir(args: &ModelArgs) -> Result<PathBuf> {
    adapters::check(&args.adapter)?;
    let located = locate::model(&args.model, None, args.source.unwrap_or_default(), true)?;
    adapters::grown(&located.dir, &args.adapter)
}

/// What a trained model directory says about the prompts it was trained for.
const CERTIFICATE: &str = "certificate.json";

/// Puts the certificate beside a trained model.
pub(crate) fn write_certificate(dir: &Path, certificate: &Certificate) -> Result<(), TrainError> {
    let path = dir.join(CERTIFICATE);
    let text = serde_json::to_string_pretty(certificate)
        .map_err(|e| TrainError::Io { path: path.clone(), source: e.into() })?;
    std::fs::write(&path, text + "\n").map_err(|source| TrainError::Io { path, source })
}

/// Says where the model in `dir` was trained for other prompts than `encoder` makes; one without a certificate passes.
fn check_certificate(dir: &Path, encoder: &Encoder) -> Result<()> {
    let path = dir.join(CERTIFICATE);
    let Ok(text) = std::fs::read_to_string(&path) else { return Ok(()) };
    let certificate: Certificate =
        serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    if let Err(difference) = certificate.fits(encoder) {
        tracing::warn!("{}: {difference}", path.display());
    }
    Ok(())
}

/// How the matrices of a model lie in memory: as asked, or as its adapters knew them.
pub(crate) fn storage(args: &ModelArgs) -> Result<Storage> {
    match &args.storage {
        Some(storage) => Ok(parse("--storage", storage, &Storage::NAMES)?),
        None => adapters::storage(&args.adapter),
    }
}

/// A model with a head over labels has no words.
pub(crate) fn refuse_classifier(model: &Transformer) -> Result<()> {
    if model.config.n_labels.is_none() {
        return Ok(());
    }
    let text = format!(
        "the model is a {}: it scores texts and writes none\nhelp: `tunesmith score` prints its scores",
        model.config.architecture
    );
    Err(Failure(Exit::BadConfig, text).into())
}

/// The model that a run trains, with its adapter.
pub(crate) fn for_training(
    recipe: &Recipe,
    config: &Config,
    model_dir: &Path,
    device: Device,
) -> Result<Transformer> {
    let kind = recipe.model.dtype.kind();
    let options = match recipe.adapter.is_used() {
        true => LoadOptions { storage: recipe.model.storage, ..LoadOptions::frozen(kind, device) },
        false => LoadOptions::trained(kind, device),
    };
    let mut model = match recipe.model.from_scratch {
        true => Transformer::fresh(config.clone(), recipe.seed, options),
        false => Transformer::load_as(config.clone(), model_dir, options, recipe.seed)?,
    };
    match (recipe.adapter.is_used(), recipe.adapter.from.as_str()) {
        (false, _) => {}
        (true, "") => {
            model.add_adapter(&fresh_lora(recipe, config, model_dir)?, recipe.seed, true)?;
        }
        (true, from) => _ = model.load_adapter(&locate::adapter(Path::new(from)), true)?,
    }
    Ok(model)
}

/// The settings of a run's new adapter: the recipe's, and what the model and its tokenizer add to them.
fn fresh_lora(recipe: &Recipe, config: &Config, model_dir: &Path) -> Result<LoraConfig> {
    let mut lora = recipe.adapter.lora.clone();
    if config.n_labels.is_some() && lora.modules_to_save.is_empty() {
        lora.modules_to_save.push("score".into()); // as PEFT does: a new head must be learned, too
    }
    let (embed, head) = (last_of(config.names.embed), last_of(config.names.head));
    let new = &recipe.model.new_tokens;
    let texts = &recipe.adapter.trainable_tokens;
    lora.trainable_token_indices.extend(&ids_of("adapter.trainable_tokens", texts, model_dir)?);
    let is_saved = |name: &str| lora.modules_to_save.iter().any(|saved| last_of(saved) == name);
    if !new.is_empty() && (is_saved(embed) || is_saved(head)) {
        // Who trains one table whole wants their rows in both.
        let head = config.n_labels.is_none().then_some(head);
        for name in [Some(embed), head].into_iter().flatten() {
            if !lora.modules_to_save.iter().any(|saved| last_of(saved) == name) {
                lora.modules_to_save.push(name.to_owned());
            }
        }
    } else if !new.is_empty() {
        // Rows of the base stand still, and theirs must be learned: to be read, and to be said.
        let ids = ids_of("model.new_tokens", new, model_dir)?;
        match config.tie_word_embeddings || config.n_labels.is_some() {
            true => lora.trainable_token_indices.extend(&ids),
            false => lora.trainable_token_indices.extend_both(&ids, embed, head),
        }
    }
    Ok(lora)
}

/// The last part of a module's name.
fn last_of(module: &str) -> &str {
    module.rsplit('.').next().unwrap_or(module)
}

/// The ids of tokens by their texts.
fn ids_of(key: &str, texts: &[String], model_dir: &Path) -> Result<Vec<i64>> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let tokenizer = Tokenizer::from_dir(model_dir)?;
    let id = |text: &String| {
        let unknown = || {
            let problem = format!("{text:?} is no token of {}", model_dir.display());
            ConfigError::new(key, problem, "model.new_tokens adds tokens that a model lacks")
        };
        Ok(i64::from(tokenizer.token_to_id(text).ok_or_else(unknown)?))
    };
    texts.iter().map(id).collect()
}

/// The dtype that config.json names; fp32 where it names none that tunesmith computes in.
pub(crate) fn stored_kind(dir: &Path) -> Kind {
    let config = std::fs::read_to_string(dir.join("config.json")).unwrap_or_default();
    let config: serde_json::Value = serde_json::from_str(&config).unwrap_or_default();
    let dtype =
        config.get("dtype").or(config.get("torch_dtype")).and_then(serde_json::Value::as_str);
    if dtype == Some("bfloat16") { Kind::BFloat16 } else { Kind::Float }
}

fn parse<T: Copy>(flag: &str, text: &str, values: &[(&str, T)]) -> Result<T, ConfigError> {
    values.iter().find(|(name, _)| *name == text).map(|(_, value)| *value).ok_or_else(|| {
        let names: Vec<_> = values.iter().map(|(name, _)| *name).collect();
        ConfigError::new(flag, format!("expected {}, found `{text}`", names.join(" or ")), "")
    })
}

impl From<&SamplerArgs> for SamplerKnobs {
    fn from(args: &SamplerArgs) -> Self {
        Self {
            temperature: args.temperature,
            top_k: args.top_k,
            top_p: args.top_p,
            min_p: args.min_p,
            repetition_penalty: args.repetition_penalty,
            max_new_tokens: args.max_new_tokens,
            stop: args.stop.clone(),
            seed: args.seed,
        }
    }
}
