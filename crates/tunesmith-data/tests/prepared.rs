//! Prepared data sets: the same batches from the file as from the rows, and a new name for everything that matters.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{encoder, file, golden, knobs, rest};
use std::path::Path;
use std::sync::Arc;
use tunesmith_data::tokens::{
    BatchSource, EncodeKnobs, Encoder, Template, TrainOn, special_tokens,
};
use tunesmith_data::{
    DataError, Dataset, ErrorKind, OnBadRow, Prepared, PreparedKey, RowKnobs, Shape, Stream,
    StreamKnobs,
};

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
    let key = read(&path).prepared_key("tiny", encoder.knobs()).unwrap();
    let prepared = || Prepared::open(&written.path, &key).unwrap();
    let mut plain = stream(read(&path));
    let mut mapped = stream(read(&path).with_prepared(prepared()).unwrap());
    assert_eq!(rest(&mut mapped), rest(&mut plain));
    assert_eq!(mapped.ledger(), plain.ledger());
    assert_eq!(mapped.ledger().dropped["null content"], 1);

    let other = read(&golden("chats.jsonl")).with_prepared(prepared()).unwrap_err().to_string();
    assert!(other.contains("expected 48 rows, found 49\nhelp: "), "{other}");
}

#[test]
fn the_key_depends_on_all_that_matters() {
    let (folder, path) = file("rows.jsonl", "{\"text\": \"a\", \"body\": \"b\"}\n");
    let knobs = EncodeKnobs { max_len: Some(256), ..EncodeKnobs::default() };
    let key = |dataset: &Dataset, model: &str, knobs| dataset.prepared_key(model, knobs).unwrap();
    let base = key(&read(&path), "m", knobs);
    assert_eq!(key(&read(&path), "m", knobs), base);
    let encoder = encoder(256);
    assert_eq!(encoder.knobs(), knobs);
    let written = read(&path).prepare(&encoder, "m", folder.path()).unwrap();
    assert!(written.path.ends_with(base.file_name()));
    assert_eq!(
        read(&path).with_prepared(Prepared::open(&written.path, &base).unwrap()).unwrap().len(),
        1
    );

    let columns = [("text".to_owned(), "body".to_owned())].into();
    let body = RowKnobs { shape: Some(Shape::Text), columns, ..Default::default() };
    let mut others: Vec<(&str, PreparedKey)> = vec![
        ("tokenizer or template", key(&read(&path), "n", knobs)),
        (
            "options of the encoder",
            key(&read(&path), "m", EncodeKnobs { max_len: Some(3), ..knobs }),
        ),
        (
            "options of the encoder",
            key(&read(&path), "m", EncodeKnobs { train_on: TrainOn::Everything, ..knobs }),
        ),
        ("rules for reading rows", key(&Dataset::open(&[&path], &body).unwrap(), "m", knobs)),
    ];
    std::fs::write(&path, "{\"text\": \"c\", \"body\": \"b\"}\n").unwrap(); // as long as it was
    others.push(("data files", key(&read(&path), "m", knobs)));
    for (what, other) in others {
        assert_ne!(other.file_name(), base.file_name(), "{what}");
        let error = Prepared::open(&written.path, &other).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        let expected = format!(
            "{}: expected the tokens of this run, found those of other {what}\n\
             help: prepare the data set again: `tunesmith data prepare`",
            written.path.display()
        );
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn tokens_that_are_made_otherwise_now_are_refused_and_written_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = golden("chats.jsonl");
    let now = encoder(256);
    let own = now.template().unwrap().source();
    let of = |source: &str| {
        let template = Template::parse(source, special_tokens(golden("tiny")).unwrap()).unwrap();
        Encoder::new(now.tokenizer().unwrap().clone(), Some(template), now.knobs())
    };
    // what an earlier version made under the same name: all rows otherwise, or one of the 16 that are looked at
    let all = of(&format!("!{own}"));
    let rows = std::fs::read_to_string(&path).unwrap();
    let sixth: serde_json::Value = serde_json::from_str(rows.lines().nth(6).unwrap()).unwrap();
    let text = &sixth["messages"][0]["content"];
    let one = of(&format!("{{% if messages[0].content == {text} %}}!{{% endif %}}{own}"));
    let key = read(&path).prepared_key("tiny", now.knobs()).unwrap();
    for (row, earlier) in [(0, all), (6, one)] {
        let written = read(&path).prepare(&earlier, "tiny", folder.path()).unwrap();
        assert!(!written.existed, "row {row}");
        let open =
            || read(&path).with_prepared(Prepared::open(&written.path, &key).unwrap()).unwrap();
        assert!(open().row_examples(5, &earlier).is_ok());
        let error = open().row_examples(5, &now).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadData);
        assert_eq!(
            error.to_string(),
            format!(
                "{}: row {row}: expected the tokens that this version of tunesmith makes, found those of another\n\
                 help: delete the file, or write it again: `tunesmith data prepare`",
                written.path.display()
            )
        );
        assert!(!read(&path).prepare(&now, "tiny", folder.path()).unwrap().existed);
        assert!(open().row_examples(5, &now).is_ok());
    }
}

#[test]
fn damaged_files_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = encoder(256);
    let written = read(&golden("chats.jsonl")).prepare(&encoder, "tiny", folder.path()).unwrap();
    let key = read(&golden("chats.jsonl")).prepared_key("tiny", encoder.knobs()).unwrap();
    let sound = std::fs::read(&written.path).unwrap();
    let path = folder.path().join("damaged");
    let open = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        Prepared::open(&path, &key)
    };
    for cut in 0..sound.len() {
        if cut < 400 || cut + 2000 > sound.len() || cut.is_multiple_of(997) {
            assert!(open(&sound[..cut]).is_err(), "{cut} bytes");
        }
    }
    let longer = [&sound[..], &[0]].concat();
    assert!(open(&longer).is_err());
    // Wherever a bit flips, nothing of the file is trained: what is no row is found at once, a row when it is read.
    let read_all = |prepared: Prepared| -> Result<(), DataError> {
        let dataset = Arc::new(read(&golden("chats.jsonl")).with_prepared(prepared)?);
        let mut stream = Stream::new(dataset, encoder.clone(), knobs()).unwrap();
        while stream.next().map_err(|error| *error.downcast::<DataError>().unwrap())?.is_some() {}
        Ok(())
    };
    read_all(open(&sound).unwrap()).unwrap();
    let step = sound.len() / 300;
    for at in (0..sound.len()).step_by(step) {
        let mut other = sound.clone();
        other[at] ^= 1 << (at % 8);
        let error = open(&other).and_then(read_all).expect_err(&format!("byte {at}"));
        let text = error.to_string();
        assert!(text.starts_with(path.to_str().unwrap()) && text.contains("\nhelp: "), "{text}");
    }
    let mut other = sound.clone();
    other[1000] ^= 4;
    let dataset = read(&golden("chats.jsonl")).with_prepared(open(&other).unwrap()).unwrap();
    let error = dataset.row_examples(0, &encoder).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "{}: bytes 168 to {} do not have their checksum, and row 0 stands there\n\
             help: delete the file, and prepare the data set again",
            path.display(),
            sound.len() - 8 * 49 - 32 - 32
        )
    );
}

#[test]
fn rows_across_blocks_come_out_whole() {
    let folder = tempfile::tempdir().unwrap();
    // rows of 40 KB and one of 600 KB, over several blocks
    let ids = |n: usize, seed: usize| (0..n).map(|i| (i * 31 + seed) % 90).collect::<Vec<_>>();
    let rows: Vec<String> = (0..12)
        .map(|row| serde_json::json!({"input_ids": ids(if row == 7 { 150_000 } else { 10_000 }, row)}))
        .map(|row| format!("{row}\n"))
        .collect();
    let (_rows, path) = file("rows.jsonl", rows.concat());
    let encoder = tunesmith_data::tokens::Encoder::without_tokenizer(EncodeKnobs::default());
    let written = read(&path).prepare(&encoder, "none", folder.path()).unwrap();
    assert!(written.bytes > 5 * (128 << 10));
    let key = read(&path).prepared_key("none", encoder.knobs()).unwrap();
    let mapped = read(&path).with_prepared(Prepared::open(&written.path, &key).unwrap()).unwrap();
    for row in (0..12).rev() {
        assert_eq!(
            mapped.row_examples(row, &encoder).unwrap(),
            read(&path).row_examples(row, &encoder).unwrap()
        );
    }
}
