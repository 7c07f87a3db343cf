//! Training and serving agree, or somebody is told: before step 0, beside the trained model, and when a run goes on.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::json;
use tunesmith_tests::Place;

const TRAIN: &str = "finetune --model tiny --seq-len 64 --max-steps 3 --set samples.count=0";

fn lines(n: usize, row: impl Fn(usize) -> serde_json::Value) -> String {
    (0..n).map(|i| format!("{}\n", row(i))).collect()
}

#[test]
fn a_prompt_that_ends_behind_a_space_stops_the_run() {
    let place = Place::new();
    let rows =
        lines(12, |i| json!({"prompt": format!("What is {i}? It is "), "completion": "a number."}));
    place.write("rows.jsonl", rows);
    let ran = place.fails(65, &format!("{TRAIN} --dataset rows.jsonl --out x"));
    for said in [
        "training and serving differ: 12 of 12 prompts are not the beginning of what is trained: row 0: \
         the prompt's tokens change when the completion follows: after ",
        "help: end prompts where a token ends, for example before a space and not behind it",
        "help: use a template that fits, or train all the same with --set data.on_mismatch=warn",
    ] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
    assert!(!place.path("x/metrics.jsonl").exists());
    let warned = format!("{TRAIN} --dataset rows.jsonl --out y --set data.on_mismatch=warn");
    let ran = place.ok(&warned);
    assert!(ran.stderr.contains("training and serving differ: 12 of 12 prompts"), "{}", ran.stderr);
    assert_eq!(place.losses("y").len(), 3);
    let certificate = place.json("y/final/certificate.json");
    assert_eq!(certificate["prefix"]["failed"], 12);
    // before the space it is the same text in other pieces
    let rows =
        lines(12, |i| json!({"prompt": format!("What is {i}? It is"), "completion": " a number."}));
    place.write("rows.jsonl", rows);
    let ran = place.ok(&format!("{TRAIN} --dataset rows.jsonl --out z"));
    assert!(!ran.stderr.contains("differ"), "{}", ran.stderr);
}

#[test]
fn whoever_serves_a_model_otherwise_is_warned() {
    let place = Place::new();
    let chat = |i| json!({"messages": [{"role": "user", "content": format!("What is {i}?")}, {"role": "assistant", "content": "A number."}]});
    place.write("rows.jsonl", lines(12, chat));
    place.ok(&format!("{TRAIN} --dataset rows.jsonl --out x"));
    let generate = "generate --model x/final --prompt Hello --max-new-tokens 2";
    let ran = place.ok(generate);
    assert!(!ran.stderr.contains("certificate"), "{}", ran.stderr);
    let template = place.text("x/final/chat_template.jinja");
    place.write("x/final/chat_template.jinja", format!("Be kind.{template}"));
    let ran = place.ok(generate);
    for said in [
        "certificate.json: prompts have other tokens than in training: probe 0 differs after 0 tokens",
        "help: use the tokenizer and the template that were saved with the model",
    ] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
}

#[test]
fn a_run_does_not_go_on_with_data_read_otherwise() {
    let place = Place::new();
    place.write(
        "rows.jsonl",
        lines(30, |i| json!({"body": format!("The number {i} is here."), "title": format!("{i}")})),
    );
    place.write(
        "more.jsonl",
        lines(30, |i| json!({"body": format!("Another {i}."), "title": format!("{i}")})),
    );
    let single = |column: &str| {
        format!(
            "shape = \"text\"\n[splits]\ntrain = \"rows.jsonl\"\n[columns]\ntext = \"{column}\"\n"
        )
    };
    let part = |name: &str| {
        format!(
            "shape = \"text\"\n[splits]\ntrain = \"{name}.jsonl\"\n[columns]\ntext = \"body\"\n"
        )
    };
    place.write("a.toml", part("rows"));
    place.write("b.toml", part("more"));
    let mixed = |weight: f64| {
        format!("[[mix]]\ndataset = \"a\"\n[[mix]]\ndataset = \"b\"\nweight = {weight:?}\n")
    };
    for (name, before, after) in
        [("columns", single("body"), single("title")), ("mix", mixed(1.0), mixed(0.5))]
    {
        let line = |steps: u32| {
            format!(
                "finetune --model tiny --seq-len 64 --set samples.count=0 --dataset {name}.toml --out {name} --save-every 2 --max-steps {steps}"
            )
        };
        place.write(&format!("{name}.toml"), &before);
        place.ok(&line(2));
        place.write(&format!("{name}.toml"), &after);
        let ran = place.fails(78, &format!("{} --resume", line(4)));
        for said in [
            "the checkpoint was made with other settings\n  dataset: was ",
            "--allow-change dataset",
        ] {
            assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
        }
        place.write(&format!("{name}.toml"), &before);
        place.ok(&format!("{} --resume", line(4)));
        assert_eq!(place.losses(name).len(), 4);
    }
}

#[test]
fn pairs_of_other_lengths_are_rehearsed() {
    let place = Place::new();
    let row = |i: usize| {
        let asked = format!("{} What is {i}?", "Here is a long story about nothing. ".repeat(6));
        let long = "It is a number, and then some more words about it. ".repeat(1 + i % 4);
        match i % 2 {
            0 => json!({"prompt": asked, "chosen": "Yes.", "rejected": long}),
            _ => json!({"prompt": asked, "chosen": long, "rejected": "No."}),
        }
    };
    place.write("pairs.jsonl", lines(16, row));
    let line = "finetune --recipe dpo-full --model tiny --dataset pairs.jsonl --seq-len 256 --max-steps 2 \
                --set samples.count=0 --rehearse --out x";
    let ran = place.ok(line);
    let said = [ran.stdout.as_str(), ran.stderr.as_str()].concat();
    assert!(said.contains("rehearsal    "), "{said}");
    assert_eq!(place.losses("x").len(), 2);
    let ledger = place.json("x/ledger.json");
    assert_eq!(ledger["dropped"], json!({}));
}

#[test]
fn a_folder_is_read_as_its_readme_says() {
    let place = Place::new();
    let rows = |language: &str, n: usize| lines(n, |i| json!({"text": format!("{language} {i}")}));
    place.write("set/de/train.jsonl", rows("de", 5));
    place.write("set/fr/train.jsonl", rows("fr", 7));
    place.write("set/fr/test.jsonl", rows("test", 2));
    let head = "---\nconfigs:\n- config_name: de\n  data_files:\n  - split: train\n    path: de/train*\n\
                - config_name: fr\n  data_files:\n  - split: train\n    path: fr/train*\n  - split: test\n    path: fr/test*\n";
    place.write("set/README.md", format!("{head}  default: true\n---\n# Numbers\n"));
    let check =
        |dataset: &str| place.ok(&format!("data check --model tiny --dataset {dataset}")).stdout;
    assert_eq!(check("set"), "0 of 7 rows are malformed\n");
    assert_eq!(check("set:de"), "0 of 5 rows are malformed\n");
    let ran = place.fails(78, "data check --model tiny --dataset set:dee");
    let said =
        "set/README.md: subset: expected one of `de`, `fr`, found `dee`\nhelp: did you mean `de`?";
    assert!(ran.stderr.contains(said), "{}", ran.stderr);
    place.write("set/README.md", format!("{head}---\n# Numbers\n"));
    let ran = place.fails(78, "data check --model tiny --dataset set");
    assert!(
        ran.stderr.contains("several subsets and none chosen: `de`, `fr`\nhelp: "),
        "{}",
        ran.stderr
    );
}
