//! What the tests of this crate share: the committed data files and their tiny model.
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use tunesmith_data::tokens::{
    Batch, BatchSource, Cursor, EncodeKnobs, Encoder, Template, Tokenizer,
};
use tunesmith_data::{Dataset, RowKnobs, Stream, StreamKnobs};

pub(crate) fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

pub(crate) fn open(path: impl AsRef<Path>) -> Arc<Dataset> {
    Arc::new(Dataset::open(&[path], &RowKnobs::default()).unwrap())
}

pub(crate) fn encoder(max_len: usize) -> Arc<Encoder> {
    encoder_of(&golden("tiny"), max_len)
}

pub(crate) fn encoder_of(model: &Path, max_len: usize) -> Arc<Encoder> {
    let tokenizer = Arc::new(Tokenizer::from_dir(model).unwrap());
    let knobs = EncodeKnobs { max_len: Some(max_len), ..Default::default() };
    Arc::new(Encoder::new(tokenizer, Template::from_dir(model).unwrap(), knobs))
}

/// A stream over the committed conversations in windows of 10 rows.
pub(crate) fn stream(file: &str, knobs: &StreamKnobs) -> Stream {
    Stream::new(open(golden(file)), encoder(knobs.seq_len), knobs.clone()).unwrap()
}

pub(crate) fn knobs() -> StreamKnobs {
    StreamKnobs { window: 10, seed: 5, epochs: Some(2), ..StreamKnobs::new(256, 2) }
}

/// All that is left of a stream, each batch with the cursor before it.
pub(crate) fn rest(stream: &mut Stream) -> Vec<(Cursor, Batch)> {
    let mut batches = Vec::new();
    loop {
        let cursor = stream.cursor();
        match stream.next().unwrap() {
            Some(batch) => batches.push((cursor, batch)),
            None => return batches,
        }
    }
}

/// A file in a folder of its own, which lives as long as the guard.
pub(crate) fn file(name: &str, content: impl AsRef<[u8]>) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    std::fs::write(&path, content).unwrap();
    (folder, path)
}
