//! The files' contents, by name.

use crate::chat::{Chat, N_TEST, N_TRAIN, Split, conversations};
use crate::corpus::{N_DOCUMENTS, document};
use crate::model;
use crate::world::World;
use serde_json::{Value, json};
use std::error::Error;

/// The folder of the tiny model inside `data/`.
pub(crate) const MODEL: &str = "tunesmith-tiny";

/// Everything that is committed, except the weights: (path inside `data/`, text).
pub(crate) fn data_files(
    world: &World,
) -> Result<Vec<(String, String)>, Box<dyn Error + Send + Sync>> {
    let train = conversations(world, Split::Train, N_TRAIN);
    let test = conversations(world, Split::Test, N_TEST);
    let mut texts: Vec<String> = (0..N_DOCUMENTS).map(|number| document(world, number)).collect();
    texts.extend(
        train
            .iter()
            .flat_map(|chat| &chat.turns)
            .flat_map(|(ask, answer)| [ask.clone(), answer.clone()]),
    );
    let in_model = |file: &str| format!("{MODEL}/{file}");
    Ok(vec![
        ("ultrachat_sample.jsonl".to_owned(), lines(train.iter().map(Chat::row))),
        ("ultrachat_sample_test.jsonl".to_owned(), lines(test.iter().map(Chat::row))),
        ("prompts.jsonl".to_owned(), lines(prompts(world).iter().map(Chat::question))),
        (in_model("tokenizer.json"), model::tokenizer(&texts)? + "\n"),
        (in_model("tokenizer_config.json"), pretty(&model::tokenizer_config())),
        (in_model("chat_template.jinja"), model::TEMPLATE.to_owned()),
        (in_model("config.json"), pretty(&model::config())),
        (in_model("generation_config.json"), pretty(&model::generation_config())),
    ])
}

/// Documents of one row of the corpus: about 450 tokens, so that a row nearly fills a pack of 512.
const DOCUMENTS_PER_ROW: usize = 4;

/// The pre-training corpus: rows of several documents, one after the other, each ended by `<|endoftext|>`.
pub(crate) fn corpus(world: &World) -> String {
    let documents: Vec<String> = (0..N_DOCUMENTS).map(|number| document(world, number)).collect();
    let rows = documents.chunks(DOCUMENTS_PER_ROW);
    lines(rows.map(|row| json!({"text": row.join("<|endoftext|>")})))
}

/// Held-out questions with what a right answer contains: `{"messages": […], "want": …}`.
pub(crate) fn questions(world: &World, n: usize) -> String {
    lines(conversations(world, Split::Test, n).iter().map(|chat| {
        let mut row = chat.question();
        row["want"] = json!(chat.want);
        row
    }))
}

/// The prompts of the samples before and after: the first held-out conversation of each sort, past the test file.
pub(crate) fn prompts(world: &World) -> Vec<Chat> {
    let held_out = conversations(world, Split::Test, 1_000);
    let sorts = [
        "capital of",
        "continent?",
        " eat?",
        "opposite",
        "plus",
        "used for?",
        "story",
        "who are you",
    ];
    let mut chosen: Vec<Chat> = Vec::new();
    for sort in sorts {
        let fits = |chat: &&Chat| {
            let question =
                chat.turns.last().map(|(question, _)| question.to_lowercase()).unwrap_or_default();
            question.contains(sort)
        };
        chosen.extend(held_out[N_TEST..].iter().find(fits).cloned());
    }
    chosen
}

fn lines(rows: impl Iterator<Item = Value>) -> String {
    rows.map(|row| row.to_string() + "\n").collect()
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
