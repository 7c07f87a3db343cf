//! What a user sees where something is wrong: whole messages.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

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
        let first = (0..dataset.len())
            .map(|row| dataset.row_examples(row, &encoder(512)))
            .find_map(Result::err);
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
    check_file(
        "rows.jsonl",
        r#"{"conversations": [], "id": 1}"#,
        expect![[r#"
            rows.jsonl: row 0 (line 1) /conversations: expected at least one message, found an empty list
            help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"instruction": "a", "response": "b"}"#,
        expect![[r#"
        rows.jsonl: the columns fit no row shape: found `instruction`, `response`
        help: shape alpaca is nearest and lacks `output`; in the data set's TOML: columns = { output = "response" }"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"foo": "a", "bar": "b"}"#,
        expect![[r#"
            rows.jsonl: the columns fit no row shape: found `foo`, `bar`
            help: the shapes are tokens (`input_ids`), preference (`chosen`, `rejected`), stepwise-supervision (`prompt`, `completions`, `labels`), unpaired-preference (`prompt`, `completion`, `label`), messages (`messages`), sharegpt (`conversations`), alpaca (`instruction`, `output`), prompt-completion (`prompt`, `completion`), classification (`text`, `label`), text (`text`), prompt-answer (`prompt`, `answer`), prompt-only (`prompt`); `[columns]` in the data set's TOML names columns that go by other names"#]],
    );
    let as_messages =
        RowKnobs { shape: Some(tunesmith_data::Shape::Messages), ..Default::default() };
    check_with(
        &as_messages,
        "rows.jsonl",
        r#"{"prompt": "a", "completion": "b"}"#,
        expect![[r#"
        rows.jsonl: shape messages needs the column `messages`, found `prompt`, `completion`
        help: the columns fit `shape = "prompt-completion"`"#]],
    );
    check_with(
        &as_messages,
        "rows.jsonl",
        r#"{"message": []}"#,
        expect![[r#"
        rows.jsonl: shape messages needs the column `messages`, found `message`
        help: `[columns] messages = "message"` in the data set's TOML reads `message` instead"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"txt\": \"b\", \"id\": 3}\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): expected the column `text`, found `txt`, `id`
        help: `[columns] text = "txt"` in the data set's TOML reads `txt` instead"#]],
    );
}

#[test]
fn values() {
    check_file(
        "rows.jsonl",
        chat("\"hello\""),
        expect![[r#"
            rows.jsonl: row 1 (line 3) /messages: expected a list of messages, found text: "hello"
            help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        chat("[]"),
        expect![[r#"
        rows.jsonl: row 1 (line 3) /messages: expected at least one message, found an empty list
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "user", "content": "a"}, {"role": "assistant", "content": null}]"#),
        expect![[r#"
            rows.jsonl: row 1 (line 3) /messages/1/content: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "user"}]"#),
        expect![[r#"
        rows.jsonl: row 1 (line 3) /messages/0: expected the key `content`, found none
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"roles": "user", "value": "a"}]"#),
        expect![[r#"
            rows.jsonl: row 1 (line 3) /messages/0: expected the key `role`, found `roles`, `value`
            help: `[keys] role = "roles"` in the data set's TOML reads `roles` instead"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "human", "content": "a"}]"#),
        expect![[r#"
        rows.jsonl: row 1 (line 3) /messages/0/role: unknown role `human`
        help: `[roles] human = "user"` in the data set's TOML reads it as `user`"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "asistant", "content": "a"}]"#),
        expect![[r#"
        rows.jsonl: row 1 (line 3) /messages/0/role: unknown role `asistant`
        help: `[roles] asistant = "assistant"` in the data set's TOML reads it as `assistant`"#]],
    );
    check_file(
        "rows.jsonl",
        chat(r#"[{"role": "user", "content": [{"type": "image", "url": "a"}]}]"#),
        expect![[r#"
            rows.jsonl: row 1 (line 3) /messages/0/content/0/type: expected text, found a part of type `image`
            help: models of text read text alone; `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"instruction": "a", "output": 4}"#,
        expect![[r#"
        rows.jsonl: row 0 (line 1) /output: expected text, found a number: 4
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"input_ids": [1, 2], "labels": [-100]}"#,
        expect![[r#"
        rows.jsonl: row 0 (line 1) /labels: expected 2 labels, one for each of `input_ids`, found 1
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"input_ids": [1, 2], "labels": [-100, 3]}"#,
        expect![[r#"
        rows.jsonl: row 0 (line 1) /labels/1: expected -100 or the token's own id 2 (labels are not shifted), found 3
        help: set a label to -100 where its token is not trained"#]],
    );
    check_file(
        "rows.jsonl",
        r#"{"input_ids": [1, -2]}"#,
        expect![[r#"
        rows.jsonl: row 0 (line 1) /input_ids/1: expected a token id, found a number: -2
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
}

#[test]
fn json() {
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b",
        expect![[r#"
        rows.jsonl: row 1 (line 2): the file ends inside row 1, at byte 25
        help: fetch or write the file again"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b\n{\"text\": \"c\"}\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): control character (\u0000-\u001F) found while parsing a string, at byte 25 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": NaN}\n",
        expect![[r#"
            rows.jsonl: row 1 (line 2): expected a value of JSON, found NaN, at byte 23 of the file
            help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b\"},\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): trailing characters, at byte 27 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n\"b\"\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): expected an object with the row's columns, found text: "b"
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"b\", \"text\": \"c\"}\n",
        expect![[r#"
            rows.jsonl: row 1 (line 2): the column `text` stands twice in the row, at byte 33 of the file
            help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{\"text\": \"\\ud800\"}\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): unexpected end of hex escape, at byte 30 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": \"b\xff\"}\n",
        expect![[r#"
        rows.jsonl: row 1 (line 2): expected UTF-8, found the byte 0xff at byte 25 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.json",
        "[{\"text\": \"a\"}, {\"text\": \"b",
        expect![[r#"
        rows.json: expected an array closed by `]`, found a file of 27 bytes that ends inside row 1
        help: fetch or write the file again"#]],
    );
    check_file(
        "rows.json",
        "[{\"text\": \"a\"}, {\"text\": \"b\"},]",
        expect![
            "rows.json: expected an array of objects with a comma between each two, found `]` where an object must stand at byte 30"
        ],
    );
    check_file(
        "rows.json",
        "[{\"text\": \"a\"} {\"text\": \"b\"}]",
        expect![
            "rows.json: expected an array of objects with a comma between each two, found `{` where a comma must stand at byte 15"
        ],
    );
    check_file(
        "rows.json",
        "[{\"text\": \"a\"},\n {\"text\": tru}]",
        expect![[r#"
        rows.json: row 1 (line 2): expected ident, at byte 29 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.json",
        "[1, 2]",
        expect![[r#"
        rows.json: row 0 (line 1): expected an object with the row's columns, found a number: 1
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
}

#[test]
fn files() {
    check_file(
        "rows.jsonl",
        "",
        expect!["rows.jsonl: expected at least one row, found 0 in 1 file(s)"],
    );
    check_file(
        "rows.jsonl",
        "\n \n",
        expect!["rows.jsonl: expected at least one row, found 0 in 1 file(s)"],
    );
    check_file(
        "rows.json",
        "[]",
        expect!["rows.json: expected at least one row, found 0 in 1 file(s)"],
    );
    check_file(
        "rows.jsonl",
        b"\xff\xfe{\0",
        expect![[r#"
        rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found UTF-16
        help: convert it: iconv -f UTF-16 -t UTF-8 FILE"#]],
    );
    check_file(
        "rows.bin",
        "text\na\n",
        expect![[r#"
        rows.bin: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found text that starts with `t`
        help: `format = "csv"`, `"text"` or `"json"` in the data set's TOML says what it is"#]],
    );
    check_file(
        "rows.jsonl",
        b"BZh91AY",
        expect![[r#"
        rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found bzip2
        help: unpack it first: bunzip2 FILE"#]],
    );
    check_file(
        "rows.jsonl",
        b"PK\x03\x04",
        expect![[r#"
        rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found a zip archive
        help: unpack it first: unzip FILE"#]],
    );
    check_file(
        "rows.jsonl",
        "version https://git-lfs.github.com/spec/v1\noid sha256:ab\n",
        expect![[r#"
            rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found a Git LFS pointer
            help: the data itself was never fetched: git lfs pull"#]],
    );
    check_file(
        "rows.jsonl",
        "\n <!DOCTYPE html>\n<html>",
        expect![[r#"
        rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found a web page
        help: the download gave a page instead of the file: log in, or take the address of the raw file"#]],
    );
    let parquet = std::fs::read(golden("codec-none.parquet")).unwrap();
    check_file(
        "rows.parquet",
        &parquet[..parquet.len() - 100],
        expect![[r#"
        rows.parquet: expected a parquet file, which ends in its footer and `PAR1`, found 3094 bytes that end in `AEAA`
        help: the file was cut off or is no parquet; fetch or write it again"#]],
    );
    check_file(
        "rows.parquet",
        &parquet[..7],
        expect![[r#"
        rows.parquet: expected a parquet file, which ends in its footer and `PAR1`, found 7 bytes
        help: the file was cut off or is no parquet; fetch or write it again"#]],
    );
    let arrow = std::fs::read(golden("chats-file.arrow")).unwrap();
    check_file(
        "rows.arrow",
        &arrow[..arrow.len() - 8],
        expect![[r#"
        rows.arrow: expected a sound Arrow file or stream, found 3762 bytes that end in no footer
        help: fetch or write the file again"#]],
    );
    check_file(
        "rows.arrow",
        b"ARROW1\0\0",
        expect![[r#"
        rows.arrow: expected a sound Arrow file or stream, found no schema at the start
        help: fetch or write the file again"#]],
    );
    check_file(
        "rows.arrow",
        "text",
        expect![[r#"
        rows.arrow: expected a sound Arrow file or stream, found a message description of 1954047348 bytes
        help: fetch or write the file again"#]],
    );
    let arrow = std::fs::read(golden("chats-stream.arrow")).unwrap();
    check_file(
        "rows.arrow",
        &arrow[..arrow.len() - 100],
        expect![[r#"
        rows.arrow: expected a sound Arrow file or stream, found 3244 bytes that end inside the message at byte 2424
        help: fetch or write the file again"#]],
    );
    check_file(
        "rows.csv",
        "text,text\na,b\n",
        expect![[r#"
            rows.csv: expected a header that names each column once, and rows, found the column `text` twice
            help: rename one of them in the first line of the file"#]],
    );
    check_file(
        "rows.csv",
        "text,id\na,b\nc\n",
        expect![[r#"
        rows.csv: row 1 (line 3): expected 2 cells, one for each column of the header, found 1
        help: a cell that holds a delimiter, a quote or a line end stands in quotes"#]],
    );
    check_file(
        "rows.csv",
        "text,id\n\"a\nb\",1\n\"c,2\n",
        expect![[r#"
        rows.csv: row 1 (line 4): expected 2 cells, one for each column of the header, found 1
        help: a cell that holds a delimiter, a quote or a line end stands in quotes"#]],
    );
    check_file(
        "rows.csv",
        b"text,id\na,1\nb\xff,2\n",
        expect![[r#"
        rows.csv: row 1 (line 3) /text: expected UTF-8, found the byte 0xff at byte 13 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.csv",
        "name,id\na,1\n",
        expect![[r#"
            rows.csv: the columns fit no row shape: found `name`, `id`
            help: the shapes are tokens (`input_ids`), preference (`chosen`, `rejected`), stepwise-supervision (`prompt`, `completions`, `labels`), unpaired-preference (`prompt`, `completion`, `label`), messages (`messages`), sharegpt (`conversations`), alpaca (`instruction`, `output`), prompt-completion (`prompt`, `completion`), classification (`text`, `label`), text (`text`), prompt-answer (`prompt`, `answer`), prompt-only (`prompt`); `[columns]` in the data set's TOML names columns that go by other names"#]],
    );
    check_file(
        "rows.txt",
        b"a\nb\xfe\n",
        expect![[r#"
        rows.txt: row 1 (line 2): expected UTF-8, found the byte 0xfe at byte 3 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check_file(
        "rows.parquet",
        "{\"text\": \"a\"}",
        expect![[r#"
        rows.parquet: expected a parquet file, which ends in its footer and `PAR1`, found 13 bytes that end in `\"a\"}`
        help: the file was cut off or is no parquet; fetch or write it again"#]],
    );
    let mut broken = parquet.clone();
    broken.truncate(parquet.len() / 2);
    broken.extend(&parquet[parquet.len() - 8..]);
    check_file(
        "rows.parquet",
        &broken,
        expect![[r#"
        rows.parquet: expected sound parquet, found Parquet error: Required field version is missing
        help: write it again, e.g. with pyarrow.parquet.write_table(table, FILE, compression="zstd")"#]],
    );
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
    check(
        "train.json",
        expect![[r#"
        train.json: no such file or folder
        help: did you mean train.jsonl"#]],
    );
    check(
        "nowhere/train.jsonl",
        expect![[r#"
        nowhere/train.jsonl: no such file or folder
        help: the folder nowhere does not exist either"#]],
    );
    check(
        "*.parquet",
        expect![[r#"
        *.parquet: no data file here
        help: data files end in .parquet, .arrow, .jsonl, .ndjson, .json, .csv, .tsv or .txt, also with .gz or .zst behind"#]],
    );
    check(
        "empty",
        expect![[r#"
        empty: no data file here
        help: data files end in .parquet, .arrow, .jsonl, .ndjson, .json, .csv, .tsv or .txt, also with .gz or .zst behind"#]],
    );
}

#[test]
fn folders_of_several_formats() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a.csv", "b.jsonl", "c.jsonl.gz", "notes.txt", "info.json"] {
        std::fs::write(folder.path().join(name), "{\"text\": \"a\"}").unwrap();
    }
    let error = Dataset::open(&[folder.path()], &RowKnobs::default()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadData);
    expect![[r#"
        rows: expected data files of one format, found 1 × .csv, 2 × .jsonl
        help: name those that are meant: "rows/**/*.csv""#]]
    .assert_eq(&error.to_string().replace(&folder.path().display().to_string(), "rows"));
}

#[test]
fn configs() {
    let check = |text: &str, expected: Expect| {
        let error = DatasetConfig::parse(text, "mine.toml").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::BadConfig);
        expected.assert_eq(&error.to_string());
    };
    check(
        "shpae = \"text\"",
        expect![[r#"
        mine.toml: unknown key `shpae`
        help: did you mean `shape`?"#]],
    );
    check(
        "shape = \"message\"",
        expect![[r#"
            mine.toml: shape: expected one of `tokens`, `preference`, `stepwise-supervision`, `unpaired-preference`, `messages`, `sharegpt`, `alpaca`, `prompt-completion`, `classification`, `text`, `prompt-answer`, `prompt-only`, found `message`
            help: did you mean `messages`?"#]],
    );
    check(
        "[hub]\nrepository = \"a/b\"",
        expect![[r#"
        mine.toml: unknown key `hub.repository`
        help: did you mean `hub.repo`?"#]],
    );
    check(
        "split = \"trian\"\n[splits]\ntrain = \"a.jsonl\"",
        expect![[r#"
        mine.toml: split: expected one of `train`, found `trian`
        help: did you mean `train`?"#]],
    );
    check(
        "[columns]\nmesages = \"a\"",
        expect![[r#"
            mine.toml: columns: expected one of `answer`, `chat_template_kwargs`, `chosen`, `completion`, `completions`, `conversations`, `history`, `input`, `input_ids`, `instruction`, `label`, `labels`, `loss_weight`, `margin`, `messages`, `output`, `prompt`, `rejected`, `reward`, `system`, `text`, `text_pair`, `tools`, `train`, found `mesages`
            help: did you mean `messages`?"#]],
    );
    check(
        "template = \"chatml\"",
        expect![[r#"
        mine.toml: template: expected one of `chat`, `alpaca`, found `chatml`
        help: did you mean `chat`?"#]],
    );
    check(
        "format = \"jsonl\"",
        expect![[r#"
        mine.toml: format: expected one of `parquet`, `arrow`, `json`, `csv`, `text`, found `jsonl`
        help: did you mean `json`?"#]],
    );
    check(
        "text_rows = \"lines\"",
        expect![[r#"
        mine.toml: text_rows: expected one of `line`, `paragraph`, `document`, found `lines`
        help: did you mean `line`?"#]],
    );
    check(
        "[splits]\ntrain = \"a\"\n[[mix]]\ndataset = \"b\"",
        expect![[r#"
        mine.toml: expected either [[mix]] or [hub] and [splits], found both
        help: give the files a TOML of their own, and name it in [[mix]]"#]],
    );
    check(
        "[[mix]]\ndataset = \"b\"\nwieght = 2",
        expect![[r#"
        mine.toml: unknown key `mix.wieght`
        help: did you mean `mix.weight`?"#]],
    );
    check(
        "[[mix]]\ndataset = \"b\"\nweight = -1.0",
        expect![[r#"
        mine.toml: mix.weight: expected a number of at least 0, found -1
        help: 1 takes each row once per epoch, 0.5 every other row"#]],
    );
    check(
        "split = 3",
        expect![[r#"
        mine.toml: TOML parse error at line 1, column 9
          |
        1 | split = 3
          |         ^
        invalid type: integer `3`, expected a string"#]],
    );
    check(
        "shape = ",
        expect![[r#"
        mine.toml: TOML parse error at line 1, column 9
          |
        1 | shape = 
          |         ^
        string values must be quoted, expected literal string"#]],
    );
    let several = DatasetConfig::parse("[splits]\na = \"a\"\nb = \"b\"", "mine.toml").unwrap();
    expect![[r#"
        split: several splits and none chosen: `a`, `b`
        help: choose one with `split = "…"`"#]]
    .assert_eq(&several.split(None).unwrap_err().to_string());
    let (folder, _) = common::file("ultrachat.toml", "");
    let error = DatasetConfig::find("ultrachatt", folder.path()).unwrap_err();
    expect![[r#"
        `ultrachatt`: no data set of this name in configs/datasets, found `ultrachat`
        help: did you mean `ultrachat`?"#]]
    .assert_eq(
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
    expect![[r#"
        rows.jsonl: row 1 (line 3): the chat template refuses this conversation: roles must alternate (roles: user, user)
        help: `--on-bad-row skip` leaves such rows out and counts them"#]].assert_eq(&plain(&dataset.row_examples(1, &encoder).unwrap_err(), folder.path()));
    let bare = Encoder::new(tokenizer, None, EncodeKnobs::default());
    let error = dataset.row_examples(0, &bare).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BadConfig);
    expect![[r#"
        row 0 is a conversation, and the model has no chat template
        help: set template = "chat" or "alpaca", or a path to a Jinja file"#]]
    .assert_eq(&plain(&error, folder.path()));
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
    expect![[r#"
        error[null-content]: rows.jsonl: row 3 (line 4) /text: expected text, found null
          10 rows like this: 3, 13, 23, …
        help: `--on-bad-row skip` leaves such rows out and counts them
        error[wrong-type]: rows.jsonl: row 7 (line 8) /text: expected text, found a list: [1]
          10 rows like this: 7, 17, 27, …
        help: `--on-bad-row skip` leaves such rows out and counts them
        20 of 100 rows are malformed"#]]
    .assert_eq(&report.to_string().replace(&format!("{}/", folder.path().display()), ""));
    assert!(common::open(golden("chats.parquet")).check(20, Some(&encoder(64))).is_sound());
}
