//! `tunesmith export`: a model or an adapter as one GGUF file, and the proof that it is the same.

use crate::{
    cli::ExportArgs,
    exit::{ConfigError, Exit, Failure},
    gguf, grow, load, locate,
};
use anyhow::{Context, Result};
use std::{io::Write, path::Path, process::ExitCode};
use tch::{Device, Kind, Tensor};
use tunesmith_model::{
    Config, LoadOptions, Pass, Ragged, Transformer,
    gguf::{GgufType, GgufValue, Metadata, export_gguf},
};
use tunesmith_tokens::{Template, Tokenizer, special_tokens};

/// Tokens on which the written file is compared with the model, at most.
const COMPARED: usize = 256;
/// What they spell.
const TEXT: &str = "Once there was a smith who made bells. Every morning she lit the fire, chose a piece of bronze and \
    listened to it: she struck it with a small hammer, and where the sound was dull she cast it again. One day a boy came \
    in and asked how she knew when a bell was done. \"You hear it,\" she said. \"At first there are many voices. You take \
    away a little here and a little there, and one after the other they agree.\" The boy tried. He took away too much, and \
    the bell cracked. She did not scold him; she melted the pieces, for bronze forgets quickly, and gave him a smaller \
    hammer. In the autumn the boy's first bell hung in the school of the next village, and it rang at eight, at twelve and \
    at three. It was not a great bell. But whoever passed by on the road knew what time it was, and some of them smiled.";
/// Nats by which a quantised file may differ from its model on average; beyond that, something is broken.
const MAX_DIVERGENCE: f64 = 1.0;

pub(crate) fn run(args: &ExportArgs) -> Result<ExitCode> {
    let located = locate::model(&args.model, None, args.source.unwrap_or_default(), true)?;
    let stored = load::stored_kind(&located.dir);
    let kind = match &args.dtype {
        None if stored == Kind::BFloat16 && args.adapter.is_none() => GgufType::BF16,
        None => GgufType::F32,
        Some(name) => GgufType::to_write(name).ok_or_else(|| {
            let problem = format!("expected f32, bf16, f16, q8_0 or q4_0, found `{name}`");
            ConfigError::new("--dtype", problem, "")
        })?,
    };
    if args.out.exists() && !args.force {
        let text = format!("{}: the file exists\nhelp: --force replaces it", args.out.display());
        return Err(Failure(Exit::CannotCreate, text).into());
    }
    let options = LoadOptions::frozen(stored, Device::Cpu);
    let adapter = args.adapter.as_deref().map(locate::adapter);
    let dir = match &adapter {
        Some(adapter) => grow::with_adapter(&located.dir, adapter)?,
        None => located.dir.clone(),
    };
    let mut model = Transformer::load(&dir, options)?;
    let (what, found) = match adapter {
        Some(adapter) => {
            let number = model.load_adapter(&adapter, false)?;
            model.export_adapter_gguf(number, &args.out, kind)?;
            let written = model.load_adapter_gguf(&args.out)?;
            let ids = compared_ids(&dir, &model.config)?;
            let [ours, theirs] = [number, written].map(|number| logits(&model, &ids, Some(number)));
            ("a LoRA adapter, for llama.cpp's --lora", difference(&ours?, &theirs?))
        }
        None => {
            let (extra, note) = about(&located.dir, &args.model, &model)?;
            note.iter().for_each(|note| tracing::warn!("{note}"));
            let tensors = model.params().iter();
            let tensors = tensors.map(|p| (p.name.clone(), p.tensor.shallow_clone()));
            export_gguf(&args.out, &model.config, tensors.collect(), kind, extra)?;
            ("a model", compare(&model, &args.out, options)?)
        }
    };
    refuse(&found, &args.out)?;
    let bytes = args.out.metadata().with_context(|| args.out.display().to_string())?.len();
    let mut out = std::io::stdout().lock();
    writeln!(out, "file        {}", args.out.display())?;
    writeln!(out, "holds       {what}")?;
    writeln!(out, "size        {}", tunesmith_report::format::bytes(bytes))?;
    writeln!(out, "stored as   {}", kind.name())?;
    writeln!(out, "logits      differ by at most {:.3e}", found.max_difference)?;
    writeln!(out, "divergence  {:.3e} nats per token", found.divergence)?;
    writeln!(
        out,
        "best token  the same for {:.1} % of {} tokens",
        100.0 * found.same_best,
        found.n_tokens
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Name, tokenizer and chat template as metadata; and what to say about them.
fn about(dir: &Path, name: &str, model: &Transformer) -> Result<(Metadata, Option<String>)> {
    let name = Path::new(name).file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let mut metadata = vec![("general.name".to_owned(), GgufValue::String(name))];
    let path = dir.join("tokenizer.json");
    if !path.is_file() {
        let note = "the model has no tokenizer.json, and neither has the file".to_owned();
        return Ok((metadata, Some(note)));
    }
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let known = special_tokens(dir)?;
    let special = [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")];
    let special: Vec<(&str, String)> = special
        .into_iter()
        .filter_map(|(gguf, ours)| Some((gguf, known.get(&format!("{ours}_token"))?.clone())))
        .collect();
    let (of_tokenizer, note) =
        gguf::vocabulary::to_metadata(&text, model.config.vocab_size as usize, &special)
            .with_context(|| path.display().to_string())?;
    metadata.extend(of_tokenizer);
    if let Some(template) = Template::from_dir(dir)? {
        metadata.push(("tokenizer.chat_template".to_owned(), template.source().into()));
    }
    Ok((metadata, note))
}

/// Text that a model has an opinion on; without a tokenizer, ids from all over the vocabulary.
fn compared_ids(dir: &Path, config: &Config) -> Result<Vec<u32>> {
    let max = COMPARED.min(config.max_position_embeddings as usize);
    if dir.join("tokenizer.json").is_file() {
        let mut ids = Tokenizer::from_dir(dir)?.encode_with_special(TEXT)?;
        ids.truncate(max);
        return Ok(ids);
    }
    // A Weyl sequence: no regularity that a shifted tensor could share.
    let id = |i: u64| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) % config.vocab_size as u64) as u32;
    Ok((1..=max as u64).map(id).collect())
}

/// How far what was written is from what it was made of.
struct Difference {
    /// Of two logits.
    max_difference: f64,
    /// Mean KL(model ‖ file), in nats.
    divergence: f64,
    /// Share of tokens with the same most probable successor.
    same_best: f64,
    n_tokens: i64,
}

/// Reads the file as a stranger would and compares its logits with the model's.
fn compare(model: &Transformer, file: &Path, options: LoadOptions) -> Result<Difference> {
    let folder = tempfile::tempdir().context("a folder for the comparison")?;
    let path = file.canonicalize().with_context(|| file.display().to_string())?;
    gguf::unpack(&path, folder.path())?;
    let written = Transformer::load(folder.path(), options)?;
    let ids = compared_ids(folder.path(), &written.config)?;
    Ok(difference(&logits(model, &ids, None)?, &logits(&written, &ids, None)?))
}

fn logits(model: &Transformer, ids: &[u32], adapter: Option<usize>) -> Result<Tensor> {
    let _no_grad = tch::no_grad_guard();
    let mut pass = Pass { adapter, ..Pass::default() };
    let hidden = model.hidden(&Ragged::new(&[ids], Device::Cpu), &mut pass)?;
    Ok(model.head().logits(&hidden, &pass))
}

fn difference(ours: &Tensor, theirs: &Tensor) -> Difference {
    let n_tokens = ours.size().first().copied().unwrap_or(0);
    let [p, q] = [ours, theirs].map(|logits| logits.log_softmax(-1, Kind::Float));
    let divergence = (p.exp() * (&p - &q)).sum(Kind::Float).double_value(&[]) / n_tokens as f64;
    let best = ours.argmax(-1, false).eq_tensor(&theirs.argmax(-1, false));
    Difference {
        max_difference: (ours - theirs).abs().max().double_value(&[]),
        divergence,
        same_best: best.to_kind(Kind::Float).mean(Kind::Float).double_value(&[]),
        n_tokens,
    }
}

fn refuse(found: &Difference, file: &Path) -> Result<()> {
    if found.divergence.is_finite() && found.divergence <= MAX_DIVERGENCE {
        return Ok(());
    }
    let text = format!(
        "{}: the file answers otherwise than the model: {:.3} nats per token, at most {MAX_DIVERGENCE} expected\n\
         help: export with a wider --dtype; if this one is f32 or bf16, please report it",
        file.display(),
        found.divergence
    );
    Err(Failure(Exit::Internal, text).into())
}
