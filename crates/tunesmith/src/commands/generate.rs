//! `tunesmith generate`: answer prompts.

use crate::{
    cli::{GenerateArgs, PromptArgs},
    exit::{Exit, Failure},
    load,
};
use anyhow::Result;
use serde_json::Value;
use std::{io::Write, path::Path, process::ExitCode};
use tunesmith_sample::{SamplerKnobs, generate};
use tunesmith_tokens::{Conversation, Encoder};

pub(crate) fn run(args: &GenerateArgs) -> Result<ExitCode> {
    let knobs = SamplerKnobs::from(&args.sampler);
    knobs.check().map_err(|problem| Failure(Exit::Usage, problem))?;
    let (model, encoder) = load::model(&args.model, None, None)?;
    load::refuse_classifier(&model)?;
    let prompts = prompts(&args.prompt, &encoder)?;
    let tokenizer = encoder.tokenizer().map(AsRef::as_ref);
    // One answer flows to the terminal as it comes; several are printed one after the other.
    let stream = !args.json && prompts.len() == 1;
    let mut out = std::io::stdout().lock();
    let mut broken = None;
    let mut say = |_, text: &str| {
        if stream {
            broken = broken.take().or(write!(out, "{text}").and_then(|()| out.flush()).err());
        }
    };
    let answers = generate(&model, tokenizer, &prompts, &encoder.stop_ids(), &knobs, &mut say)?;
    broken.map_or(Ok(()), Err)?;
    for answer in &answers {
        match (args.json, tokenizer) {
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

fn prompts(args: &PromptArgs, encoder: &Encoder) -> Result<Vec<Vec<u32>>> {
    if let Some(ids) = &args.prompt_ids {
        return Ok(vec![ids.clone()]);
    }
    let Some(tokenizer) = encoder.tokenizer() else {
        let text = "the model has no tokenizer.json\nhelp: give token ids with --prompt-ids";
        return Err(Failure(Exit::NoInput, text.into()).into());
    };
    if let Some(text) = &args.prompt {
        return Ok(vec![tokenizer.encode_with_special(text)?]);
    }
    let path = args.messages.as_deref().unwrap_or(Path::new(""));
    conversations(path)?.iter().map(|conversation| Ok(encoder.prompt(conversation)?)).collect()
}

/// One conversation as a JSON document, or one per line.
fn conversations(path: &Path) -> Result<Vec<Conversation>> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure(Exit::NoInput, format!("{}: {e}", path.display())))?;
    let bad = |e: serde_json::Error| {
        let expected = "expected a list of {\"role\", \"content\"}, an object with such a list as `messages`, or one of these per line";
        Failure(Exit::BadData, format!("{}: {e}\nhelp: {expected}", path.display()))
    };
    let documents: Vec<Value> = match serde_json::from_str::<Value>(&text) {
        Ok(whole) => vec![whole],
        Err(_) => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(bad)?
        }
    };
    let conversation = |document: Value| match document {
        list @ Value::Array(_) => serde_json::from_value(list)
            .map(|messages| Conversation { messages, ..Conversation::default() }),
        object => serde_json::from_value(object),
    };
    let conversations: Result<Vec<_>, _> = documents.into_iter().map(conversation).collect();
    Ok(conversations.map_err(bad)?)
}
