//! Rows of every shape as people have them, and the samples they become.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

mod common;

use common::{encoder, file, open};
use serde_json::{Value, json};
use tunesmith_data::tokens::{Conversation, Sample};
use tunesmith_data::{Dataset, DatasetConfig, RowKnobs, Shape};

fn read(row: Value) -> (Shape, Sample) {
    let (_folder, path) = file("rows.jsonl", row.to_string());
    let dataset = open(path);
    (dataset.shape(), dataset.sample(0).unwrap())
}

fn with(config: &str, row: Value) -> Sample {
    let config = DatasetConfig::parse(config, "test").unwrap();
    let (_folder, path) = file("rows.jsonl", row.to_string());
    Dataset::open(&[path], &RowKnobs::from(&config)).unwrap().sample(0).unwrap()
}

fn chat(sample: &Sample) -> &Conversation {
    match sample {
        Sample::Chat(conversation) | Sample::Prompt(conversation) => conversation,
        Sample::Labelled(inner, _) | Sample::Weighted(inner, _) => chat(inner),
        other => panic!("{other:?}"),
    }
}

fn messages(sample: &Sample) -> Value {
    serde_json::to_value(&chat(sample).messages).unwrap()
}

fn say(role: &str, content: &str) -> Value {
    json!({"role": role, "content": content})
}

fn plain(prompt: &str, completion: &str) -> Sample {
    Sample::PromptCompletion { prompt: prompt.into(), completion: completion.into() }
}

fn pair(sample: Sample) -> [Sample; 2] {
    match sample {
        Sample::Tied(pair) => pair.try_into().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn sharegpt_with_its_roles_and_tools() {
    let call = "{\"name\": \"search\", \"arguments\": {\"q\": \"x\"}}";
    let (shape, sample) = read(json!({
        "conversations": [
            {"from": "human", "value": "a"},
            {"from": "function_call", "value": call},
            {"from": "observation", "value": "[1]"},
            {"from": "gpt", "value": "b"},
        ],
        "system": "s",
        "tools": "[{\"name\": \"search\", \"parameters\": {}}]",
    }));
    assert_eq!(shape, Shape::ShareGpt);
    let call = json!({"type": "function", "function": {"name": "search", "arguments": {"q": "x"}}});
    assert_eq!(
        messages(&sample),
        json!([
            say("system", "s"),
            say("user", "a"),
            {"role": "assistant", "content": "", "tool_calls": [call]},
            say("tool", "[1]"),
            say("assistant", "b"),
        ])
    );
    let tool = json!({"type": "function", "function": {"name": "search", "parameters": {}}});
    assert_eq!(chat(&sample).tools, Some(json!([tool])));
    assert_eq!(chat(&sample).weights, None);
}

#[test]
fn openai_messages_with_calls_results_and_parts() {
    let call = json!({"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}});
    let (_, sample) = read(json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "4"},
        {"role": "assistant", "content": "c", "weight": 0},
        {"role": "assistant", "content": "d"},
    ], "tools": []}));
    let turns = messages(&sample);
    assert_eq!(turns[0], say("user", "ab"));
    assert_eq!(turns[1]["tool_calls"][0]["function"]["arguments"], json!({"x": 1}));
    assert_eq!(turns[2], json!({"role": "tool", "content": "4", "tool_call_id": "1"}));
    assert_eq!(chat(&sample).weights, Some(vec![1.0, 1.0, 1.0, 0.0, 1.0]));
    assert_eq!(chat(&sample).tools, None);
}

#[test]
fn parts_and_weights_as_llama_factory_writes_them() {
    let (_, sample) = read(json!({"messages": [
        {"role": "user", "content": [{"type": "text", "value": "hi"}], "loss_weight": 0.0},
        {"role": "assistant", "content": [
            {"type": "reasoning", "value": "hm"},
            {"type": "text", "value": "Hello"},
            {"type": "tool_call", "value": "{\"name\": \"f\", \"arguments\": {}}"},
        ], "loss_weight": 0.5},
    ]}));
    assert_eq!(chat(&sample).weights, Some(vec![0.0, 0.5]));
    let turns = messages(&sample);
    assert_eq!(
        (&turns[1]["content"], &turns[1]["reasoning_content"]),
        (&json!("Hello"), &json!("hm"))
    );
    assert_eq!(turns[1]["tool_calls"][0]["function"]["name"], "f");
}

#[test]
fn rows_and_turns_say_what_they_count() {
    let turns = json!([say("user", "a"), {"role": "assistant", "content": "b", "train": false}]);
    let (_, sample) = read(json!({"messages": turns}));
    assert_eq!(chat(&sample).weights, Some(vec![1.0, 0.0]));
    let weighted = |row| read(row).1;
    let text = |weight| Sample::Weighted(Box::new(Sample::Text("a".into())), weight);
    assert_eq!(weighted(json!({"text": "a", "loss_weight": 0.25})), text(0.25));
    assert_eq!(weighted(json!({"text": "a", "train": false})), text(0.0));
    assert_eq!(weighted(json!({"text": "a", "train": true})), Sample::Text("a".into()));
}

#[test]
fn alpaca_with_history_and_system() {
    let (shape, sample) = read(json!({
        "instruction": "c", "input": "d", "output": "e", "system": "s", "history": [["a", "b"]],
    }));
    assert_eq!(shape, Shape::Alpaca);
    let user = json!({"role": "user", "content": "c\nd", "instruction": "c", "input": "d"});
    let expected = json!([
        say("system", "s"),
        say("user", "a"),
        say("assistant", "b"),
        user,
        say("assistant", "e")
    ]);
    assert_eq!(messages(&sample), expected);
}

#[test]
fn prompts_alone() {
    let (shape, sample) = read(json!({"prompt": "a", "answer": "b"}));
    assert_eq!(shape, Shape::PromptAnswer); // whatever the answer is used for, it is not trained
    assert!(matches!(&sample, Sample::Prompt(_)));
    assert_eq!(messages(&sample), json!([say("user", "a")]));
    let turns = json!([say("system", "s"), say("user", "a")]);
    let (shape, sample) = read(json!({"prompt": turns}));
    assert_eq!((shape, messages(&sample)), (Shape::PromptOnly, turns));
}

#[test]
fn a_prompt_with_answers_in_it_is_not_trained() {
    let prompt = json!([say("user", "a"), say("assistant", "b"), say("user", "c")]);
    let (_, sample) = read(json!({"prompt": prompt, "completion": [say("assistant", "d")]}));
    assert_eq!(chat(&sample).weights, Some(vec![0.0, 0.0, 0.0, 1.0]));
}

#[test]
fn preferences_of_texts() {
    let (shape, sample) = read(json!({"prompt": "p ", "chosen": "a", "rejected": "b"}));
    assert_eq!(shape, Shape::Preference);
    assert_eq!(pair(sample), [plain("p ", "a"), plain("p ", "b")]);
    let (_, sample) = read(json!({"chosen": "Sky is blue", "rejected": "Sky is green"}));
    assert_eq!(pair(sample), [plain("Sky is", " blue"), plain("Sky is", " green")]);
    let (_, sample) = read(json!({"chosen": "añb", "rejected": "añ", "margin": 2}));
    let [chosen, rejected] = pair(sample);
    assert_eq!(chosen, Sample::Labelled(Box::new(plain("añ", "b")), 2.0));
    assert_eq!(rejected, plain("añ", ""));
    let (_, sample) =
        read(json!({"instruction": "i", "input": "", "chosen": "a", "rejected": "b"}));
    let [chosen, rejected] = pair(sample);
    assert_eq!(messages(&chosen)[1], say("assistant", "a"));
    assert_eq!(messages(&rejected)[1], say("assistant", "b"));
    assert_eq!(chat(&chosen).weights, Some(vec![0.0, 1.0]));
}

#[test]
fn preferences_of_conversations() {
    let (a, b) = (say("assistant", "a"), say("assistant", "b"));
    let asked = json!([say("user", "q"), say("assistant", "r"), say("user", "s")]);
    let whole = |answer: &Value| {
        let mut turns = asked.as_array().unwrap().clone();
        turns.push(answer.clone());
        Value::Array(turns)
    };
    let explicit = json!({"prompt": asked, "chosen": [a], "rejected": [b]});
    let implicit = json!({"chosen": whole(&a), "rejected": whole(&b)});
    // as in ultrafeedback_binarized: the prompt as text beside, and once more in both
    let both =
        json!({"prompt": "q", "chosen": whole(&a), "rejected": whole(&b), "messages": whole(&a)});
    let repeated = json!({"prompt": asked, "chosen": whole(&a), "rejected": whole(&b)});
    for row in [explicit, implicit, both, repeated] {
        let (shape, sample) = read(row.clone());
        assert_eq!(shape, Shape::Preference);
        let [chosen, rejected] = pair(sample);
        assert_eq!(messages(&chosen), whole(&a), "{row}");
        assert_eq!(messages(&rejected), whole(&b), "{row}");
        for side in [&chosen, &rejected] {
            assert_eq!(chat(side).weights, Some(vec![0.0, 0.0, 0.0, 1.0]), "{row}");
        }
    }
    let beside = json!({"prompt": "q", "chosen": [a], "rejected": [b]});
    let [chosen, _] = pair(read(beside).1);
    assert_eq!(messages(&chosen), json!([say("user", "q"), a]));
    let of_llama_factory = json!({
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    });
    let [chosen, rejected] = pair(read(of_llama_factory).1);
    assert_eq!(messages(&chosen), json!([say("user", "q"), a]));
    assert_eq!(messages(&rejected), json!([say("user", "q"), b]));
}

#[test]
fn unpaired_preferences() {
    let labelled = |row: Value| match read(row) {
        (Shape::UnpairedPreference, Sample::Labelled(inner, label)) => (*inner, label),
        other => panic!("{other:?}"),
    };
    let row = json!({"prompt": "p", "completion": "c", "label": true});
    assert_eq!(labelled(row), (plain("p", "c"), 1.0));
    let turns =
        json!([say("user", "q"), say("assistant", "r"), say("user", "s"), say("assistant", "t")]);
    let (inner, label) = labelled(json!({"messages": turns, "label": false}));
    assert_eq!((chat(&inner).weights.clone(), label), (Some(vec![0.0, 0.0, 0.0, 1.0]), 0.0));
    let (inner, label) = labelled(json!({"instruction": "p", "output": "c", "label": 1}));
    assert_eq!((chat(&inner).weights.clone(), label), (Some(vec![0.0, 1.0]), 1.0));
}

#[test]
fn steps_of_a_solution() {
    let row = json!({"prompt": "p", "completions": ["a", "b"], "labels": [true, false]});
    let step = |completion, label| Sample::Labelled(Box::new(plain("p", completion)), label);
    assert_eq!(
        read(row),
        (Shape::StepwiseSupervision, Sample::Tied(vec![step("a", 1.0), step("a\nb", 0.0)]))
    );
}

#[test]
fn texts_to_be_classified() {
    let class = |pair: Option<&str>, label| Sample::Classified {
        text: "a".into(),
        pair: pair.map(str::to_owned),
        label,
    };
    let cases = [
        (json!({"text": "a", "label": 2}), class(None, 2.0)),
        (json!({"text": "a", "label": 0.5}), class(None, 0.5)),
        (json!({"text": "a", "label": true}), class(None, 1.0)),
        (json!({"text": "a", "label": "3"}), class(None, 3.0)),
        (json!({"text": "a", "text_pair": "b", "label": 0}), class(Some("b"), 0.0)),
    ];
    for (row, expected) in cases {
        assert_eq!(read(row), (Shape::Classification, expected));
    }
    let names = "labels = [\"neg\", \"pos\"]";
    assert_eq!(with(names, json!({"text": "a", "label": "pos"})), class(None, 1.0));
    let config =
        "labels = [\"neg\", \"pos\"]\n[columns]\ntext = \"premise\"\ntext_pair = \"hypothesis\"";
    let row = json!({"premise": "a", "hypothesis": "b", "label": 1});
    assert_eq!(with(config, row), class(Some("b"), 1.0));
}

#[test]
fn messages_whose_keys_go_by_other_names() {
    let config = "[keys]\nrole = \"speaker\"\ncontent = \"says\"\n[roles]\nKay = \"user\"\n";
    let row = json!({"messages": [{"speaker": "Kay", "says": "a"}]});
    assert_eq!(messages(&with(config, row)), json!([say("user", "a")]));
}

#[test]
fn lists_and_objects_may_stand_as_json_inside_text() {
    let csv = "messages,tools\n\"[{\"\"role\"\":\"\"user\"\",\"\"content\"\":\"\"a\"\"}]\",\"\"\n";
    let (_folder, path) = file("rows.csv", csv);
    assert_eq!(messages(&open(path).sample(0).unwrap()), json!([say("user", "a")]));
    let (_folder, path) = file("rows.csv", "input_ids\n\"[1, 2]\"\n");
    assert!(matches!(open(path).sample(0).unwrap(), Sample::Tokens { ids, .. } if ids == [1, 2]));
}

#[test]
fn entries_of_dataset_info_are_read_as_they_are() {
    let (folder, _) = file(
        "chats.json",
        json!([{"dialog": [
        {"who": "Q", "text": "a"}, {"who": "F", "text": "{\"name\": \"f\", \"arguments\": {}}"},
        {"who": "A", "text": "b"},
    ], "sys": "s"}])
        .to_string(),
    );
    let write = |name: &str, rows: Value| {
        std::fs::write(folder.path().join(name), rows.to_string()).unwrap();
    };
    write("alpaca.json", json!([{"q": "a", "r": "b", "s": "c", "old": [["x", "y"]]}]));
    write("plain.json", json!([{"instruction": "a", "input": "", "output": "b"}]));
    write(
        "dpo.json",
        json!([{"conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"}, "rejected": {"from": "gpt", "value": "b"}}]),
    );
    write(
        "kto.json",
        json!([{"messages": [say("user", "q"), say("assistant", "a")], "label": true}]),
    );
    std::fs::write(folder.path().join("wiki.txt"), "a\nb\n").unwrap();
    let info = json!({
        "chats": {"file_name": "chats.json", "formatting": "sharegpt",
            "columns": {"messages": "dialog", "system": "sys"},
            "tags": {"role_tag": "who", "content_tag": "text", "user_tag": "Q", "assistant_tag": "A", "function_tag": "F"}},
        "alpaca": {"file_name": "alpaca.json",
            "columns": {"prompt": "q", "response": "r", "system": "s", "history": "old"}},
        "plain": {"file_name": "plain.json"},
        "dpo": {"file_name": "dpo.json", "ranking": true, "formatting": "sharegpt",
            "columns": {"messages": "conversations", "chosen": "chosen", "rejected": "rejected"}},
        "kto": {"file_name": "kto.json", "formatting": "sharegpt",
            "columns": {"messages": "messages", "kto_tag": "label"},
            "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
        "wiki": {"file_name": "wiki.txt", "columns": {"prompt": "text"}},
        "hub": {"hf_hub_url": "a/b", "subset": "en", "split": "validation"},
        "few": {"file_name": "plain.json", "num_samples": 5},
        "seen": {"file_name": "plain.json", "columns": {"images": "images"}},
        "script": {"script_url": "x"},
    });
    write("dataset_info.json", info);
    let first = |name: &str| {
        let config = DatasetConfig::find(name, folder.path()).unwrap();
        let (_, files) = config.split(None).unwrap();
        Dataset::open(files, &RowKnobs::from(&config)).unwrap().sample(0).unwrap()
    };
    let turns = messages(&first("chats"));
    assert_eq!(
        (&turns[0], &turns[1], &turns[3]),
        (&say("system", "s"), &say("user", "a"), &say("assistant", "b"))
    );
    assert_eq!(turns[2]["tool_calls"][0]["function"]["name"], "f");
    assert_eq!(messages(&first("alpaca")).as_array().unwrap().len(), 5);
    assert_eq!(messages(&first("plain"))[1], say("assistant", "b"));
    assert_eq!(messages(&pair(first("dpo"))[1])[1], say("assistant", "b"));
    assert!(matches!(first("kto"), Sample::Labelled(_, 1.0)));
    assert_eq!(first("wiki"), Sample::Text("a".into()));
    let hub = DatasetConfig::find("hub", folder.path()).unwrap();
    assert_eq!(
        hub.split(None).unwrap(),
        ("validation", &["en/validation-*.parquet".to_owned()][..])
    );
    let problem = |name: &str| {
        let error = DatasetConfig::find(name, folder.path()).unwrap_err().to_string();
        error.split_once("dataset_info.json: ").unwrap().1.to_owned()
    };
    assert!(problem("few").starts_with("few: `num_samples` is not read\nhelp: "));
    assert!(problem("seen").starts_with("seen: a column of images\nhelp: "));
    assert!(problem("script").contains("expected `file_name` or `hf_hub_url`, found script_url"));
    assert_eq!(problem("plian"), "plian: no entry of this name\nhelp: did you mean `plain`?");
}

#[test]
fn pairs_become_tied_examples() {
    let row = json!({"chosen": [say("user", "q"), say("assistant", "a")],
        "rejected": [say("user", "q"), say("assistant", "b")], "margin": 0.5});
    let (_folder, path) = file("rows.jsonl", row.to_string());
    let examples = open(path).row_examples(0, &encoder(512)).unwrap();
    let [chosen, rejected] = &examples[..] else { panic!("{examples:?}") };
    assert_eq!((chosen.tied, rejected.tied), (false, true));
    assert_eq!((chosen.label, rejected.label), (Some(0.5), None));
    assert!(chosen.n_trained() > 0 && rejected.n_trained() > 0);
}
