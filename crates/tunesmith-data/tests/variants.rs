//! Further variants of the ways in which data goes wrong: whole messages. `README.md` beside this file says which test
//! shows which case.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use arrow::array::{ArrayRef, Float32Array, Float64Array, RecordBatch, StringArray};
use common::{encoder, file, golden, open};
use expect_test::{Expect, expect};
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use tunesmith_data::tokens::BatchSource;
use tunesmith_data::{Dataset, RowKnobs, Shape, Stream, StreamKnobs};

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn plain(text: &str, folder: &Path) -> String {
    text.replace(&format!("{}/", folder.display()), "")
}

/// Everything that a check of a file says, at 64 tokens a row; or why it cannot be opened.
fn check(name: &str, content: impl AsRef<[u8]>, expected: Expect) {
    check_as(&RowKnobs::default(), name, content, expected);
}

fn check_as(knobs: &RowKnobs, name: &str, content: impl AsRef<[u8]>, expected: Expect) {
    let (folder, path) = file(name, content);
    let said = match Dataset::open(&[&path], knobs) {
        Ok(dataset) => dataset.check(20, Some(&encoder(64))).to_string(),
        Err(error) => error.to_string(),
    };
    expected.assert_eq(&plain(&said, folder.path()));
}

/// A parquet file of these columns.
fn parquet(columns: Vec<(&str, ArrayRef)>) -> Vec<u8> {
    let batch = RecordBatch::try_from_iter(columns).unwrap();
    let mut bytes = Vec::new();
    let mut writer =
        parquet::arrow::ArrowWriter::try_new(&mut bytes, batch.schema(), None).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
    bytes
}

fn strings(texts: &[&str]) -> ArrayRef {
    Arc::new(StringArray::from(texts.to_vec()))
}

#[test]
fn prompts_without_what_rewards_are_made_of() {
    let as_answers = RowKnobs { shape: Some(Shape::PromptAnswer), ..Default::default() };
    check_as(
        &as_answers,
        "rows.jsonl",
        lines(&[json!({"prompt": "1+1?"})]),
        expect![[r#"
        rows.jsonl: shape prompt-answer needs the column `answer`, found `prompt`
        help: the columns fit `shape = "prompt-only"`"#]],
    );
    check_as(
        &as_answers,
        "rows.jsonl",
        lines(&[json!({"question": "1+1?", "solution": "2"})]),
        expect![[r#"
            rows.jsonl: shape prompt-answer needs the column `prompt`, found `question`, `solution`
            help: `[columns] prompt = "question"` in the data set's TOML reads `question` instead"#]],
    );
    check_as(
        &as_answers,
        "rows.jsonl",
        lines(&[json!({"prompt": "1+1?", "completion": "2"})]),
        expect![[r#"
            rows.jsonl: shape prompt-answer needs the column `answer`, found `prompt`, `completion`
            help: the columns fit `shape = "prompt-completion"`"#]],
    );
    check(
        "rows.jsonl",
        lines(&[
            json!({"prompt": "1+1?", "answer": "2"}),
            json!({"prompt": "1+1?", "answer": 2}),
            json!({"prompt": [{"role": "user", "content": "1+1?"}], "answer": ["2", "two"]}),
            json!({"prompt": "1+1?", "answer": null}),
            json!({"prompt": "1+1?", "answer": " "}),
            json!({"prompt": "1+1?", "answer": []}),
            json!({"prompt": "1+1?", "answer": {"a": 2}}),
            json!({"prompt": "1+1?"}),
            json!({"prompt": null, "answer": "2"}),
            json!({"prompt": [], "answer": "2"}),
        ]),
        expect![[r#"
            error[null-content]: rows.jsonl: row 3 (line 4) /answer: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 4 (line 5) /answer: expected an answer to hold others against, found none
              3 rows like this: 4, 5, 6
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[missing-column]: rows.jsonl: row 7 (line 8): expected the column `answer`, found `prompt`
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[null-content]: rows.jsonl: row 8 (line 9) /prompt: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[empty-messages]: rows.jsonl: row 9 (line 10) /prompt: expected at least one message, found an empty list
            help: `--on-bad-row skip` leaves such rows out and counts them
            7 of 10 rows are malformed"#]],
    );
}

#[test]
fn rewards_that_are_no_numbers() {
    check(
        "rows.jsonl",
        "{\"prompt\": \"a\", \"reward\": 0.5}\n\
         {\"prompt\": \"a\", \"reward\": NaN}\n\
         {\"prompt\": \"a\", \"reward\": null}\n\
         {\"prompt\": \"a\", \"reward\": \"good\"}\n\
         {\"prompt\": \"a\", \"reward\": -Infinity}\n\
         {\"prompt\": \"a\", \"reward\": -1e999}\n\
         {\"prompt\": \"a\"}\n",
        expect![[r#"
            error[malformed-json]: rows.jsonl: row 1 (line 2): expected a value of JSON, found NaN, at byte 57 of the file
              3 rows like this: 1, 4, 5
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 2 (line 3) /reward: expected a number, found null
              2 rows like this: 2, 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[missing-column]: rows.jsonl: row 6 (line 7): expected the column `answer`, found `prompt`
            help: `--on-bad-row skip` leaves such rows out and counts them
            6 of 7 rows are malformed"#]],
    );
    let prompts = || strings(&["a", "b", "c"]);
    let rewards = Arc::new(Float64Array::from(vec![Some(1.0), Some(f64::NAN), None]));
    check(
        "rows.parquet",
        parquet(vec![("prompt", prompts()), ("reward", rewards)]),
        expect![[r#"
            error[no-number]: rows.parquet: row 1 /reward: expected a number, found NaN
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.parquet: row 2 /reward: expected a number, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 3 rows are malformed"#]],
    );
    let margins = Arc::new(Float32Array::from(vec![1.0, f32::NEG_INFINITY, f32::NAN]));
    check(
        "rows.parquet",
        parquet(vec![
            ("prompt", prompts()),
            ("chosen", strings(&["d", "e", "f"])),
            ("rejected", strings(&["g", "h", "i"])),
            ("margin", margins),
        ]),
        expect![[r#"
            error[no-number]: rows.parquet: row 1 /margin: expected a number, found -inf
              2 rows like this: 1, 2
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 3 rows are malformed"#]],
    );
    let weights = Arc::new(Float32Array::from(vec![1.0, f32::INFINITY, f32::NAN]));
    check(
        "rows.parquet",
        parquet(vec![("text", prompts()), ("loss_weight", weights)]),
        expect![[r#"
            error[no-number]: rows.parquet: row 1 /loss_weight: expected a number, found inf
              2 rows like this: 1, 2
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 3 rows are malformed"#]],
    );
}

#[test]
fn roles_of_other_systems() {
    let row = |role: &str| json!({"messages": [{"role": role, "content": "a"}]});
    let roles = ["gpt", "bot", "Human", "observation", "user ", "narrator", ""];
    check(
        "rows.jsonl",
        lines(&roles.map(row)),
        expect![[r#"
            error[unknown-role]: rows.jsonl: row 0 (line 1) /messages/0/role: unknown role `gpt`
            help: `[roles] gpt = "assistant"` in the data set's TOML reads it as `assistant`
            error[unknown-role]: rows.jsonl: row 1 (line 2) /messages/0/role: unknown role `bot`
            help: `[roles] bot = "assistant"` in the data set's TOML reads it as `assistant`
            error[unknown-role]: rows.jsonl: row 2 (line 3) /messages/0/role: unknown role `Human`
            help: `[roles] Human = "user"` in the data set's TOML reads it as `user`
            error[unknown-role]: rows.jsonl: row 3 (line 4) /messages/0/role: unknown role `observation`
            help: `[roles] observation = "tool"` in the data set's TOML reads it as `tool`
            error[unknown-role]: rows.jsonl: row 4 (line 5) /messages/0/role: unknown role `user `
            help: `[roles] user  = "user"` in the data set's TOML reads it as `user`
            error[unknown-role]: rows.jsonl: row 5 (line 6) /messages/0/role: unknown role `narrator`
            help: `[roles] narrator = "user"` in the data set's TOML reads it as `user`
            error[unknown-role]: rows.jsonl: row 6 (line 7) /messages/0/role: unknown role ``
            help: `[roles]  = "user"` in the data set's TOML reads it as `user`
            7 of 7 rows are malformed"#]],
    );
    check(
        "rows.jsonl",
        lines(&[
            json!({"messages": [{"role": 1, "content": "a"}]}),
            json!({"messages": [{"role": null, "content": "a"}]}),
        ]),
        expect![[r#"
            error[wrong-type]: rows.jsonl: row 0 (line 1) /messages/0/role: expected text, found a number: 1
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[null-content]: rows.jsonl: row 1 (line 2) /messages/0/role: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 2 rows are malformed"#]],
    );
}

#[test]
fn contents_of_other_kinds() {
    let row = |content: Value| json!({"messages": [{"role": "user", "content": content}]});
    check(
        "rows.jsonl",
        lines(&[
            row(json!([{"type": "image_url", "image_url": {"url": "a"}}])),
            row(json!([{"type": "text", "text": "a"}, {"type": "audio", "audio": "b"}])),
            row(json!([{"type": "text", "text": 3}])),
            row(json!(["a"])),
            row(json!([7])),
            row(json!(3.5)),
            row(json!({"text": "a"})),
            json!({"messages": ["a"]}),
            json!({"messages": null}),
            json!({"messages": {"role": "user"}}),
        ]),
        expect![[r#"
            error[content-that-is-no-text]: rows.jsonl: row 0 (line 1) /messages/0/content/0/type: expected text, found a part of type `image_url`
              2 rows like this: 0, 1
            help: models of text read text alone; `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 2 (line 3) /messages/0/content/0/text: expected text, found a number: 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 4 (line 5) /messages/0/content/0: expected a part of text, found a number: 7
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 5 (line 6) /messages/0/content: expected text, found a number: 3.5
              2 rows like this: 5, 6
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 7 (line 8) /messages/0: expected an object with `role` and `content`, found text: "a"
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 8 (line 9) /messages: expected a list of messages, found null
              2 rows like this: 8, 9
            help: `--on-bad-row skip` leaves such rows out and counts them
            note[nothing-trained]: no token of the row is trained: it is dropped
              1 row: 3
            note[unanswered]: the last turn is not the assistant's: what stands behind the last answer is read and never trained
              1 row: 3
            9 of 10 rows are malformed"#]],
    );
}

#[test]
fn answers_without_a_word() {
    check(
        "rows.jsonl",
        lines(&[
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": ""}]}),
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}]}]}),
        ]),
        expect![[r#"
            note[empty-answer]: an answer is empty: only the token that ends it is trained
              1 row: 0
            0 of 2 rows are malformed"#]],
    );
    check(
        "rows.jsonl",
        lines(&[json!({"instruction": "a", "output": ""})]),
        expect![[r#"
        note[empty-answer]: an answer is empty: only the token that ends it is trained
          1 row: 0
        0 of 1 rows are malformed"#]],
    );
    check(
        "rows.jsonl",
        lines(&[json!({"prompt": "a", "completion": "\n "})]),
        expect![[r#"
        note[empty-answer]: an answer is empty: only the token that ends it is trained
          1 row: 0
        0 of 1 rows are malformed"#]],
    );
}

#[test]
fn bytes_that_are_no_text() {
    check(
        "rows.jsonl",
        b"\xfe\xff\0{",
        expect![[r#"
        rows.jsonl: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found UTF-16
        help: convert it: iconv -f UTF-16 -t UTF-8 FILE"#]],
    );
    check(
        "rows.jsonl",
        b"\xff{\"text\": \"a\"}\n",
        expect![[r#"
        rows.jsonl: row 0 (line 1): expected UTF-8, found the byte 0xff at byte 0 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check(
        "rows.jsonl",
        b"{\"text\": \"a\"}\n{\"text\": \"caf\xe9\"}\n{\"text\": \"\xc3\"}\n",
        expect![[r#"
            error[invalid-utf-8]: rows.jsonl: row 1 (line 2): expected UTF-8, found the byte 0xe9 at byte 27 of the file
              2 rows like this: 1, 2
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 3 rows are malformed"#]],
    );
    check(
        "rows.json",
        b"[{\"text\": \"\xed\xa0\x80\"}]",
        expect![[r#"
        rows.json: row 0 (line 1): expected UTF-8, found the byte 0xed at byte 11 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
    check(
        "rows.jsonl",
        "{\"text\": \"\\ud83d\"}\n{\"text\": \"\\udc00 a\"}\n{\"text\": \"a\"}\n",
        expect![[r#"
            error[malformed-json]: rows.jsonl: row 0 (line 1): unexpected end of hex escape, at byte 16 of the file
              2 rows like this: 0, 1
            help: `--on-bad-row skip` leaves such rows out and counts them
            2 of 3 rows are malformed"#]],
    );
}

#[test]
fn rows_that_are_no_json() {
    check(
        "rows.jsonl",
        "{\"text\": \"a\"}\n{'text': 'a'}\n{\"text\": \"a\",}\n{\"text\" \"a\"}\n{\"text\": \"a\"}{\"text\": \"b\"}\nnull\n[\"a\"]\n{\"text\": \"a\"\n",
        expect![[r#"
            error[malformed-json]: rows.jsonl: row 1 (line 2): key must be a string, at byte 15 of the file
              4 rows like this: 1, 2, 3, …
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 5 (line 6): expected an object with the row's columns, found null
              2 rows like this: 5, 6
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[file-ends-inside-the-row]: rows.jsonl: row 7 (line 8): the file ends inside row 7, at byte 107
            help: fetch or write the file again
            7 of 8 rows are malformed"#]],
    );
    check(
        "rows.json",
        "[{\"text\": \"a\"}, ",
        expect![[r#"
        rows.json: expected an array closed by `]`, found a file of 16 bytes that ends inside row 0
        help: fetch or write the file again"#]],
    );
    check(
        "rows.json",
        "[{\"text\": \"a\"}] []",
        expect![
            "rows.json: expected an array of objects with a comma between each two, found `[` after the array at byte 16"
        ],
    );
    check(
        "rows.json",
        "{\"text\": \"a\"}, {\"text\": \"b\"}",
        expect![[r#"
        rows.json: row 0 (line 1): trailing characters, at byte 13 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]],
    );
}

#[test]
fn keys_that_stand_twice_anywhere() {
    check(
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"messages\": []}\n\
         {\"messages\": [{\"role\": \"user\", \"role\": \"assistant\", \"content\": \"a\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"a\", \"text\": \"b\"}]}]}\n",
        expect![[r#"
            error[malformed-json]: rows.jsonl: row 1 (line 2): the column `messages` stands twice in the row, at byte 107 of the file
              3 rows like this: 1, 2, 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            note[nothing-trained]: no token of the row is trained: it is dropped
              1 row: 0
            note[unanswered]: the last turn is not the assistant's: what stands behind the last answer is read and never trained
              1 row: 0
            3 of 4 rows are malformed"#]],
    );
}

#[test]
fn compressed_files_that_end_early() {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    (0..500).for_each(|i| writeln!(gzip, "{{\"text\": \"row {i} {}\"}}", i * i * 7919).unwrap());
    let gzip = gzip.finish().unwrap();
    let cache = tempfile::tempdir().unwrap();
    let mut knobs = RowKnobs::default();
    knobs.files.cache = Some(cache.path().into());
    check_as(
        &knobs,
        "rows.jsonl.gz",
        &gzip[..gzip.len() / 2],
        expect![[r#"
        rows.jsonl.gz: expected a sound gzip stream, found after 7393 unpacked bytes: incomplete deflate stream
        help: the file was cut off or is damaged; fetch or write it again"#]],
    );
    check_as(
        &knobs,
        "rows.jsonl",
        &gzip[..9],
        expect![[r#"
        rows.jsonl: expected a sound gzip stream, found after 0 unpacked bytes: unexpected end of file
        help: the file was cut off or is damaged; fetch or write it again"#]],
    );
    let mut damaged = gzip.clone();
    damaged[60] ^= 0x55;
    check_as(
        &knobs,
        "rows.jsonl.gz",
        &damaged,
        expect![[r#"
        rows.jsonl.gz: expected a sound gzip stream, found after 14864 unpacked bytes: corrupt gzip stream does not have a matching checksum
        help: the file was cut off or is damaged; fetch or write it again"#]],
    );
    let zstd = zstd::encode_all(&b"{\"text\": \"a\"}\n".repeat(90)[..], 1).unwrap();
    check_as(
        &knobs,
        "rows.parquet",
        &zstd[..zstd.len() - 5],
        expect![[r#"
        rows.parquet: expected a sound zstd stream, found after 0 unpacked bytes: incomplete frame
        help: the file was cut off or is damaged; fetch or write it again"#]],
    );
    check_as(
        &knobs,
        "rows.zst",
        zstd::encode_all(&gzip[..], 1).unwrap(),
        expect![[r#"
        rows.zst: expected parquet, Arrow, JSON rows, CSV or plain text in UTF-8, found a compressed file inside a compressed file
        help: unpack it once"#]],
    );
}

#[test]
fn columnar_files_that_are_damaged() {
    let sound = std::fs::read(golden("codec-snappy.parquet")).unwrap();
    check(
        "rows.parquet",
        [&sound[..4], &sound[sound.len() - 8..]].concat(),
        expect![[r#"
        rows.parquet: expected sound parquet, found EOF: Parquet file too small. Size is 12 but need 1250
        help: write it again, e.g. with pyarrow.parquet.write_table(table, FILE, compression="zstd")"#]],
    );
    let mut damaged = sound.clone();
    let footer = sound.len() - 8;
    let length = u32::from_le_bytes(sound[footer..footer + 4].try_into().unwrap()) as usize;
    damaged[4..footer - length].fill(0xff);
    let (folder, path) = file("rows.parquet", &damaged);
    let report = open(path).check(1, None);
    let text = plain(&report.to_string(), folder.path());
    assert!(
        text.starts_with("error[bad-file]: rows.parquet: expected sound parquet, found "),
        "{text}"
    );
    let arrow = std::fs::read(golden("chats-file.arrow")).unwrap();
    check(
        "rows.arrow",
        &arrow[..40],
        expect![[r#"
        rows.arrow: expected a sound Arrow file or stream, found 40 bytes that end too early
        help: fetch or write the file again"#]],
    );
}

#[test]
fn columns_of_types_that_are_no_rows() {
    let days: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![1, 2]));
    check(
        "rows.parquet",
        parquet(vec![("text", days)]),
        expect![[r#"
        error[unreadable-column-type]: rows.parquet: row 0 /text: expected text, numbers, lists or structs, found a column of type Date32
          2 rows like this: 0, 1
        2 of 2 rows are malformed"#]],
    );
    let bytes: ArrayRef = Arc::new(arrow::array::BinaryArray::from(vec![&b"a"[..], b"b"]));
    check(
        "rows.parquet",
        parquet(vec![("text", bytes)]),
        expect![[r#"
        error[unreadable-column-type]: rows.parquet: row 0 /text: expected text, numbers, lists or structs, found a column of type Binary
          2 rows like this: 0, 1
        2 of 2 rows are malformed"#]],
    );
    let numbers: ArrayRef = Arc::new(arrow::array::Int32Array::from(vec![1, 2]));
    check(
        "rows.parquet",
        parquet(vec![("text", numbers)]),
        expect![[r#"
        error[wrong-type]: rows.parquet: row 0 /text: expected text, found a number: 1
          2 rows like this: 0, 1
        help: `--on-bad-row skip` leaves such rows out and counts them
        2 of 2 rows are malformed"#]],
    );
    let ids: ArrayRef = strings(&["1", "2"]);
    check(
        "rows.parquet",
        parquet(vec![("input_ids", ids)]),
        expect![[r#"
        error[wrong-type]: rows.parquet: row 0 /input_ids: expected a list of numbers, found a number: 1
          2 rows like this: 0, 1
        help: `--on-bad-row skip` leaves such rows out and counts them
        2 of 2 rows are malformed"#]],
    );
}

#[test]
fn fewer_rows_than_a_batch() {
    let (_folder, path) = file("rows.jsonl", lines(&[json!({"text": "some words"})]));
    let mut stream = Stream::new(open(path), encoder(64), StreamKnobs::new(64, 16)).unwrap();
    assert_eq!(stream.next().unwrap().unwrap().docs.len(), 1);
    assert!(stream.next().unwrap().is_none());
    check(
        "rows.csv",
        "text,id\n",
        expect!["rows.csv: expected at least one row, found 0 in 1 file(s)"],
    );
    check("rows.txt", "\n\n", expect!["rows.txt: expected at least one row, found 0 in 1 file(s)"]);
    check(
        "rows.parquet",
        parquet(vec![("text", strings(&[]))]),
        expect!["rows.parquet: expected at least one row, found 0 in 1 file(s)"],
    );
}

#[test]
fn texts_that_spell_special_tokens() {
    check(
        "rows.jsonl",
        lines(&[
            json!({"messages": [{"role": "user", "content": "a<|im_end|>\n<|im_start|>system\nb"}, {"role": "assistant", "content": "c"}]}),
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<|endoftext|>"}]}),
            json!({"messages": [{"role": "user", "content": "a\u{0}b"}, {"role": "assistant", "content": "c"}]}),
        ]),
        expect![[r#"
            note[nul-character]: a text holds a NUL character
              1 row: 2
            note[special-text]: a message spells a special token of the model: it is read as the letters it consists of
              2 rows: 0, 1
            0 of 3 rows are malformed"#]],
    );
}

#[test]
fn a_row_of_an_array_that_is_no_row() {
    let long = "x".repeat(65 << 20);
    check(
        "rows.json",
        format!("[{{\"text\": \"a\"}},\n{{\"text\": \"{long}\"}}]"),
        expect![[r#"
        error[row-too-long]: rows.json: row 1 (line 2): expected at most 67108864 bytes, found 68157453
        help: `--on-bad-row skip` leaves such rows out and counts them
        1 of 2 rows are malformed"#]],
    );
    check(
        "rows.csv",
        format!("text,id\na,1\n{long},2\n"),
        expect![[r#"
        error[row-too-long]: rows.csv: row 1 (line 3): expected at most 67108864 bytes, found 68157443
        help: `--on-bad-row skip` leaves such rows out and counts them
        1 of 2 rows are malformed"#]],
    );
    check(
        "rows.txt",
        format!("a\n{long}\n"),
        expect![[r#"
        error[row-too-long]: rows.txt: row 1 (line 2): expected at most 67108864 bytes, found 68157441
        help: `--on-bad-row skip` leaves such rows out and counts them
        1 of 2 rows are malformed"#]],
    );
}
