//! Writes what `data/` ships: the sample conversations, the prompts, and the tiny model's tokenizer and configuration;
//! and, where asked, the corpus that the tiny model is pre-trained on.
//!
//! ```text
//! cargo run -p tunesmith-data --example embedded [-- --corpus FILE] [--data DIR]
//! ```
//!
//! Every file is a pure function of the tables in `world/` and the seed in `dice.rs`. What a fresh run writes is
//! byte-equal to what is committed; a test holds that. The weights come from `tunesmith finetune --from-scratch`,
//! see `data/README.md`.

mod chat;
mod corpus;
mod dice;
mod model;
mod outputs;
mod stories;
mod world;

use std::error::Error;
use std::path::{Path, PathBuf};

fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data");
    let mut corpus = None;
    let mut args = std::env::args().skip(1);
    while let Some(flag) = args.next() {
        let value = args
            .next()
            .map(PathBuf::from)
            .ok_or_else(|| format!("`{flag}` needs a path after it"))?;
        match flag.as_str() {
            "--data" => data = value,
            "--corpus" => corpus = Some(value),
            _ => return Err(format!("unknown flag `{flag}`, expected --data or --corpus").into()),
        }
    }
    let world = world::World::new();
    for (name, text) in outputs::data_files(&world)? {
        write(&data.join(name), &text)?;
    }
    if let Some(path) = corpus {
        write(&path, &outputs::corpus(&world))?;
        // Beside the corpus: many more held-out questions than `data/` needs, with what a right answer contains.
        write(&path.with_file_name("questions.jsonl"), &outputs::questions(&world, 1_000))?;
    }
    Ok(())
}

fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(path, text)
}
