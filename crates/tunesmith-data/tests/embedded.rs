//! What `data/` ships is what the generator in `examples/embedded` writes, and it keeps its promises: UltraChat's
//! columns, small files, and nothing held out in the training conversations.

#[path = "../examples/embedded/chat.rs"]
mod chat;
#[path = "../examples/embedded/corpus.rs"]
mod corpus;
#[path = "../examples/embedded/dice.rs"]
mod dice;
#[path = "../examples/embedded/model.rs"]
mod model;
#[path = "../examples/embedded/outputs.rs"]
mod outputs;
#[path = "../examples/embedded/stories.rs"]
mod stories;
#[path = "../examples/embedded/world.rs"]
mod world;

use serde_json::Value;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use world::World;

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../data")
}

fn rows(file: &str) -> Vec<Value> {
    json_lines(&std::fs::read_to_string(data().join(file)).expect("a file of data/"))
}

fn json_lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("JSON lines")).collect()
}

/// A regression test: the committed files are tunesmith's own output, byte for byte.
#[test]
fn committed_files_are_what_the_generator_writes() {
    for (name, text) in outputs::data_files(&World::new()).unwrap() {
        let committed = std::fs::read_to_string(data().join(&name)).unwrap();
        assert!(
            committed == text,
            "data/{name} differs from the generator's output\n\
             help: cargo run -p tunesmith-data --example embedded"
        );
    }
}

#[test]
fn rows_have_ultrachats_columns() {
    for (file, n) in
        [("ultrachat_sample.jsonl", chat::N_TRAIN), ("ultrachat_sample_test.jsonl", chat::N_TEST)]
    {
        let rows = rows(file);
        assert_eq!(rows.len(), n, "{file}");
        for row in &rows {
            let columns: Vec<&String> = row.as_object().unwrap().keys().collect();
            assert_eq!(columns, ["prompt", "prompt_id", "messages"], "{file}");
            assert_eq!(row["prompt_id"].as_str().unwrap().len(), 64);
            let messages = row["messages"].as_array().unwrap();
            assert_eq!(messages[0]["content"], row["prompt"]);
            for (i, message) in messages.iter().enumerate() {
                assert_eq!(message["role"], ["user", "assistant"][i % 2]);
                assert!(
                    !message["content"].as_str().unwrap().contains(['{', '}']),
                    "an unfilled place: {message}"
                );
            }
            assert_eq!(messages.len() % 2, 0, "the assistant has the last word");
        }
    }
}

#[test]
fn training_conversations_know_nothing_that_is_held_out() {
    let secret = chat::held_out_words(&World::new());
    assert!(secret.len() > 60, "only {} names are held out", secret.len());
    let train = rows("ultrachat_sample.jsonl");
    let mut asked = HashSet::new();
    for message in train.iter().flat_map(|row| row["messages"].as_array().unwrap()) {
        let content = message["content"].as_str().unwrap();
        for word in chat::words(content) {
            assert!(!secret.contains(&word), "`{word}` is held out, but training says: {content}");
        }
        asked.insert(content);
    }
    // A later question such as "And what does it eat?" occurs in training, but never about this animal.
    let questions = json_lines(&outputs::questions(&World::new(), 1_000));
    for row in
        questions.iter().chain(&rows("ultrachat_sample_test.jsonl")).chain(&rows("prompts.jsonl"))
    {
        let first = row["messages"][0]["content"].as_str().unwrap();
        assert!(!asked.contains(first), "the held-out question `{first}` occurs in training");
    }
}

#[test]
fn the_corpus_states_what_the_test_asks_and_holds_no_chat() {
    let world = World::new();
    let text = outputs::corpus(&world);
    assert!((3_000_000..8_000_000).contains(&text.len()), "the corpus has {} bytes", text.len());
    let statements = text.replace("<|endoftext|>", "");
    assert!(!statements.contains("<|") && !statements.contains('?'), "plain statements only");
    for row in
        world.tables.iter().flat_map(|table| &table.rows).filter(|row| !row.key().contains('+'))
    {
        let key = row.key();
        let times = text.matches(key).count() + text.matches(&world::capital(key)).count();
        assert!(times >= 30, "the corpus names `{key}` only {times} times");
    }
}

#[test]
fn the_shipped_files_are_small() {
    let size = |file: &str| std::fs::metadata(data().join(file)).unwrap().len();
    assert!(size("ultrachat_sample.jsonl") <= 1_000_000);
    assert!(size("tunesmith-tiny/tokenizer.json") <= 200_000);
    assert!(size("tunesmith-tiny/model.safetensors") <= 4_000_000);
    assert_eq!(rows("prompts.jsonl").len(), 8);
}
