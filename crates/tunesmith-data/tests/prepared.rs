//! Prepared data sets: the same batches from the file as from the rows, and a new name for everything that matters.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{encoder, file, golden, knobs, rest};
use std::path::Path;
use std::sync::Arc;
use tunesmith_data::tokens::{EncodeKnobs, TrainOn};
use tunesmith_data::{Dataset, OnBadRow, Prepared, RowKnobs, Shape, Stream, StreamKnobs};

fn read(path: &Path) -> Dataset {
    Dataset::open(&[path], &RowKnobs::default()).unwrap()
}

#[test]
fn batches_are_those_of_the_rows() {
    let folder = tempfile::tempdir().unwrap();
    let bad = "{\"messages\": [{\"role\": \"user\", \"content\": null}]}\n";
    let (_rows, path) =
        file("rows.jsonl", std::fs::read_to_string(golden("chats.jsonl")).unwrap() + bad);
    let encoder = encoder(256);
    let written = read(&path).prepare(&encoder, "tiny", folder.path()).unwrap();
    assert_eq!((written.malformed, written.existed), (1, false));
    assert_eq!(written.bytes, std::fs::metadata(&written.path).unwrap().len());
    assert!(read(&path).prepare(&encoder, "tiny", folder.path()).unwrap().existed);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);

    let knobs = StreamKnobs { on_bad_row: OnBadRow::Skip, ..knobs() };
    let stream = |dataset| Stream::new(Arc::new(dataset), encoder.clone(), knobs.clone()).unwrap();
    let prepared = || Prepared::open(&written.path, encoder.knobs()).unwrap();
    let mut plain = stream(read(&path));
    let mut mapped = stream(read(&path).with_prepared(prepared()).unwrap());
    assert_eq!(rest(&mut mapped), rest(&mut plain));
    assert_eq!(mapped.ledger(), plain.ledger());
    assert_eq!(mapped.ledger().dropped["null content"], 1);

    let other = read(&golden("chats.jsonl")).with_prepared(prepared()).unwrap_err().to_string();
    assert!(other.contains("expected 48 rows, found 49\nhelp: "), "{other}");
}

#[test]
fn the_name_depends_on_all_that_matters() {
    let (_folder, path) = file("rows.jsonl", "{\"text\": \"a\", \"body\": \"b\"}\n");
    let name = |dataset: &Dataset, model: &str, knobs| dataset.prepared_name(model, knobs).unwrap();
    let knobs = EncodeKnobs::default();
    let base = name(&read(&path), "m", knobs);
    assert_eq!(name(&read(&path), "m", knobs), base);
    let mut names = vec![base];
    names.push(name(&read(&path), "n", knobs));
    names.push(name(&read(&path), "m", EncodeKnobs { max_len: Some(3), ..knobs }));
    names.push(name(&read(&path), "m", EncodeKnobs { train_on: TrainOn::Everything, ..knobs }));
    let columns = [("text".to_owned(), "body".to_owned())].into();
    let body = RowKnobs { shape: Some(Shape::Text), columns, ..Default::default() };
    names.push(name(&Dataset::open(&[&path], &body).unwrap(), "m", knobs));
    std::fs::write(&path, "{\"text\": \"c\", \"body\": \"b\"}\n").unwrap();
    names.push(name(&read(&path), "m", knobs));
    let n = names.len();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), n);
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = encoder(256);
    let written = read(&golden("chats.jsonl")).prepare(&encoder, "tiny", folder.path()).unwrap();
    let sound = std::fs::read(&written.path).unwrap();
    let open = |bytes: &[u8]| {
        let path = folder.path().join("damaged");
        std::fs::write(&path, bytes).unwrap();
        Prepared::open(&path, encoder.knobs())
    };
    for cut in [0, 7, 31, 32, sound.len() / 2, sound.len() - 1] {
        assert!(open(&sound[..cut]).is_err(), "{cut} bytes");
    }
    let mut other = sound.clone();
    other[8] = 9; // another version
    assert!(open(&other).is_err());
    let mut other = sound.clone();
    other[32] = 200; // row 0 claims two hundred examples
    let dataset = read(&golden("chats.jsonl")).with_prepared(open(&other).unwrap()).unwrap();
    let error = dataset.row_examples(0, &encoder).unwrap_err().to_string();
    assert!(error.contains("row 0 is damaged\nhelp: delete the file"), "{error}");
    assert!(dataset.row_examples(1, &encoder).is_ok());
}
