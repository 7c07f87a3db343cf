//! `tunesmith score`: log-probabilities and perplexity; of a reward model its rewards, of a classifier its classes.

use crate::{cli::ScoreArgs, load, locate};
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
    if model.config.n_labels.is_some() {
        let rows = dataset.examples(&encoder, 0..args.rows.unwrap_or(u64::MAX));
        return by_label(&model, rows, args.json);
    }
    let mut out = std::io::stdout().lock();
    let (mut total, mut count, mut correct, mut n_rows) = (0.0, 0u64, 0u64, 0u64);
    let rows = dataset.examples(&encoder, 0..args.rows.unwrap_or(u64::MAX));
    // One line per example: a preference row has two of them.
    for example in rows
        .flat_map(|row| row.map_or_else(|e| vec![Err(e)], |row| row.into_iter().map(Ok).collect()))
    {
        let example = example?;
        let (logprobs, hits) = score(&model, &example.ids)?;
        // logprobs[i] belongs to token i + 1; the first token has none.
        let trained =
            || example.trained.iter().skip(1).zip(logprobs.iter().zip(&hits)).filter(|(t, _)| **t);
        let logprob: f64 = trained().map(|(_, (p, _))| f64::from(*p)).sum();
        let n_trained = trained().count() as u64;
        (total, count, n_rows) = (total + logprob, count + n_trained, n_rows + 1);
        correct += trained().filter(|(_, (_, hit))| **hit).count() as u64;
        if args.json {
            let first = (!example.ids.is_empty()).then_some(None);
            let token_logprobs: Vec<Option<f32>> =
                first.into_iter().chain(logprobs.iter().copied().map(Some)).collect();
            let line = json!({
                "row": example.row, "ids": example.ids, "trained": example.trained, "token_logprobs": token_logprobs,
                "logprob": logprob, "trained_tokens": n_trained,
            });
            writeln!(out, "{line}")?;
        }
    }
    if !args.json {
        writeln!(out, "rows            {n_rows}")?;
        writeln!(out, "trained tokens  {count}")?;
        if count == 0 {
            return Ok(ExitCode::SUCCESS); // nothing to average over
        }
        let n = count as f64;
        writeln!(out, "loss            {:.6}", -total / n)?;
        writeln!(out, "perplexity      {:.4}", (-total / n).exp())?;
        writeln!(out, "accuracy        {:.4}", correct as f64 / n)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The scores of each example's last token: a reward, or one number per class.
fn by_label(model: &Transformer, rows: Examples<'_>, json: bool) -> Result<ExitCode> {
    let mut out = std::io::stdout().lock();
    let labels = model.config.labels();
    let (mut n, mut sum, mut right, mut judged) = (0u64, 0.0f64, 0u64, 0u64);
    for row in rows {
        let row = row?;
        let mut rewards = Vec::new();
        for example in &row {
            let scores = label_scores(model, &example.ids)?;
            let best =
                (0..scores.len()).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).unwrap_or(0);
            let mut line = json!({"row": example.row, "ids": example.ids, "scores": scores});
            match labels.len() {
                1 => line["reward"] = json!(scores[0]),
                _ => line["label"] = json!(labels[best]),
            }
            if labels.len() > 1
                && let Some(label) = example.label
            {
                judged += 1;
                right += u64::from(label == best as f32);
            }
            if json {
                writeln!(out, "{line}")?;
            }
            (n, sum) = (n + 1, sum + f64::from(scores[0]));
            rewards.push(scores[0]);
        }
        if let ([chosen, rejected], 1) = (&rewards[..], labels.len()) {
            judged += 1;
            right += u64::from(chosen > rejected);
        }
    }
    if !json {
        writeln!(out, "examples        {n}")?;
        if labels.len() == 1 && n > 0 {
            writeln!(out, "mean reward     {:.6}", sum / n as f64)?;
        }
        if judged > 0 {
            writeln!(out, "accuracy        {:.4} of {judged}", right as f64 / judged as f64)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn label_scores(model: &Transformer, ids: &[u32]) -> Result<Vec<f32>> {
    let _no_grad = tch::no_grad_guard();
    let mut pass = Pass::default();
    let hidden = model.hidden(&Ragged::new(&[ids], model.device()), &mut pass)?;
    let last = hidden.narrow(0, ids.len() as i64 - 1, 1);
    let scores = model.label_scores(&last, &pass).context("a model with a head over labels")?;
    Ok(Vec::try_from(scores.squeeze_dim(0))?)
}

/// ln p of each token after the first, given those before it, and whether it was the most probable one.
fn score(model: &Transformer, ids: &[u32]) -> Result<(Vec<f32>, Vec<bool>)> {
    if ids.len() < 2 {
        return Ok((Vec::new(), Vec::new()));
    }
    let _no_grad = tch::no_grad_guard();
    let mut pass = Pass::default();
    let ragged = Ragged::new(&[&ids[..ids.len() - 1]], model.device());
    let hidden = model.hidden(&ragged, &mut pass)?;
    let labels: Vec<i64> = ids[1..].iter().map(|&id| i64::from(id)).collect();
    let labels = Tensor::from_slice(&labels).to_device(model.device());
    let scores = model.head().score(&hidden, &labels, &pass);
    Ok((Vec::try_from(scores.logprobs)?, Vec::try_from(scores.correct)?))
}
