//! Files as people have them: byte order marks, blank lines, arrays, folders, patterns.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{file, golden, open};
use serde_json::json;
use tunesmith_data::tokens::Sample;
use tunesmith_data::{Dataset, DatasetConfig, RowKnobs, Shape, expand};

fn texts(content: impl AsRef<[u8]>, name: &str) -> Vec<String> {
    let (_folder, path) = file(name, content);
    let dataset = open(path);
    let text = |row| match dataset.sample(row).unwrap() {
        Sample::Text(text) => text,
        other => panic!("{other:?}"),
    };
    (0..dataset.len()).map(text).collect()
}

#[test]
fn json_in_its_various_coats() {
    let cases: [(&str, &str, &[&str]); 9] = [
        ("plain", "{\"text\":\"a\"}\n{\"text\":\"b\"}\n", &["a", "b"]),
        ("no last line end", "{\"text\":\"a\"}\n{\"text\":\"b\"}", &["a", "b"]),
        (
            "CRLF and blank lines",
            "\r\n{\"text\":\"a\"}\r\n\r\n  \t\n{\"text\":\"b\"}\r\n\n",
            &["a", "b"],
        ),
        ("byte order mark", "\u{feff}{\"text\":\"a\"}\n{\"text\":\"b\"}\n", &["a", "b"]),
        (
            "line separators in text",
            "{\"text\":\"a\u{2028}\u{85}\"}\n{\"text\":\"b\"}\n",
            &["a\u{2028}\u{85}", "b"],
        ),
        ("array", "[{\"text\":\"a\"},{\"text\":\"b\"}]", &["a", "b"]),
        (
            "array over lines",
            " \n[\n  {\"text\": \"a\"\n  },\n  {\n\"text\": \"]},[{\\\"\"}\n]\n",
            &["a", "]},[{\""],
        ),
        ("array after a mark", "\u{feff}[{\"text\":\"a\",\"more\":[[{}],{\"x\":\"}\"}]}]", &["a"]),
        ("other columns", "{\"id\":1,\"text\":\"a\",\"meta\":{\"text\":\"no\"}}\n", &["a"]),
    ];
    for (what, content, expected) in cases {
        for name in ["rows.jsonl", "rows.json"] {
            assert_eq!(texts(content, name), expected, "{what} as {name}");
        }
    }
}

#[test]
fn lines_are_found_across_the_blocks_of_the_index() {
    // blocks are 8 MiB: lines of awkward lengths, so that many borders fall inside lines and one on a line's end
    let mut content = String::new();
    let mut expected = Vec::new();
    let mut i = 0usize;
    while content.len() < 20 << 20 {
        let text = format!("{i:07}{}", "x".repeat(i * 7919 % 90_000));
        content += &format!("{{\"text\":\"{text}\"}}\n");
        if i.is_multiple_of(3) {
            content += " \n";
        }
        expected.push(text);
        i += 1;
        let to_border = (8 << 20) - content.len() % (8 << 20);
        if to_border < 100_000 && to_border > 100 {
            let text = "y".repeat(to_border - "{\"text\":\"\"}\n".len());
            content += &format!("{{\"text\":\"{text}\"}}\n");
            assert_eq!(content.len() % (8 << 20), 0);
            expected.push(text);
        }
    }
    assert!(texts(&content, "long.jsonl") == expected);
    let array = format!("[{}]", content.trim_end().replace("\n \n", "\n").replace('\n', ","));
    assert!(texts(&array, "long.json") == expected);
}

#[test]
fn folders_and_patterns_are_sorted_and_files_are_counted_through() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("sub")).unwrap();
    for (name, text) in [
        ("b.jsonl", "b"),
        ("a.jsonl", "a"),
        ("sub/c.jsonl", "c"),
        (".hidden.jsonl", "no"),
        ("info.json", "no"),
    ] {
        std::fs::write(folder.path().join(name), format!("{{\"text\":\"{text}\"}}\n")).unwrap();
    }
    let names = |pattern: &str| -> Vec<String> {
        let files = expand(&[folder.path().join(pattern)]).unwrap();
        files
            .iter()
            .map(|file| file.strip_prefix(folder.path()).unwrap().display().to_string())
            .collect()
    };
    assert_eq!(names(""), ["a.jsonl", "b.jsonl", "sub/c.jsonl"]);
    assert_eq!(names("*.jsonl"), ["a.jsonl", "b.jsonl"]);
    assert_eq!(names("**/*.jsonl"), ["a.jsonl", "b.jsonl", "sub/c.jsonl"]);
    let dataset = open(folder.path());
    let rows: Vec<_> = (0..3).map(|row| dataset.row(row).unwrap()["text"].clone()).collect();
    assert_eq!(rows, ["a", "b", "c"]);
}

fn shape_of(row: serde_json::Value) -> (Shape, Sample) {
    let (_folder, path) = file("rows.jsonl", row.to_string());
    let dataset = open(path);
    (dataset.shape(), dataset.sample(0).unwrap())
}

#[test]
fn shapes_are_found_from_the_columns() {
    let chat = |row| match shape_of(row) {
        (shape, Sample::Chat(conversation)) => (shape, conversation),
        other => panic!("{other:?}"),
    };
    let turns = json!([{"role": "user", "content": "a"}, {"content": "b", "role": "assistant", "name": "x", "tool_calls": null}]);
    let (shape, conversation) =
        chat(json!({"prompt": "a", "prompt_id": "0", "messages": turns, "tools": "[{\"f\": 1}]"}));
    assert_eq!(shape, Shape::Messages);
    assert_eq!(
        serde_json::to_value(&conversation).unwrap(),
        json!({
            "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", "name": "x"}],
            "tools": [{"f": 1}],
        })
    );

    let call = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null, "tool_calls": [{"f": 1}]}]);
    assert_eq!(chat(json!({"messages": call})).1.messages[1].content, "");

    let (shape, conversation) =
        chat(json!({"instruction": "Add.", "input": "1 2", "output": "3", "text": "…"}));
    assert_eq!(shape, Shape::Alpaca);
    assert_eq!(
        serde_json::to_value(&conversation.messages).unwrap(),
        json!([
            {"role": "user", "content": "Add.\n1 2", "instruction": "Add.", "input": "1 2"},
            {"role": "assistant", "content": "3"},
        ])
    );
    for row in [
        json!({"instruction": "Go.", "input": "", "output": "3"}),
        json!({"instruction": "Go.", "output": "3"}),
    ] {
        assert_eq!(chat(row).1.messages[0].content, "Go.");
    }

    let (shape, sample) = shape_of(json!({"prompt": "a", "completion": "b"}));
    assert_eq!(shape, Shape::PromptCompletion);
    assert_eq!(sample, Sample::PromptCompletion { prompt: "a".into(), completion: "b".into() });
    let lists = json!({"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]});
    assert_eq!(chat(lists).1.messages.len(), 2);

    assert_eq!(shape_of(json!({"text": "a"})), (Shape::Text, Sample::Text("a".into())));

    let tokens = |trained: [bool; 3]| {
        (Shape::Tokens, Sample::Tokens { ids: vec![7, 8, 9], trained: trained.into() })
    };
    assert_eq!(
        shape_of(json!({"input_ids": [7, 8, 9], "labels": [-100, 8, 9]})),
        tokens([false, true, true])
    );
    assert_eq!(shape_of(json!({"input_ids": [7, 8, 9]})), tokens([true; 3]));
}

#[test]
fn columns_and_roles_can_be_named() {
    let (_folder, path) = file(
        "rows.jsonl",
        json!({"conversations": [{"role": "human", "content": "a"}]}).to_string(),
    );
    let config = "columns = { messages = \"conversations\" }\nroles = { human = \"user\" }\n";
    let config = DatasetConfig::parse(config, "test").unwrap();
    let dataset = Dataset::open(&[path], &RowKnobs::from(&config)).unwrap();
    assert!(
        matches!(dataset.sample(0).unwrap(), Sample::Chat(conversation) if conversation.messages[0].role == "user")
    );

    let (_folder, path) = file("rows.jsonl", json!({"question": "a", "answer": "b"}).to_string());
    let config = "shape = \"prompt-completion\"\n[columns]\nprompt = \"question\"\ncompletion = \"answer\"\n";
    let config = DatasetConfig::parse(config, "test").unwrap();
    let dataset = Dataset::open(&[path], &RowKnobs::from(&config)).unwrap();
    assert_eq!(
        dataset.sample(0).unwrap(),
        Sample::PromptCompletion { prompt: "a".into(), completion: "b".into() }
    );
}

#[test]
fn the_data_sets_that_ship_are_sound() {
    let folder = golden("../../../../configs/datasets");
    for name in DatasetConfig::names(&folder) {
        let config = DatasetConfig::find(&name, &folder).unwrap();
        config.split(None).unwrap();
    }
    let ultrachat = DatasetConfig::find("ultrachat", &folder).unwrap();
    assert_eq!(
        ultrachat.split(None).unwrap(),
        ("train_sft", &["data/train_sft-*.parquet".to_owned()][..])
    );
    assert_eq!(ultrachat.sample.unwrap(), folder.join("../../data/ultrachat_sample.jsonl"));
}

#[test]
fn local_splits_are_relative_to_the_file_that_names_them() {
    let (folder, path) =
        file("mine.toml", "[splits]\ntrain = \"rows/*.jsonl\"\ntest = [\"t.jsonl\"]\n");
    let config = DatasetConfig::load(&path).unwrap();
    let local = |name: &str| vec![folder.path().join(name).display().to_string()];
    assert_eq!(config.split(None).unwrap(), ("train", &local("rows/*.jsonl")[..]));
    assert_eq!(config.split(Some("test")).unwrap().1, local("t.jsonl"));
}
