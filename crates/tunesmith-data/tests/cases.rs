//! The ways in which data goes wrong, and what a check of the whole set says of each: whole messages.
//!
//! `errors.rs` holds the messages of single files and configurations; here stand the cases that need several rows or
//! files, the remarks about rows that are odd and not wrong, the form for programs, and what costs memory or time.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{encoder, file, golden, open};
use expect_test::{Expect, expect};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;
use tunesmith_data::tokens::{BatchSource, EncodeKnobs, Encoder, Template, Tokenizer};
use tunesmith_data::{Dataset, Level, RowKnobs, Stream, StreamKnobs};

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn turns(roles: &[&str]) -> Value {
    let turn = |(i, role): (usize, &&str)| json!({"role": role, "content": format!("c{i}")});
    json!({"messages": roles.iter().enumerate().map(turn).collect::<Vec<_>>()})
}

/// Everything that a check of these rows says, at 64 tokens a row.
fn check(rows: &[Value], expected: Expect) {
    let (folder, path) = file("rows.jsonl", lines(rows));
    let report = open(&path).check(20, Some(&encoder(64)));
    expected.assert_eq(&plain(&report.to_string(), folder.path()));
}

/// The error of opening files of these names and contents together.
fn refused(files: &[(&str, &str)], expected: Expect) {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = files.iter().map(|(name, _)| folder.path().join(name)).collect();
    for (path, (_, content)) in paths.iter().zip(files) {
        std::fs::write(path, content).unwrap();
    }
    let error = Dataset::open(&paths, &RowKnobs::default()).unwrap_err();
    expected.assert_eq(&plain(&error.to_string(), folder.path()));
}

fn plain(text: &str, folder: &Path) -> String {
    text.replace(&format!("{}/", folder.display()), "")
}

#[test]
fn a_hundred_errors_are_a_summary() {
    let row = |i: usize| match i % 10 {
        3 => json!({"messages": [{"role": "user", "content": null}]}),
        5 => json!({"messages": []}),
        7 => json!({"messages": [{"role": "human", "content": "a"}]}),
        _ => turns(&["user", "assistant"]),
    };
    check(
        &(0..1000).map(row).collect::<Vec<_>>(),
        expect![[r#"
        error[null-content]: rows.jsonl: row 3 (line 4) /messages/0/content: expected text, found null
          100 rows like this: 3, 13, 23, …
        help: `--on-bad-row skip` leaves such rows out and counts them
        error[empty-messages]: rows.jsonl: row 5 (line 6) /messages: expected at least one message, found an empty list
          100 rows like this: 5, 15, 25, …
        help: `--on-bad-row skip` leaves such rows out and counts them
        error[unknown-role]: rows.jsonl: row 7 (line 8) /messages/0/role: unknown role `human`
          100 rows like this: 7, 17, 27, …
        help: `[roles] human = "user"` in the data set's TOML reads it as `user`
        300 of 1000 rows are malformed"#]],
    );
}

#[test]
fn the_same_for_programs() {
    let good = turns(&["user", "assistant"]);
    let bad = json!({"messages": [{"role": "user", "content": null}]});
    let open_end = turns(&["user", "assistant", "user"]);
    let (folder, path) = file("rows.jsonl", lines(&[good, bad.clone(), bad, open_end]));
    let report = open(&path).check(20, Some(&encoder(64)));
    let diagnostics = report.diagnostics();
    assert_eq!(
        diagnostics.iter().map(|d| d.level).collect::<Vec<_>>(),
        [Level::Error, Level::Note]
    );
    let text = serde_json::to_string_pretty(&diagnostics).unwrap();
    expect![[r#"
        [
          {
            "level": "error",
            "code": "null-content",
            "message": "expected text, found null",
            "file": "rows.jsonl",
            "row": 1,
            "line": 2,
            "pointer": "/messages/0/content",
            "alike": 2,
            "rows": [
              1,
              2
            ],
            "help": "`--on-bad-row skip` leaves such rows out and counts them"
          },
          {
            "level": "note",
            "code": "unanswered",
            "message": "the last turn is not the assistant's: what stands behind the last answer is read and never trained",
            "row": 3,
            "alike": 1,
            "rows": [
              3
            ]
          }
        ]"#]].assert_eq(&plain(&text, folder.path()));
    let error = Dataset::open(&[folder.path().join("no.jsonl")], &RowKnobs::default()).unwrap_err();
    let text = serde_json::to_string(&tunesmith_data::Diagnostic::from(&error)).unwrap();
    expect![[r#"{"level":"error","code":"no-such-file","message":"no.jsonl: no such file or folder","file":"no.jsonl","help":"did you mean rows.jsonl"}"#]].assert_eq(&plain(&text, folder.path()));
}

#[test]
fn columns_that_other_files_have() {
    refused(
        &[("a.jsonl", "{\"text\": \"a\"}\n"), ("b.jsonl", "{\"body\": \"b\"}\n")],
        expect![[r#"
        b.jsonl: shape text needs the column `text`, found `body`; a.jsonl has it
        help: `[columns] text = "body"` in the data set's TOML reads `body` instead"#]],
    );
    refused(
        &[("a.csv", "text,id\na,1\n"), ("b.csv", "id,name\n1,b\n")],
        expect![[r#"
        b.csv: shape text needs the column `text`, found `id`, `name`; a.csv has it
        help: `[columns] text = "…"` in the data set's TOML names the column to read"#]],
    );
    refused(
        &[
            ("a.jsonl", "{\"messages\": []}\n"),
            ("b.jsonl", "{\"prompt\": \"b\", \"completion\": \"c\"}\n"),
        ],
        expect![[r#"
            b.jsonl: shape messages needs the column `messages`, found `prompt`, `completion`; a.jsonl has it
            help: the columns fit `shape = "prompt-completion"`"#]],
    );
}

#[test]
fn structs_of_lists_are_lists_of_structs() {
    let row = json!({"messages": {"role": ["user", "assistant"], "content": ["a", "b"]}});
    let (_folder, path) = file("rows.jsonl", lines(&[row]));
    let sample = open(path).sample(0).unwrap();
    assert!(format!("{sample:?}").contains("\"b\""));
    let uneven = json!({"messages": {"role": ["user"], "content": ["a", "b"]}});
    check(
        &[uneven],
        expect![[r#"
        error[wrong-type]: rows.jsonl: row 0 (line 1) /messages: expected a list of messages, found an object: {"role":["user"],"content":["a","b"]}
        help: `--on-bad-row skip` leaves such rows out and counts them
        1 of 1 rows are malformed"#]],
    );
}

#[test]
fn turns_that_are_odd() {
    check(
        &[
            turns(&["user", "assistant"]),
            turns(&["user", "assistant", "user"]),
            turns(&["user", "user", "assistant"]),
            turns(&["user"]),
            json!({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": " \n"}]}),
            json!({"messages": [{"role": "user", "content": "a<|im_end|>"}, {"role": "assistant", "content": "b\u{0}"}]}),
        ],
        expect![[r#"
            note[nul-character]: a text holds a NUL character
              1 row: 5
            note[empty-answer]: an answer is empty: only the token that ends it is trained
              1 row: 4
            note[nothing-trained]: no token of the row is trained: it is dropped
              1 row: 3
            note[roles-do-not-alternate]: two turns of the same role follow each other
              1 row: 2
            note[special-text]: a message spells a special token of the model: it is read as the letters it consists of
              1 row: 5
            note[unanswered]: the last turn is not the assistant's: what stands behind the last answer is read and never trained
              2 rows: 1, 3
            0 of 6 rows are malformed"#]],
    );
}

#[test]
fn rows_that_are_too_long() {
    let long = "word ".repeat(200);
    let said = |asked: &str, answered: &str| json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]});
    check(
        &[said("a", "b"), said("a", &long), said(&long, "b"), said("a", &long)],
        expect![[r#"
        note[answer-cut-off]: the row is longer than the limit, and no trained token is left: it is dropped
          1 row: 2
        note[cut-off]: the row is longer than the limit: its tokens beyond are cut off
          2 rows: 1, 3
        0 of 4 rows are malformed"#]],
    );
}

#[test]
fn templates_that_want_other_turns() {
    let source = "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}\
                  {{ raise_exception('roles must alternate') }}{% endif %}{{ m.content }}{% endfor %}";
    let template = Template::parse(source, [("eos_token", "<|endoftext|>")]).unwrap();
    let tokenizer = std::sync::Arc::new(Tokenizer::from_dir(golden("tiny")).unwrap());
    let encoder = Encoder::new(tokenizer, Some(template), EncodeKnobs::default());
    let rows = [
        turns(&["user", "assistant"]),
        turns(&["user", "assistant", "user", "user"]),
        turns(&["assistant", "user"]),
        turns(&["system", "user", "assistant"]),
    ];
    let (folder, path) = file("rows.jsonl", lines(&rows));
    let report = open(path).check(20, Some(&encoder));
    expect![[r#"
        error[refused-by-the-template-or-tokenizer]: rows.jsonl: row 1 (line 2): the chat template refuses this conversation: roles must alternate (roles: user, assistant, user, user)
          3 rows like this: 1, 2, 3
        help: `--on-bad-row skip` leaves such rows out and counts them
        note[roles-do-not-alternate]: two turns of the same role follow each other
          1 row: 1
        note[unanswered]: the last turn is not the assistant's: what stands behind the last answer is read and never trained
          2 rows: 1, 2
        3 of 4 rows are malformed"#]].assert_eq(&plain(&report.to_string(), folder.path()));
}

#[test]
fn preferences_that_prefer_nothing() {
    let prefer = |chosen: Value, rejected: Value| json!({"prompt": "p", "chosen": chosen, "rejected": rejected});
    let message = |content: &str| json!([{"role": "assistant", "content": content}]);
    let whole = |asked: &str, answered: &str| json!([{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]);
    check(
        &[
            prefer(json!("a"), json!("b")),
            prefer(json!("a"), json!("a")),
            prefer(json!("a"), Value::Null),
            prefer(message("a"), message("a")),
            prefer(json!("a"), message("a")),
            json!({"chosen": whole("q", "a"), "rejected": whole("r", "b")}),
            json!({"chosen": whole("q", "a"), "rejected": [{"role": "user", "content": "q"}]}),
            json!({"prompt": "p", "chosen": "a"}),
        ],
        expect![[r#"
            error[chosen-and-rejected-are-the-same]: rows.jsonl: row 1 (line 2) /rejected: the chosen and the rejected answer are the same
              2 rows like this: 1, 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[null-content]: rows.jsonl: row 2 (line 3) /rejected: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 4 (line 5) /rejected: expected two texts or two lists of messages, found one of each
              2 rows like this: 4, 6
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[chosen-and-rejected-share-no-prompt]: rows.jsonl: row 5 (line 6) /rejected: the chosen and the rejected conversation begin with different messages, and there is no prompt
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[missing-column]: rows.jsonl: row 7 (line 8): expected the column `rejected`, found `prompt`, `chosen`
            help: `--on-bad-row skip` leaves such rows out and counts them
            7 of 8 rows are malformed"#]],
    );
}

#[test]
fn labels_that_are_none() {
    check(
        &[
            json!({"text": "a", "label": 1}),
            json!({"text": "a", "label": "spam"}),
            json!({"text": "a", "label": null}),
            json!({"text": "a", "label": [1]}),
        ],
        expect![[r#"
            error[unknown-label]: rows.jsonl: row 1 (line 2) /label: unknown label `spam`
            help: `labels = ["…", "…"]` in the data set's TOML lists the classes in the order of their indices
            error[wrong-type]: rows.jsonl: row 2 (line 3) /label: expected a label: a number, true or false, or a name, found null
              2 rows like this: 2, 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            3 of 4 rows are malformed"#]],
    );
    check(
        &[
            json!({"prompt": "a", "completion": "b", "label": true}),
            json!({"prompt": "a", "completion": "b", "label": 3}),
            json!({"prompt": "a", "completion": "b", "label": "maybe"}),
        ],
        expect![[r#"
            error[no-label-of-a-wanted-answer]: rows.jsonl: row 1 (line 2) /label: expected true or false: whether the answer is wanted, found a number: 3
              2 rows like this: 1, 2
            help: where the label means something else, `shape = "messages"` in the data set's TOML reads the rows without it
            2 of 3 rows are malformed"#]],
    );
    check(
        &[
            json!({"prompt": "a", "completions": ["b"], "labels": [true, false]}),
            json!({"prompt": "a", "completions": [], "labels": []}),
            json!({"prompt": "a", "completions": ["b"], "labels": ["right"]}),
        ],
        expect![[r#"
            error[labels-do-not-fit]: rows.jsonl: row 0 (line 1) /labels: expected 1 labels, one for each step, found 2
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 1 (line 2) /completions: expected at least one step, found none
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 2 (line 3) /labels/0: expected a number of at least 0, or true or false, found text: "right"
            help: `--on-bad-row skip` leaves such rows out and counts them
            3 of 3 rows are malformed"#]],
    );
}

#[test]
fn weights_tools_and_history_that_are_none() {
    let answer = |extra: Value| {
        let mut answer = json!({"role": "assistant", "content": "b"});
        answer.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "a"}, answer]})
    };
    check(
        &[
            answer(json!({"loss_weight": -1})),
            answer(json!({"train": "perhaps"})),
            answer(json!({"tool_calls": "{"})),
            answer(json!({"tool_calls": [3]})),
            json!({"messages": [{"from": "human", "value": "a"}, {"from": "function_call", "value": "f(1)"}]}),
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            json!({"messages": [{"role": "user", "content": "a"}], "chat_template_kwargs": [1]}),
            json!({"messages": [{"role": "user", "content": "a"}], "loss_weight": "x"}),
        ],
        expect![[r#"
            error[wrong-type]: rows.jsonl: row 0 (line 1) /messages/1/loss_weight: expected a number of at least 0, or true or false, found a number: -1
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 1 (line 2) /messages/1/train: expected a number of at least 0, or true or false, found text: "perhaps"
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 2 (line 3) /messages/1/tool_calls: expected JSON, found text: "{"
              2 rows like this: 2, 3
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 4 (line 5) /messages/1/value: expected JSON, found text: "f(1)"
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[null-content]: rows.jsonl: row 5 (line 6) /messages/0/content/0/text: expected text, found null
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 6 (line 7) /chat_template_kwargs: expected an object of template variables, found a list: [1]
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 7 (line 8) /loss_weight: expected a number of at least 0, or true or false, found text: "x"
            help: `--on-bad-row skip` leaves such rows out and counts them
            8 of 8 rows are malformed"#]],
    );
    check(
        &[
            json!({"instruction": "a", "output": "b", "history": "c"}),
            json!({"instruction": "a", "output": "b", "history": [["c"]]}),
            json!({"instruction": "a", "output": "b", "history": [["c", 4]]}),
        ],
        expect![[r#"
            error[wrong-type]: rows.jsonl: row 0 (line 1) /history: expected a list of pairs, found text: "c"
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 1 (line 2) /history/0: expected a pair of what was asked and answered, found a list: ["c"]
            help: `--on-bad-row skip` leaves such rows out and counts them
            error[wrong-type]: rows.jsonl: row 2 (line 3) /history/0/1: expected text, found a number: 4
            help: `--on-bad-row skip` leaves such rows out and counts them
            3 of 3 rows are malformed"#]],
    );
}

#[test]
fn keys_that_stand_twice() {
    let (folder, path) = file(
        "rows.jsonl",
        "{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}]}\n\
         {\"messages\": [{\"role\": \"user\", \"content\": \"a\", \"content\": \"b\"}]}\n",
    );
    let error = open(path).sample(1).unwrap_err();
    expect![[r#"
        rows.jsonl: row 1 (line 2): the key `content` stands twice in an object, at byte 104 of the file
        help: `--on-bad-row skip` leaves such rows out and counts them"#]].assert_eq(&plain(&error.to_string(), folder.path()));
}

#[test]
fn a_line_that_is_no_row() {
    let (folder, path) = file(
        "rows.jsonl",
        format!("{{\"text\": \"a\"}}\n{{\"text\": \"{}\"}}\n", "x".repeat(65 << 20)),
    );
    let error = open(path).sample(1).unwrap_err();
    expect![[r#"
        rows.jsonl: row 1 (line 2): expected at most 67108864 bytes, found 68157453
        help: `--on-bad-row skip` leaves such rows out and counts them"#]]
    .assert_eq(&plain(&error.to_string(), folder.path()));
}

#[test]
fn a_codec_that_is_not_built_in() {
    // the codec of each column in the footer, in thrift's compact form: field 4, an i32, behind which stands an i64
    let mut parquet = std::fs::read(golden("codec-none.parquet")).unwrap();
    let footer = parquet.len() - 8 - 1400;
    for at in footer..parquet.len() - 10 {
        if parquet[at..at + 3] == [0x15, 0x00, 0x16] {
            parquet[at + 1] = 6; // LZO, as a zigzag number
        }
    }
    let (folder, path) = file("rows.parquet", parquet);
    let error = Dataset::open(&[path], &RowKnobs::default()).unwrap_err();
    expect![[r#"
        rows.parquet: expected a codec of snappy, gzip, brotli, lz4, zstd or none, found LZO
        help: write it again, e.g. with pyarrow.parquet.write_table(table, FILE, compression="zstd")"#]].assert_eq(&plain(&error.to_string(), folder.path()));
}

#[test]
fn a_file_that_changes_while_it_is_read() {
    let (folder, path) = file("rows.jsonl", "{\"text\": \"some words to learn\"}\n".repeat(5000));
    let knobs = StreamKnobs { window: 100, ..StreamKnobs::new(64, 1) };
    let mut stream = Stream::new(open(&path), encoder(64), knobs).unwrap();
    assert!(stream.next().unwrap().is_some());
    std::thread::sleep(Duration::from_millis(20));
    std::fs::write(&path, "{\"text\": \"other\"}\n").unwrap();
    let error = loop {
        match stream.next() {
            Ok(batch) => assert!(batch.is_some(), "read to the end of a file that is gone"),
            Err(error) => break error,
        }
    };
    expect![[r#"
        rows.jsonl: expected the file that was opened, found one of another size or time
        help: data must not change while it is trained; start again"#]]
    .assert_eq(&plain(&error.to_string(), folder.path()));
}

#[test]
fn rows_without_a_class_but_one() {
    let rows: Vec<_> = (0..20).map(|i| json!({"text": format!("t{i}"), "label": i % 3})).collect();
    let (_folder, path) = file("rows.jsonl", lines(&rows));
    assert_eq!(open(&path).classes(3), [7, 7, 6]);
    assert_eq!(open(&path).classes(2), [7, 7]);
    let (stats, _) = open(path).stats(&encoder(64), Some(64), 20).unwrap();
    assert_eq!(stats.labels, [("0", 7), ("1", 7), ("2", 6)].map(|(l, n)| (l.to_owned(), n)).into());
}

#[test]
fn the_table_of_cases_names_tests_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folders = ["tests", "../tunesmith-hub/tests", "../../tests/tests"];
    let table = std::fs::read_to_string(root.join("tests/README.md")).unwrap();
    let rows: Vec<&str> =
        table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| #")).collect();
    assert_eq!(rows.len(), 33);
    for (row, number) in rows.iter().zip(1..) {
        assert!(row.starts_with(&format!("| {number} | ")), "{row}");
        let named = row.split('`').skip(1).step_by(2).filter_map(|name| name.split_once(": "));
        let mut n_named = 0;
        for (file, test) in named {
            n_named += 1;
            let code = folders
                .iter()
                .find_map(|folder| std::fs::read_to_string(root.join(folder).join(file)).ok());
            let is_there = code.is_some_and(|code| code.contains(&format!("fn {test}()")));
            assert!(is_there, "{file}: {test}");
        }
        assert!(n_named > 0, "{row}");
    }
}
