//! `tunesmith generate`: answer prompts.

use crate::{
    adapters::{self, AdapterArg},
    cli::{GenerateArgs, PromptArgs},
    exit::{Exit, Failure},
    load,
};
use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;
use std::{io::Write, path::Path, process::ExitCode};
use tunesmith_sample::{Generation, Request, SamplerKnobs, generate_by};
use tunesmith_tokens::{Conversation, Encoder};

pub(crate) fn run(args: &GenerateArgs) -> Result<ExitCode> {
    let knobs = SamplerKnobs::from(&args.sampler);
    knobs.check().map_err(|problem| Failure(Exit::Usage, problem))?;
    let (model, encoder) = load::model(&args.model, None, None)?;
    load::refuse_classifier(&model)?;
    let loaded = &args.model.adapter;
    let requests = requests(&args.prompt, &encoder, loaded)?;
    let tokenizer = encoder.tokenizer().map(AsRef::as_ref);
    // One answer flows to the terminal as it comes; several are printed one after the other.
    let stream = !args.json && requests.len() == 1;
    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let mut say = |_, text: &str| {
        if stream {
            broken = broken.take().or(write!(out, "{text}").and_then(|()| out.flush()).err());
        }
    };
    let answers = generate_by(&model, tokenizer, &requests, &encoder.stop_ids(), &knobs, &mut say)?;
    broken.map_or(Ok(()), Err)?;
    for (answer, (adapter, _)) in answers.iter().zip(&requests) {
        match (args.json, tokenizer) {
            (true, _) if loaded.len() > 1 => {
                let by = adapters::name(loaded, *adapter);
                writeln!(out, "{}", serde_json::to_string(&By { answer, adapter: by })?)?;
            }
            (true, _) => writeln!(out, "{}", serde_json::to_string(answer)?)?,
            (false, Some(_)) if stream => writeln!(out)?,
            (false, Some(_)) => writeln!(out, "{}\n", answer.text)?,
            // Without a tokenizer there is no text, only ids.
            (false, None) => writeln!(
                out,
                "{}",
                answer.ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
            )?,
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// An answer, and the name of the adapter that gave it.
#[derive(Serialize)]
struct By<'a> {
    #[serde(flatten)]
    answer: &'a Generation,
    adapter: &'a str,
}

fn requests(args: &PromptArgs, encoder: &Encoder, loaded: &[AdapterArg]) -> Result<Vec<Request>> {
    let first = adapters::first(loaded);
    if let Some(ids) = &args.prompt_ids {
        return Ok(vec![(first, ids.clone())]);
    }
    let Some(tokenizer) = encoder.tokenizer() else {
        let text = "the model has no tokenizer.json\nhelp: give token ids with --prompt-ids";
        return Err(Failure(Exit::NoInput, text.into()).into());
    };
    if let Some(text) = &args.prompt {
        return Ok(vec![(first, tokenizer.encode_with_special(text)?)]);
    }
    let path = args.messages.as_deref().unwrap_or(Path::new(""));
    documents(path)?.into_iter().map(|document| document.request(encoder, loaded)).collect()
}

/// One conversation of a file.
struct Document {
    /// The file, and the line where there are several.
    place: String,
    value: Value,
}

/// One conversation as a JSON document, or one per line.
fn documents(path: &Path) -> Result<Vec<Document>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure(Exit::NoInput, format!("{}: {e}", path.display())))?;
    let place = path.display().to_string();
    if let Ok(value) = serde_json::from_str(&text) {
        return Ok(vec![Document { place, value }]);
    }
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let document = |(i, line): (usize, &str)| {
        let place = format!("{place}: line {}", i + 1);
        match serde_json::from_str(line) {
            Ok(value) => Ok(Document { place, value }),
            Err(e) => {
                // Each line is a document of its own, so that its first line is all there is.
                let problem = e.to_string().replace(" at line 1 column ", " at column ");
                Err(bad_document(&place, &problem).into())
            }
        }
    };
    lines.map(document).collect()
}

fn bad_document(place: &str, problem: &str) -> Failure {
    let expected = "expected a list of {\"role\", \"content\"}, an object with such a list as `messages`, or one of these per line";
    Failure(Exit::BadData, format!("{place}: {problem}\nhelp: {expected}"))
}

impl Document {
    /// Its tokens, and what shall answer: the adapter that it names, or the first one; `null` and `base` are none.
    fn request(self, encoder: &Encoder, loaded: &[AdapterArg]) -> Result<Request> {
        let Self { place, value } = self;
        let adapter = match value.get("adapter") {
            None => adapters::first(loaded),
            Some(Value::Null) => None,
            Some(Value::String(name)) => adapters::choose(loaded, name).map_err(|problem| {
                Failure(Exit::BadData, format!("{place}: /adapter: {problem}"))
            })?,
            Some(other) => {
                let text = format!(
                    "{place}: /adapter: expected the name of an adapter or null, found {other}\nhelp: there are {}",
                    adapters::names(loaded)
                );
                return Err(Failure(Exit::BadData, text).into());
            }
        };
        let conversation = match value {
            list @ Value::Array(_) => serde_json::from_value(list)
                .map(|messages| Conversation { messages, ..Conversation::default() }),
            object => serde_json::from_value(object),
        };
        let conversation: Conversation =
            conversation.map_err(|e| bad_document(&place, &e.to_string()))?;
        Ok((adapter, encoder.prompt(&conversation).with_context(|| place)?))
    }
}
