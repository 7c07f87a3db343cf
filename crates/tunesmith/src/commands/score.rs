//! `tunesmith score`: log-probabilities and perplexity; of a reward model its rewards, of a classifier its classes.

use crate::{
    adapters::{self, AdapterArg},
    cli::ScoreArgs,
    load, locate,
};
use anyhow::{Context, Result};
use serde_json::json;
use std::{io::Write, process::ExitCode};
use tch::Tensor;
use tunesmith_data::{Dataset, Examples};
use tunesmith_model::{Pass, Ragged, Transformer};

pub(crate) fn run(args: &ScoreArgs) -> Result<ExitCode> {
    let data = locate::dataset(&args.data, args.model.source.unwrap_or_default(), false)?;
    data.say_fallback();
    let (model, encoder) = load::model(&args.model, data.config.template.as_deref(), args.seq_len)?;
    let dataset = Dataset::mix(&data.train)?;
    let rows = dataset.examples(&encoder, 0..args.rows.unwrap_or(u64::MAX));
    let by = answering(&args.model.adapter);
    match model.config.n_labels {
        Some(_) => by_label(&model, &by, rows, args.json),
        None => by_token(&model, &by, rows, args.json),
    }
}

/// Who scores: an adapter of the model, or the base, by number and name.
type By<'a> = (Option<usize>, &'a str);

/// Every adapter that was given; without any, the base.
fn answering(loaded: &[AdapterArg]) -> Vec<By<'_>> {
    match loaded {
        [] => vec![(None, adapters::name(loaded, None))],
        _ => (0..loaded.len()).map(|i| (Some(i), adapters::name(loaded, Some(i)))).collect(),
    }
}

/// Writes a line of a table: a heading and a value for each that scores.
fn put(out: &mut impl Write, what: &str, values: impl IntoIterator<Item = String>) -> Result<()> {
    let values: Vec<String> = values.into_iter().map(|value| format!("{value:<16}")).collect();
    Ok(writeln!(out, "{}", format!("{what:<16}{}", values.concat()).trim_end())?)
}

/// Who has which column, where there are several.
fn put_names(out: &mut impl Write, by: &[By]) -> Result<()> {
    match by {
        [_] => Ok(()),
        _ => put(out, "adapter", by.iter().map(|(_, name)| (*name).to_owned())),
    }
}

/// The log-probabilities of each example's tokens.
fn by_token(model: &Transformer, by: &[By], rows: Examples<'_>, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let (mut count, mut n_rows) = (0u64, 0u64);
    let (mut totals, mut corrects) = (vec![0.0; by.len()], vec![0u64; by.len()]);
    // One line per example: a preference row has two of them.
    for example in rows
        .flat_map(|row| row.map_or_else(|e| vec![Err(e)], |row| row.into_iter().map(Ok).collect()))
    {
        let example = example?;
        n_rows += 1;
        count += example.trained.iter().skip(1).filter(|trained| **trained).count() as u64;
        for (i, &(adapter, name)) in by.iter().enumerate() {
            let (logprobs, hits) = score(model, adapter, &example.ids)?;
            // logprobs[i] belongs to token i + 1; the first token has none.
            let trained = || {
                let tokens = example.trained.iter().skip(1);
                tokens.zip(logprobs.iter().zip(&hits)).filter(|(trained, _)| **trained)
            };
            let logprob: f64 = trained().map(|(_, (p, _))| f64::from(*p)).sum();
            totals[i] += logprob;
            corrects[i] += trained().filter(|(_, (_, hit))| **hit).count() as u64;
            if json {
                let first = (!example.ids.is_empty()).then_some(None);
                let token_logprobs: Vec<Option<f32>> =
                    first.into_iter().chain(logprobs.iter().copied().map(Some)).collect();
                let mut line = json!({
                    "row": example.row, "ids": example.ids, "trained": example.trained, "token_logprobs": token_logprobs,
                    "logprob": logprob, "trained_tokens": trained().count(),
                });
                if by.len() > 1 {
                    line["adapter"] = json!(name);
                }
                writeln!(out, "{line}")?;
            }
        }
    }
    if json {
        return Ok(ExitCode::SUCCESS);
    }
    put_names(&mut out, by)?;
    put(&mut out, "rows", [n_rows.to_string()])?;
    put(&mut out, "trained tokens", [count.to_string()])?;
    if count == 0 {
        return Ok(ExitCode::SUCCESS); // nothing to average over
    }
    let losses: Vec<f64> = totals.iter().map(|total| -total / count as f64).collect();
    put(&mut out, "loss", losses.iter().map(|loss| format!("{loss:.6}")))?;
    put(&mut out, "perplexity", losses.iter().map(|loss| format!("{:.4}", loss.exp())))?;
    put(&mut out, "accuracy", corrects.iter().map(|n| format!("{:.4}", *n as f64 / count as f64)))?;
    Ok(ExitCode::SUCCESS)
}

/// What the scores of one adapter add up to.
#[derive(Clone, Default)]
struct Judgement {
    sum: f64,
    right: u64,
}

/// The scores of each example's last token: a reward, or one number per class.
fn by_label(model: &Transformer, by: &[By], rows: Examples<'_>, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let labels = model.config.labels();
    let (mut n, mut judged) = (0u64, 0u64);
    let mut judgements = vec![Judgement::default(); by.len()];
    for row in rows {
        let row = row?;
        let are_pairs = row.len() == 2 && labels.len() == 1;
        let labelled = row.iter().filter(|example| labels.len() > 1 && example.label.is_some());
        n += row.len() as u64;
        judged += labelled.count() as u64 + u64::from(are_pairs);
        for (judgement, &(adapter, name)) in judgements.iter_mut().zip(by) {
            let mut rewards = Vec::new();
            for example in &row {
                let scores = label_scores(model, adapter, &example.ids)?;
                let best =
                    (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
                let mut line = json!({"row": example.row, "ids": example.ids, "scores": scores});
                match labels.len() {
                    1 => line["reward"] = json!(scores[0]),
                    _ => line["label"] = json!(labels[best]),
                }
                if by.len() > 1 {
                    line["adapter"] = json!(name);
                }
                let hit = labels.len() > 1 && example.label == Some(best as f32);
                judgement.right += u64::from(hit);
                judgement.sum += f64::from(scores[0]);
                if json {
                    writeln!(out, "{line}")?;
                }
                rewards.push(scores[0]);
            }
            judgement.right += u64::from(are_pairs && rewards[0] > rewards[1]);
        }
    }
    if json {
        return Ok(ExitCode::SUCCESS);
    }
    put_names(&mut out, by)?;
    put(&mut out, "examples", [n.to_string()])?;
    if labels.len() == 1 && n > 0 {
        let mean = |judgement: &Judgement| format!("{:.6}", judgement.sum / n as f64);
        put(&mut out, "mean reward", judgements.iter().map(mean))?;
    }
    if judged > 0 {
        let share = |j: &Judgement| format!("{:.4} of {judged}", j.right as f64 / judged as f64);
        put(&mut out, "accuracy", judgements.iter().map(share))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn label_scores(model: &Transformer, adapter: Option<usize>, ids: &[u32]) -> Result<Vec<f32>> {
    let _no_grad = tch::no_grad_guard();
    let mut pass = Pass { adapter, ..Pass::default() };
    let hidden = model.hidden(&Ragged::new(&[ids], model.device()), &mut pass)?;
    let last = hidden.narrow(0, ids.len() as i64 - 1, 1);
    let scores = model.label_scores(&last, &pass).context("a model with a head over labels")?;
    Ok(Vec::try_from(scores.squeeze_dim(0))?)
}

/// ln p of each token after the first, given those before it, and whether it was the most probable one.
fn score(
    model: &Transformer,
    adapter: Option<usize>,
    ids: &[u32],
) -> Result<(Vec<f32>, Vec<bool>)> {
    if ids.len() < 2 {
        return Ok((Vec::new(), Vec::new()));
    }
    let _no_grad = tch::no_grad_guard();
    let mut pass = Pass { adapter, ..Pass::default() };
    let ragged = Ragged::new(&[&ids[..ids.len() - 1]], model.device());
    let hidden = model.hidden(&ragged, &mut pass)?;
    let labels: Vec<i64> = ids[1..].iter().map(|&id| i64::from(id)).collect();
    let labels = Tensor::from_slice(&labels).to_device(model.device());
    let scores = model.head().score(&hidden, &labels, &pass);
    Ok((Vec::try_from(scores.logprobs)?, Vec::try_from(scores.correct)?))
}
