//! `tunesmith merge`: a model and its adapter as one plain model.

use crate::{
    cli::{MergeArgs, ModelArgs},
    exit::{Exit, Failure},
    load,
};
use anyhow::Result;
use std::process::ExitCode;
use tch::{Kind, Tensor};
use tunesmith_model::{Pass, Ragged, Storage, Transformer, adapter_storage};
use tunesmith_train::commit_dir;

/// Tokens whose logits are compared before and after.
const N_PROBES: i64 = 64;
/// How far merging may move a logit, as a share of the largest: bf16's rounding stays below, NF4's does not.
const BOUND: f64 = 0.05;

pub(crate) fn run(args: &MergeArgs) -> Result<ExitCode> {
    let adapter = match &args.model.adapter[..] {
        [adapter] => adapter,
        [] => {
            let text = "no adapter given\nhelp: --adapter takes the directory of an adapter, or of the run that trained it";
            return Err(Failure(Exit::Usage, text.into()).into());
        }
        several => {
            let text = format!(
                "expected one --adapter, found {}: each was trained on the base alone, and none on another\n\
                 help: merge one of them",
                several.len()
            );
            return Err(Failure(Exit::Usage, text).into());
        }
    };
    if args.out.exists() {
        let text = format!("{}: is there already\nhelp: choose another --out", args.out.display());
        return Err(Failure(Exit::CannotCreate, text).into());
    }
    let learned_on = adapter_storage(&adapter.dir)?;
    let (mut model, _) = load::model(&args.model, None, None)?;
    let origin = load::model_dir(&args.model)?;
    let into = load::storage(&args.model)?;
    // What the adapter said where it was trained; that may be another base than the one it is merged into.
    let on = match into == learned_on {
        true => probe(&model)?,
        false => probe(&load::model(&learned(&args.model, learned_on), None, None)?.0)?,
    };
    model.merge_adapter();
    let moved = relative(&probe(&model)?, &on);
    let dtype = if model.kind() == Kind::Float { "fp32" } else { "bf16" };
    let what = format!(
        "merging into {} weights in {dtype} moves the logits by {moved:.1e} of the largest",
        match into {
            Storage::Dense => "the model's",
            Storage::Nf4 => "the dequantised NF4",
            Storage::Int8 => "the dequantised int8",
        }
    );
    if moved > BOUND && !args.force {
        let text = format!(
            "{what}; more than {BOUND} is not what was trained\n\
             help: leave --storage out to merge into the weights that the adapter was trained on, or give --force"
        );
        return Err(Failure(Exit::BadData, text).into());
    }
    let params = model.params().iter();
    let needed: usize =
        params.map(|p| p.tensor.numel() * p.tensor.kind().elt_size_in_bytes()).sum();
    commit_dir(&args.out, needed as u64, |dir| Ok(model.save(dir, &origin)?))?;
    tracing::info!("{}: {what}", args.out.display());
    Ok(ExitCode::SUCCESS)
}

/// The same model on the base that its adapter was trained on.
fn learned(args: &ModelArgs, storage: Storage) -> ModelArgs {
    ModelArgs { storage: Some(storage.name().into()), ..args.clone() }
}

/// Logits of tokens spread over the vocabulary; of a classifier, its scores.
fn probe(model: &Transformer) -> Result<Tensor> {
    let vocab_size = model.config.vocab_size;
    let n = N_PROBES.min(model.config.max_position_embeddings);
    let ids: Vec<u32> = (0..n).map(|i| (i * 7919 % vocab_size) as u32).collect();
    let mut pass = Pass::default();
    let _no_grad = tch::no_grad_guard();
    let hidden = model.hidden(&Ragged::new(&[&ids], model.device()), &mut pass)?;
    let scores = model.label_scores(&hidden, &pass);
    Ok(scores.unwrap_or_else(|| model.head().logits(&hidden, &pass)))
}

/// The largest difference over the largest value.
fn relative(a: &Tensor, b: &Tensor) -> f64 {
    ((a - b).abs().max() / b.abs().max()).double_value(&[])
}
