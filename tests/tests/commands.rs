//! What `score`, `generate` and `data show` print: the fields that other programs read.

use serde_json::{Value, json};
use tunesmith_tests::*;

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().expect("a list")
}

#[test]
fn score_prints_one_object_per_row() {
    let place = Place::new();
    place.write(
        "rows.jsonl",
        "{\"input_ids\": [5, 9, 2, 7], \"labels\": [-100, -100, 2, 7]}\n{\"input_ids\": [8, 8, 8]}\n{\"input_ids\": [4]}\n",
    );
    let rows = place.ok("score --model llama3 --data rows.jsonl --json").json_lines();
    assert_eq!(rows.len(), 3);
    for (row, n) in rows.iter().zip(0..) {
        let names = ["row", "ids", "trained", "token_logprobs", "logprob", "trained_tokens"];
        assert_eq!(keys(row), names);
        assert_eq!(row["row"], n);
        let (logprobs, trained) = (list(&row["token_logprobs"]), list(&row["trained"]));
        assert_eq!((logprobs.len(), trained.len()), (row["ids"].ids().len(), logprobs.len()));
        assert_eq!(logprobs[0], Value::Null, "nothing is said before the first token");
        // The first token has no log-probability, trained or not.
        let said = || logprobs.iter().zip(trained).skip(1);
        assert!(said().all(|(p, _)| p.as_f64().is_some_and(|p| p < 0.0)), "{row}");
        let kept: Vec<f64> =
            said().filter(|(_, t)| **t == json!(true)).map(|(p, _)| p.as_f64().unwrap()).collect();
        assert_eq!(row["trained_tokens"], kept.len());
        assert!(
            (row["logprob"].as_f64().unwrap() - kept.iter().sum::<f64>()).abs() < 1e-6,
            "{row}"
        );
    }
    assert_eq!(rows[0]["trained"], json!([false, false, true, true]));
    assert_eq!(rows[0]["trained_tokens"], 2);
    assert_eq!(rows[1]["trained"], json!([true, true, true]));
    assert_eq!((&rows[2]["logprob"], &rows[2]["trained_tokens"]), (&json!(0.0), &json!(0)));
    assert_eq!(
        place.ok("score --model llama3 --data rows.jsonl --json --rows 1").json_lines(),
        rows[..1]
    );
}

#[test]
fn scores_are_those_of_transformers() {
    for model in ["llama3", "gpt2"] {
        let place = Place::new();
        let golden = golden_tensors(&format!("logits/{model}.safetensors"));
        let sequences = [1, 2].map(|k| golden.tensor(&format!("ids.{k}")).unwrap().ids());
        let rows: String =
            sequences.iter().map(|ids| json!({"input_ids": ids}).to_string() + "\n").collect();
        place.write("rows.jsonl", rows);
        let scored =
            place.ok(&format!("score --model {model} --data rows.jsonl --json")).json_lines();
        for (k, row) in (1..).zip(&scored) {
            let expected = golden.tensor(&format!("nll.{k}")).unwrap().double_value(&[0]);
            let found = -row["logprob"].as_f64().unwrap() / row["trained_tokens"].as_f64().unwrap();
            assert!((found - expected).abs() <= 1e-5, "{model}, {k}: {found}, expected {expected}");
        }
        // For people: the same numbers, over all rows.
        let text = place.ok(&format!("score --model {model} --data rows.jsonl")).stdout;
        let sum = |name: &str| scored.iter().map(|row| row[name].as_f64().unwrap()).sum::<f64>();
        let loss = -sum("logprob") / sum("trained_tokens");
        let value = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)).expect(name);
            line.trim().parse::<f64>().expect(name)
        };
        assert_eq!((value("rows"), value("trained tokens")), (2.0, sum("trained_tokens")));
        assert!(
            (value("loss") - loss).abs() < 1e-5
                && (value("perplexity") / loss.exp() - 1.0).abs() < 1e-4,
            "{text}"
        );
    }
}

#[test]
fn greedy_answers_are_those_of_transformers() {
    for model in ["llama3", "gpt2"] {
        let place = Place::new();
        for case in list(&golden_json(&format!("generate/{model}.json"))) {
            let prompt: Vec<String> = case["prompt"].ids().iter().map(u32::to_string).collect();
            let n = case["ids"].ids().len();
            let line = format!(
                "generate --model {model} --prompt-ids {} --max-new-tokens {n}",
                prompt.join(",")
            );
            let [answer] = &place.ok(&format!("{line} --json")).json_lines()[..] else {
                panic!("one answer")
            };
            let expected = json!({
                "prompt_ids": case["prompt"], "ids": case["ids"], "text": "", "finish_reason": "length",
            });
            assert_eq!(answer, &expected);
            assert_eq!(keys(answer), keys(&expected));
            // Without a tokenizer there is no text to print: ids, as --prompt-ids takes them.
            let ids: Vec<String> = case["ids"].ids().iter().map(u32::to_string).collect();
            assert_eq!(place.ok(&line).stdout.trim_end(), ids.join(","));
        }
    }
}

#[test]
fn a_seed_names_an_answer() {
    let place = Place::new();
    let answer = |knobs: &str| {
        let line = format!(
            "generate --model llama3 --prompt-ids 5,6,7 --max-new-tokens 24 --json {knobs}"
        );
        place.ok(&line).json_lines()[0]["ids"].ids()
    };
    let hot = answer("--temperature 1.5 --seed 1");
    assert_eq!(hot, answer("--temperature 1.5 --seed 1"), "the same seed");
    assert_ne!(hot, answer("--temperature 1.5 --seed 2"), "another seed");
    let greedy = answer("");
    assert_ne!(hot, greedy);
    assert_eq!(greedy, answer("--temperature 1.5 --seed 1 --top-k 1"), "one token to choose from");
    assert_eq!(greedy, answer("--temperature 0 --seed 9"), "greedy draws nothing");
}

#[test]
fn data_show_prints_what_is_trained() {
    let place = Place::new();
    place.write_rows("rows.jsonl", 5);
    let rows =
        place.ok("data show --model llama3 --dataset rows.jsonl --rows 4 --json").json_lines();
    assert_eq!(rows.len(), 4);
    for ((row, line), n) in rows.iter().zip(place.text("rows.jsonl").lines()).zip(0..) {
        assert_eq!(keys(row), ["row", "ids", "trained", "text"]);
        let stored: Value = serde_json::from_str(line).unwrap();
        let trained: Vec<bool> =
            list(&stored["labels"]).iter().map(|label| label != -100).collect();
        assert_eq!(
            row,
            &json!({"row": n, "ids": stored["input_ids"], "trained": trained, "text": null})
        );
    }
    let cut = place
        .ok("data show --model llama3 --dataset rows.jsonl --rows 1 --seq-len 3 --json")
        .json_lines();
    assert_eq!(cut[0]["ids"], json!(list(&rows[0]["ids"])[..3]), "the start is kept");
}

#[test]
fn data_show_reads_conversations_through_template_and_tokenizer() {
    let place = Place::new();
    place.write(
        "chat.jsonl",
        r#"{"messages": [{"role": "user", "content": "What is tin?"}, {"role": "assistant", "content": "A metal."}]}"#,
    );
    let [row] = &place.ok("data show --model tiny --dataset chat.jsonl --json").json_lines()[..]
    else {
        panic!("one row")
    };
    let (text, trained) = (row["text"].as_str().unwrap(), list(&row["trained"]));
    assert!(text.contains("What is tin?") && text.contains("A metal."), "{text}");
    assert_eq!(trained.len(), row["ids"].ids().len());
    // For people: the same row with the trained part in brackets.
    let shown = place.ok("data show --model tiny --dataset chat.jsonl").stdout;
    let marked = shown.split_once('⟦').and_then(|(_, rest)| rest.split_once('⟧')).expect(&shown).0;
    assert!(marked.starts_with("A metal.") && !marked.contains("tin"), "{shown}");
    let n_trained = trained.iter().filter(|t| **t == json!(true)).count();
    assert!(
        shown.contains(&format!("── row 0 · {} tokens · {n_trained} trained", trained.len())),
        "{shown}"
    );
}

#[test]
fn data_is_checked_counted_cleaned_and_prepared() {
    let place = Place::new();
    let row = |asked: &str, answered: &str| json!({"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": answered}]});
    let good = [
        row("What is tin?", "A metal."),
        row("And gold?", "Another."),
        row("What is tin?", "A metal."),
    ];
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>();
    place.write("chats.jsonl", lines(&good));
    let bad = json!({"messages": [{"role": "user", "content": null}]});
    place.write("bad.jsonl", lines(&[good[0].clone(), bad.clone(), bad]));

    let ran = place.ok("data check --model tiny --dataset chats.jsonl");
    assert_eq!(ran.stdout, "0 of 3 rows are malformed\n");
    let ran = place.fails(65, "data check --model tiny --dataset bad.jsonl --message-format json");
    let [error] = &ran.json_lines()[..] else { panic!("{}", ran.stdout) };
    for (key, value) in [
        ("level", json!("error")),
        ("code", json!("null-content")),
        ("row", json!(1)),
        ("line", json!(2)),
        ("pointer", json!("/messages/0/content")),
        ("alike", json!(2)),
    ] {
        assert_eq!(error[key], value, "{key}");
    }

    let [stats] = &place
        .ok("data stats --model tiny --dataset chats.jsonl --json --html stats.html")
        .json_lines()[..]
    else {
        panic!("one object")
    };
    assert_eq!((&stats["rows"], &stats["duplicates"]), (&json!(3), &json!(1)));
    let page = place.text("stats.html");
    assert!(page.contains("tokens of a row") && page.contains("<rect"), "{page}");
    let table = place.ok("data stats --model tiny --dataset chats.jsonl").stdout;
    assert!(table.starts_with("rows        3 (0 malformed)"), "{table}");

    let cleaned = place.ok("data clean --dataset chats.jsonl").stdout;
    assert!(cleaned.ends_with("1 of 3 rows are left out\n"), "{cleaned}");
    let line = "data prepare --model tiny --dataset chats.jsonl --out tokens";
    let path = place.ok(line).stdout;
    assert!(std::path::Path::new(path.trim_end()).extension().is_some_and(|e| e == "tokens"));
    assert_eq!(place.ok(line).stdout, path, "written once");
}

#[test]
fn check_shows_the_first_batch_and_touches_no_weight() {
    let place = Place::new();
    place.write_rows("rows.jsonl", 5);
    place.copy_model("llama3", "empty");
    std::fs::remove_file(place.path("empty/model.safetensors")).unwrap();
    let ran = place.ok("check --model empty --dataset rows.jsonl --seq-len 32 --batch 1 --out x");
    for shown in ["── row ", "⟦", "5 rows of rows, 0 malformed", "tokens of 32"] {
        assert!(ran.stdout.contains(shown), "{shown:?} is missing in: {}", ran.stdout);
    }
    assert!(!place.path("x").exists() && !place.path("runs").exists());
}
