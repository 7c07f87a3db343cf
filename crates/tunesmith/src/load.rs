//! The parts that several commands build the same way: encoder, model, device.

use crate::{
    cli::{ModelArgs, SamplerArgs},
    exit::ConfigError,
    locate,
    recipe::{DeviceName, Dtype},
};
use anyhow::{Context, Result};
use std::{path::Path, sync::Arc};
use tch::{Device, Kind};
use tunesmith_model::{LoadOptions, Transformer};
use tunesmith_sample::SamplerKnobs;
use tunesmith_tokens::{EncodeKnobs, Encoder, Template, Tokenizer, special_tokens};

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

/// A model for inference, with its encoder; `fallback` is the template of a model that carries none.
pub(crate) fn model(
    args: &ModelArgs,
    fallback: Option<&str>,
    max_len: Option<usize>,
) -> Result<(Transformer, Arc<Encoder>)> {
    let located = locate::model(&args.model, None, args.source.unwrap_or_default(), true)?;
    let device = device(parse(
        "--device",
        &args.device,
        &[("cpu", DeviceName::Cpu), ("cuda", DeviceName::Cuda)],
    )?)?;
    let kind = match &args.dtype {
        Some(dtype) => {
            parse("--dtype", dtype, &[("fp32", Dtype::Fp32), ("bf16", Dtype::Bf16)])?.kind()
        }
        None => stored_kind(&located.dir),
    };
    let model = Transformer::load(&located.dir, LoadOptions::frozen(kind, device))?;
    let Encoding { encoder, note } = encoder(&located.dir, fallback, up_to(max_len), None)?;
    note.iter().for_each(|note| tracing::info!("{note}"));
    Ok((model, encoder))
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
