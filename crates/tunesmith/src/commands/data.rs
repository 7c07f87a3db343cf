//! `tunesmith data`: rows as text and as tokens, with the trained ones marked; checks, statistics and prepared tokens.

mod survey;

pub(crate) use survey::{check, clean, prepare, stats};

use crate::{
    cli::{InputArgs, ShowArgs},
    load::{self, Encoding},
    locate,
    recipe::Recipe,
    report,
};
use anyhow::Result;
use serde_json::json;
use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    sync::Arc,
};
use tunesmith_data::Dataset;
use tunesmith_report::html::Document;
use tunesmith_tokens::{Batch, Encoder, Example};

pub(crate) fn show(args: &ShowArgs) -> Result<ExitCode> {
    let Opened { dataset, encoder, .. } = Opened::new(&args.input, args.seq_len)?;
    for examples in dataset.examples(&encoder, 0..args.rows) {
        let examples = examples?;
        if !args.json {
            print_documents(&report::documents(&Batch::new(&examples), &encoder))?;
            continue;
        }
        for Example { row, ids, trained, label, .. } in &examples {
            let text = match encoder.tokenizer() {
                Some(tokenizer) => json!(tokenizer.decode(ids, false)?),
                None => json!(null),
            };
            let mut line = json!({"row": row, "ids": ids, "trained": trained, "text": text});
            if let Some(label) = label {
                line["label"] = json!(label);
            }
            writeln!(std::io::stdout().lock(), "{line}")?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A data set with the tokens of a model.
struct Opened {
    dataset: Dataset,
    /// The evaluation split, where its files are at hand.
    eval: Option<Dataset>,
    encoder: Arc<Encoder>,
    name: String,
    model_name: String,
}

impl Opened {
    fn new(input: &InputArgs, seq_len: Option<usize>) -> Result<Self> {
        let source = input.source.unwrap_or_default();
        let data = locate::dataset(&input.dataset, source, false)?;
        data.say_fallback();
        let name = input.model.clone().unwrap_or_else(|| Recipe::default().model.name);
        let model = locate::model(&name, None, source, input.model.is_some())?;
        if let Some(why) = &model.fallback {
            tracing::warn!("{why}: the model that ships with tunesmith stands in");
        }
        let fallback = data.config.template.as_deref();
        let Encoding { encoder, note } =
            load::encoder(&model.dir, fallback, load::up_to(seq_len), None)?;
        note.iter().for_each(|note| tracing::info!("{note}"));
        let dataset = data.open()?;
        let eval = match data.eval.is_empty() {
            true => None,
            false => Some(Dataset::mix(&data.eval)?),
        };
        Ok(Self { dataset, eval, encoder, name: data.name, model_name: name })
    }
}

/// Documents on stdout: trained tokens green on a terminal, in ⟦…⟧ elsewhere.
pub(crate) fn print_documents(documents: &[Document]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    let [on, off] = if out.is_terminal() { ["\x1b[32m", "\x1b[0m"] } else { ["⟦", "⟧"] };
    for document in documents {
        let trained = document.pieces.iter().filter(|p| p.trained).count();
        writeln!(
            out,
            "── row {} · {} tokens · {trained} trained",
            document.row,
            document.pieces.len()
        )?;
        let mut marked = false;
        for piece in &document.pieces {
            if piece.trained != marked {
                write!(out, "{}", if piece.trained { on } else { off })?;
                marked = piece.trained;
            }
            write!(out, "{}", piece.text)?;
        }
        writeln!(out, "{}\n", if marked { off } else { "" })?;
    }
    Ok(())
}
