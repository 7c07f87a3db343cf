//! Real conversations with a real tokenizer, where they are at hand: set TUNESMITH_PARTS to their folder.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]
#![allow(clippy::print_stderr, reason = "a skipped test says so")]

mod common;

use common::{encoder_of, open, rest};
use std::path::PathBuf;
use tunesmith_data::tokens::{Batch, BatchSource};
use tunesmith_data::{Stream, StreamKnobs};

fn parts() -> Option<PathBuf> {
    let parts =
        std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty()).map(PathBuf::from);
    if parts.is_none() {
        eprintln!("skipped: TUNESMITH_PARTS is not set");
    }
    parts
}

fn stream(parts: &std::path::Path, file: &str, threads: usize) -> Stream {
    let encoder = encoder_of(&parts.join("smollm2-135m-instruct"), 1024);
    let knobs = StreamKnobs { threads: Some(threads), window: 128, ..StreamKnobs::new(1024, 4) };
    Stream::new(open(parts.join("ultrachat").join(file)), encoder, knobs).unwrap()
}

#[test]
fn ultrachat_gives_the_same_batches_from_parquet_and_jsonl_on_any_number_of_threads() {
    let Some(parts) = parts() else { return };
    let batches = rest(&mut stream(&parts, "test_sft.jsonl", 2));
    assert!(batches.len() > 50);
    assert_eq!(batches, rest(&mut stream(&parts, "test_sft-00000-of-00001.parquet", 3)));
    for (cursor, batch) in batches.iter().skip(7).step_by(13) {
        let mut sought = stream(&parts, "test_sft.jsonl", 7);
        sought.seek(*cursor).unwrap();
        assert_eq!(sought.next().unwrap().as_ref(), Some(batch));
    }
    let mut whole = stream(&parts, "test_sft.jsonl", 2);
    let n_docs: usize =
        std::iter::from_fn(|| whole.next().unwrap()).map(|batch: Batch| batch.docs.len()).sum();
    let ledger = whole.ledger();
    assert_eq!(ledger.trained + ledger.truncated, n_docs as u64);
    assert_eq!(ledger.trained + ledger.truncated + ledger.n_dropped(), ledger.rows);
}
