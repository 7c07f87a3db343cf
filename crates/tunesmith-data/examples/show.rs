//! Prints rows of a data file as text, as messages, and as tokens with the trained ones marked. Needs no libtorch.
//!
//! ```text
//! cargo run -p tunesmith-data --example show -- data/ultrachat_sample.jsonl [model directory] [row]
//! ```
//!
//! Without a model directory, the small model that ships with tunesmith lends its tokenizer and template.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an example prints")]

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tunesmith_data::tokens::{
    EncodeKnobs, Encoder, Example, Sample, Template, Tokenizer, special_tokens,
};
use tunesmith_data::{Dataset, RowKnobs};

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let Err(error) = show(&args) {
        eprintln!("error: {error}");
        std::process::exit(65);
    }
}

fn show(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let path = args.first().ok_or(
        "no data file\nhelp: cargo run -p tunesmith-data --example show -- FILE [MODEL] [ROW]",
    )?;
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data/tunesmith-tiny");
    let model = args.get(1).map_or(tiny, PathBuf::from);
    let row: u64 = args.get(2).map_or(Ok(0), |row| row.parse())?;

    let dataset = Dataset::open(&[path], &RowKnobs::default())?;
    let tokenizer = Arc::new(Tokenizer::from_dir(&model)?);
    let template = match Template::from_dir(&model)? {
        Some(template) => template,
        None => Template::builtin("chat", special_tokens(&model)?)?,
    };
    let encoder = Encoder::new(tokenizer.clone(), Some(template), EncodeKnobs::default());
    if row >= dataset.len() {
        return Err(format!("row {row}: the data has {} rows", dataset.len()).into());
    }

    println!("{} rows of shape {}; row {row}:\n", dataset.len(), dataset.shape().name());
    println!("{}\n", serde_json::to_string_pretty(&dataset.row(row)?)?);
    match dataset.sample(row)? {
        Sample::Chat(conversation) => {
            for message in conversation.messages {
                println!(
                    "{:>9} │ {}",
                    message.role,
                    message.content.replace('\n', "\n          │ ")
                );
            }
        }
        other => println!("{other:?}"),
    }
    for example in dataset.row_examples(row, &encoder)? {
        let (n, n_trained) = (example.len(), example.n_trained());
        println!("\n{n} tokens, {n_trained} of them trained (marked):\n");
        println!("{}", marked(&example, &tokenizer)?);
    }
    Ok(())
}

/// Tokens with borders between them. Trained ones are underlined on a terminal, and in brackets elsewhere.
fn marked(example: &Example, tokenizer: &Tokenizer) -> Result<String, Box<dyn std::error::Error>> {
    let (on, off) =
        if std::io::stdout().is_terminal() { ("\x1b[4;32m", "\x1b[0m") } else { ("[", "]") };
    let mut text = String::new();
    let mut start = 0;
    for end in 1..=example.len() {
        let piece = tokenizer.decode(&example.ids[start..end], false)?;
        // a character may be spread over up to four tokens: they are shown as one
        if piece.ends_with('\u{fffd}') && end - start < 4 && end < example.len() {
            continue;
        }
        text += &if example.trained[start] { format!("{on}{piece}{off}") } else { piece };
        text.push('·');
        start = end;
    }
    Ok(text)
}
