//! What a user sees where something is wrong: whole messages.

mod common;

use common::{encoder, golden};
use expect_test::{Expect, expect};
use std::path::Path;
use tunesmith_data::{DataError, Dataset, DatasetConfig, ErrorKind, RowKnobs};

/// Opens `content` as a file of this name and reads all rows; the first error, without the folder's name.
fn check_file(name: &str, content: impl AsRef<[u8]>, expected: Expect) {
    check_with(&RowKnobs::default(), name, content, expected);
}

fn check_with(knobs: &RowKnobs, name: &str, content: impl AsRef<[u8]>, expected: Expect) {
    let (folder, path) = common::file(name, content);
    let error = Dataset::open(&[&path], knobs).and_then(|dataset| {
        let first =
            (0..dataset.len()).map(|row| dataset.example(row, &encoder(512))).find_map(Result::err);
        first.map_or(Ok(()), Err)
    });
    let error = error.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Io);
    expected.assert_eq(&plain(&error, folder.path()));
}

fn plain(error: &DataError, folder: &Path) -> String {
    error.to_string().replace(&format!("{}/", folder.display()), "")
}

fn chat(messages: &str) -> String {
    let good = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    format!("{good}\n\n{{\"messages\": {messages}}}\n{good}\n")
}

#[test]
fn columns() {
    check_file("rows.jsonl", r#"{"conversations": [], "id": 1}"#, expect![""]);
    check_file("rows.jsonl", r#"{"instruction": "a", "response": "b"}"#, expect![""]);
    check_file("rows.jsonl", r#"{"foo": "a", "bar": "b"}"#, expect![""]);
    let as_messages =
        RowKnobs { shape: Some(tunesmith_data::Shape::Messages), ..Default::default() };
    check_with(&as_messages, "rows.jsonl", r#"{"prompt": "a", "completion": "b"}"#, expect![""]);
    check_with(&as_messages, "rows.jsonl", r#"{"message": []}"#, expect![""]);
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"txt\": \"b\", \"id\": 3}\n", expect![""]);
}

#[test]
fn values() {
    check_file("rows.jsonl", chat("\"hello\""), expect![""]);
    check_file("rows.jsonl", chat("[]"), expect![""]);
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]"#),
        expect![""],
    );
    check_file("rows.jsonl", chat(r#"[{"role": "user"}]"#), expect![""]);
    check_file("rows.jsonl", chat(r#"[{"from": "human", "value": "a"}]"#), expect![""]);
    check_file("rows.jsonl", chat(r#"[{"role": "human", "content": "a"}]"#), expect![""]);
    check_file("rows.jsonl", chat(r#"[{"role": "asistant", "content": "a"}]"#), expect![""]);
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "user", "content": [{"type": "image", "url": "a"}]}]"#),
        expect![""],
    );
    check_file("rows.jsonl", r#"{"instruction": "a", "output": 4}"#, expect![""]);
    check_file("rows.jsonl", r#"{"input_ids": [1, 2], "labels": [-100]}"#, expect![""]);
    check_file("rows.jsonl", r#"{"input_ids": [1, 2], "labels": [-100, 3]}"#, expect![""]);
    check_file("rows.jsonl", r#"{"input_ids": [1, -2]}"#, expect![""]);
    let history = r#"{"prompt": [{"role": "assistant", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}"#;
    check_file("rows.jsonl", history, expect![""]);
}

#[test]
fn json() {
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b", expect![""]);
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\n{\"text\": \"c\"}\n", expect![""]);
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": NaN}\n", expect![""]);
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"b\"},\n", expect![""]);
    check_file("rows.jsonl", "{\"text\": \"a\"}\n\"b\"\n", expect![""]);
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b\", \"text\": \"c\"}\n",
        expect![""],
    );
    check_file("rows.jsonl", "{\"text\": \"a\"}\n{\"text\": \"\\ud800\"}\n", expect![""]);
    check_file("rows.jsonl", b"{\"text\": \"a\"}\n{\"text\": \"b\xff\"}\n", expect![""]);
    check_file("rows.json", "[{\"text\": \"a\"}, {\"text\": \"b", expect![""]);
    check_file("rows.json", "[{\"text\": \"a\"}, {\"text\": \"b\"},]", expect![""]);
    check_file("rows.json", "[{\"text\": \"a\"} {\"text\": \"b\"}]", expect![""]);
    check_file("rows.json", "[{\"text\": \"a\"},\n {\"text\": tru}]", expect![""]);
    check_file("rows.json", "[1, 2]", expect![""]);
}

#[test]
fn files() {
    check_file("rows.jsonl", "", expect![""]);
    check_file("rows.jsonl", "\n \n", expect![""]);
    check_file("rows.json", "[]", expect![""]);
    check_file("rows.jsonl", b"\xff\xfe{\0", expect![""]);
    check_file("rows.jsonl", b"\x1f\x8b\x08\0", expect![""]);
    let parquet = std::fs::read(golden("codec-none.parquet")).unwrap();
    check_file("rows.parquet", &parquet[..parquet.len() - 100], expect![""]);
    check_file("rows.parquet", &parquet[..7], expect![""]);
    check_file("rows.parquet", "{\"text\": \"a\"}", expect![""]);
    let mut broken = parquet.clone();
    broken.truncate(parquet.len() / 2);
    broken.extend(&parquet[parquet.len() - 8..]);
    check_file("rows.parquet", &broken, expect![""]);
}

#[test]
fn paths() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("train.jsonl"), "{\"text\": \"a\"}").unwrap();
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    let check = |name: &str, expected: Expect| {
        let error = Dataset::open(&[folder.path().join(name)], &RowKnobs::default()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingInput);
        expected.assert_eq(&plain(&error, folder.path()));
    };
    check("train.json", expect![""]);
    check("nowhere/train.jsonl", expect![""]);
    check("*.parquet", expect![""]);
    check("empty", expect![""]);
}

#[test]
fn configs() {
    let check = |text: &str, expected: Expect| {
        let error = DatasetConfig::parse(text, "mine.toml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadConfig);
        expected.assert_eq(&error.to_string());
    };
    check("shpae = \"text\"", expect![""]);
    check("shape = \"message\"", expect![""]);
    check("[hub]\nrepository = \"a/b\"", expect![""]);
    check("split = \"trian\"\n[splits]\ntrain = \"a.jsonl\"", expect![""]);
    check("[columns]\nmesages = \"a\"", expect![""]);
    check("template = \"chatml\"", expect![""]);
    check("split = 3", expect![""]);
    check("shape = ", expect![""]);
    let several = DatasetConfig::parse("[splits]\na = \"a\"\nb = \"b\"", "mine.toml").unwrap();
    expect![""].assert_eq(&several.split(None).unwrap_err().to_string());
    let (folder, _) = common::file("ultrachat.toml", "");
    let error = DatasetConfig::find("ultrachatt", folder.path()).unwrap_err();
    expect![""].assert_eq(
        &error.to_string().replace(&folder.path().display().to_string(), "configs/datasets"),
    );
}

#[test]
fn templates_that_refuse_a_conversation() {
    use tunesmith_data::tokens::{EncodeKnobs, Encoder, Template, Tokenizer};
    let (folder, path) = common::file(
        "rows.jsonl",
        chat(r#"[{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]"#),
    );
    let source = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}";
    let template = Template::parse(source, [("eos_token", "<|endoftext|>")]).unwrap();
    let tokenizer = std::sync::Arc::new(Tokenizer::from_dir(golden("tiny")).unwrap());
    let encoder = Encoder::new(tokenizer.clone(), Some(template), EncodeKnobs::default());
    let dataset = common::open(path);
    expect![""].assert_eq(&plain(&dataset.example(1, &encoder).unwrap_err(), folder.path()));
    let bare = Encoder::new(tokenizer, None, EncodeKnobs::default());
    let error = dataset.example(0, &bare).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig);
    expect![""].assert_eq(&plain(&error, folder.path()));
}

#[test]
fn a_check_shows_the_first_and_counts_all() {
    let mut content = String::new();
    for row in 0..100 {
        content += match row % 10 {
            3 => "{\"text\": null}\n",
            7 => "{\"text\": [1]}\n",
            _ => "{\"text\": \"a\"}\n",
        };
    }
    let (folder, path) = common::file("rows.jsonl", content);
    let report = common::open(&path).check(3, None);
    assert!(!report.is_sound());
    expect![""]
        .assert_eq(&report.to_string().replace(&format!("{}/", folder.path().display()), ""));
    assert!(common::open(golden("chats.parquet")).check(20, Some(&encoder(64))).is_sound());
}
