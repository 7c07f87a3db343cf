//! `tunesmith chat`: several turns with a model, by its own template.

use crate::{
    adapters,
    cli::ChatArgs,
    exit::{Exit, Failure},
    load,
};
use anyhow::Result;
use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
};
use tunesmith_sample::{GenerateError, SamplerKnobs, generate_by};
use tunesmith_tokens::{Conversation, Message};

pub(crate) fn run(args: &ChatArgs) -> Result<ExitCode> {
    let knobs = SamplerKnobs::from(&args.sampler);
    knobs.check().map_err(|problem| Failure(Exit::Usage, problem))?;
    let (model, encoder) = load::model(&args.model, None, None)?;
    load::refuse_classifier(&model)?;
    let Some(tokenizer) = encoder.tokenizer() else {
        return Err(Failure(
            Exit::NoInput,
            "the model has no tokenizer.json, so nobody can talk with it".into(),
        )
        .into());
    };
    let stop_ids = encoder.stop_ids();
    let system = args.system.iter().map(|text| Message::new("system", text.clone()));
    let mut conversation = Conversation { messages: system.collect(), ..Conversation::default() };
    let n_system = conversation.messages.len();
    let interactive = std::io::stdin().is_terminal();
    let loaded = &args.model.adapter;
    let mut adapter = adapters::first(loaded);
    if interactive {
        let switch = if loaded.is_empty() { "" } else { ", /adapter NAME switches" };
        tracing::info!("Ctrl-D or /exit ends, /reset starts anew{switch}");
    }
    let mut out = std::io::stdout();
    loop {
        if interactive {
            write!(out, "> ")?;
            out.flush()?;
        }
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 {
            if interactive {
                writeln!(out)?; // the shell's prompt gets a line of its own
            }
            return Ok(ExitCode::SUCCESS);
        }
        match line.trim() {
            "" => continue,
            "/exit" => return Ok(ExitCode::SUCCESS),
            "/reset" => {
                conversation.messages.truncate(n_system);
                continue;
            }
            command if command.split_whitespace().next() == Some("/adapter") => {
                let wanted = command["/adapter".len()..].trim();
                if wanted.is_empty() {
                    let names = adapters::names(loaded);
                    let used = adapters::name(loaded, adapter);
                    tracing::info!("`{used}` answers; there are {names}");
                    continue;
                }
                match adapters::choose(loaded, wanted) {
                    Ok(chosen) => {
                        adapter = chosen;
                        tracing::info!("`{wanted}` answers from here on");
                    }
                    Err(problem) => tracing::warn!("{problem}"),
                }
                continue;
            }
            _ => {}
        }
        conversation.messages.push(Message::new("user", line.trim_end_matches(['\r', '\n'])));
        let prompt = encoder.prompt(&conversation)?;
        let mut broken = None;
        let mut say = |_, text: &str| {
            broken = broken.take().or(write!(out, "{text}").and_then(|()| out.flush()).err());
        };
        let request = [(adapter, prompt)];
        let answers =
            match generate_by(&model, Some(tokenizer), &request, &stop_ids, &knobs, &mut say) {
                Err(GenerateError::PromptTooLong { n_tokens, max, .. }) => {
                    tracing::warn!(
                        "{n_tokens} tokens leave no room in the model's {max}; /reset starts anew"
                    );
                    conversation.messages.pop();
                    continue;
                }
                answers => answers?,
            };
        broken.map_or(Ok(()), Err)?;
        writeln!(out)?;
        conversation
            .messages
            .extend(answers.into_iter().map(|answer| Message::new("assistant", answer.text)));
    }
}
