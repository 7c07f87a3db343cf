//! Takes a file of conversations to batches of tokens, in a program that depends on `tunesmith-data` alone.
//!
//! ```text
//! cargo run --release -- conversations.parquet path/to/model
//! ```

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;
use tunesmith_data::tokens::{BatchSource, EncodeKnobs, Encoder, Template, Tokenizer};
use tunesmith_data::{Dataset, Ledger, RowKnobs, Stream, StreamKnobs};

type Error = Box<dyn std::error::Error + Send + Sync>;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().collect();
    let [_, file, model] = args.as_slice() else {
        return Err("usage: piecemeal FILE MODEL_DIRECTORY".into());
    };
    let start = Instant::now();
    let (first, n_batches, ledger) = batches(Path::new(file), Path::new(model), 2048)?;
    println!(
        "{n_batches} batches of 4 × 2048 tokens, the first after {:.2?}, all after {:.2?}",
        first - start,
        start.elapsed()
    );
    println!(
        "{:.2} % of them filled",
        ledger.tokens as f64 / (n_batches * 4 * 2048) as f64 * 100.0
    );
    println!("{ledger}");
    Ok(())
}

/// All batches of one shuffled pass over `file`: when the first came, how many there are, and what became of the rows.
fn batches(file: &Path, model: &Path, seq_len: usize) -> Result<(Instant, usize, Ledger), Error> {
    let dataset = Arc::new(Dataset::open(&[file], &RowKnobs::default())?);
    let tokenizer = Arc::new(Tokenizer::from_dir(model)?);
    let knobs = EncodeKnobs { max_len: Some(seq_len), ..Default::default() };
    let encoder = Arc::new(Encoder::new(tokenizer, Template::from_dir(model)?, knobs));

    let mut stream = Stream::new(dataset, encoder, StreamKnobs::new(seq_len, 4))?;
    let (mut first, mut n_batches) = (None, 0);
    while let Some(batch) = stream.next()? {
        assert_eq!(batch.tokens.len(), batch.labels.len());
        first.get_or_insert_with(Instant::now);
        n_batches += 1;
    }
    Ok((first.unwrap_or_else(Instant::now), n_batches, stream.ledger()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parquet_file_becomes_batches() {
        let golden =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crates/tunesmith-data/tests/golden");
        let (_, n_batches, ledger) =
            batches(&golden.join("chats.parquet"), &golden.join("tiny"), 256).unwrap();
        assert_eq!((ledger.rows, ledger.trained, ledger.unread), (48, 48, 0));
        assert!((6..=48).contains(&n_batches), "{n_batches} batches");
    }

    #[test]
    fn no_libtorch_is_in_the_tree() {
        let cargo = std::env::var("CARGO").unwrap_or("cargo".into());
        let tree = std::process::Command::new(cargo)
            .args(["tree", "--offline", "--prefix", "none", "--edges", "normal,build,dev"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output()
            .unwrap();
        let tree = String::from_utf8(tree.stdout).unwrap();
        assert!(tree.contains("tunesmith-tokens v"), "{tree}");
        for package in ["torch-sys v", "tch v", "tunesmith-hub v", "tunesmith-model v"] {
            assert!(!tree.contains(package), "{package} in\n{tree}");
        }
    }
}
