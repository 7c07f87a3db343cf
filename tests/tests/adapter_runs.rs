//! Runs of the binary that train adapters: what they leave, that they go on where they stood, that others read them.

use serde_json::{Value, json};
use std::{io::Write, process::Stdio};
use tunesmith_tests::*;

const TRAIN: &str = "finetune --model llama3 --dataset rows.jsonl --seq-len 32 --lr 1e-2 --set adapter.method=lora \
                     --set adapter.r=4 --set adapter.alpha=8";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", 20);
    place
}

#[test]
fn a_run_leaves_an_adapter_that_answers_and_merges() {
    let place = place();
    place.ok(&format!("{TRAIN} --out runs/x --max-steps 12"));
    let files = ["adapter_config.json", "adapter_model.safetensors", "tunesmith_base.json"];
    assert_eq!(place.names("runs/x/final"), files);
    let losses: Vec<f64> =
        place.metrics("runs/x").iter().filter_map(|record| record["loss"].as_f64()).collect();
    assert!(losses[11] < losses[0], "{losses:?}");
    let config = place.json("runs/x/final/adapter_config.json");
    assert_eq!(config["base_model_name_or_path"], "llama3");
    assert_eq!((&config["r"], &config["lora_alpha"]), (&4.into(), &8.into()));

    let ask = "generate --prompt-ids 5,6,7,8 --max-new-tokens 12 --json";
    let answer = |model: &str| place.ok(&format!("{ask} {model}")).stdout;
    let on = answer("--model llama3 --adapter runs/x");
    assert_eq!(answer("--model llama3 --adapter runs/x/final"), on);
    let ran = place.ok("merge --model llama3 --adapter runs/x --out merged");
    assert!(ran.stderr.contains("in fp32 moves the logits by"), "{}", ran.stderr);
    assert_eq!(answer("--model merged"), on);
    let score = |model: &str| place.ok(&format!("score --data rows.jsonl {model}")).stdout;
    assert_ne!(score("--model llama3"), score("--model merged"));
    let loss = |table: &str| -> f64 {
        let line = table.lines().find_map(|line| line.strip_prefix("loss"));
        line.and_then(|number| number.trim().parse().ok()).expect(table)
    };
    let [with, merged] =
        ["--model llama3 --adapter runs/x", "--model merged"].map(|model| loss(&score(model)));
    assert!((with - merged).abs() <= 1e-5, "{with} {merged}");
    assert_eq!(place.run("merge --model llama3 --adapter runs/x --out merged").code, Some(73));
    assert_eq!(place.run("merge --model llama3 --out other").code, Some(64));
    assert_eq!(place.run("generate --prompt-ids 1 --model gpt2 --adapter runs/x").code, Some(65));
    let none =
        format!("{TRAIN} --out runs/y --max-steps 1 --set adapter.target_modules='[\"query\"]'");
    assert_eq!(place.run(&none.replace('\'', "")).code, Some(78));
}

/// A checkpoint holds the adapter alone, and a resumed run ends byte for byte where one that was never stopped does.
#[test]
fn an_adapter_run_goes_on_where_it_stood() {
    let place = place();
    let train =
        format!("{TRAIN} --set adapter.dropout=0.2 --set adapter.use_dora=true --save-every 3");
    place.ok(&format!("{train} --out runs/whole --max-steps 6 --set schedule.decay=constant"));
    place.ok(&format!("{train} --out runs/parts --max-steps 3 --set schedule.decay=constant"));
    place.ok(&format!(
        "{train} --out runs/parts --max-steps 6 --set schedule.decay=constant --resume"
    ));
    for file in ["final/adapter_model.safetensors", "checkpoints/step-000000006/model.safetensors"]
    {
        let [a, b] = ["whole", "parts"].map(|run| place.bytes(&format!("runs/{run}/{file}")));
        assert!(a == b, "{file} differs");
    }
    let base = place.bytes("llama3/model.safetensors").len();
    let checkpoint = place.bytes("runs/whole/checkpoints/step-000000006/model.safetensors").len();
    assert!(checkpoint < base, "{checkpoint} bytes of adapter, {base} of the base");
}

/// An adapter trained elsewhere is trained on here.
#[test]
fn an_adapter_of_peft_is_trained_on() {
    let place = place();
    let dir = golden("adapters/llama-dora");
    let from = dir.display();
    let train = format!("{TRAIN} --out runs/x --max-steps 2 --set adapter.from={from}");
    place.ok(&train);
    let (old, new) = (
        golden_tensors("adapters/llama-dora/adapter_model.safetensors"),
        "runs/x/final/adapter_model.safetensors",
    );
    let new = tunesmith_model::TensorFile::open(&place.path(new)).expect(new);
    for name in old.names() {
        let [a, b] = [&old, &new].map(|file| file.tensor(&name).expect("the same names"));
        assert_eq!(a.size(), b.size(), "{name}");
        assert!(a != b, "{name} was not trained");
    }
}

/// Two adapters of the tiny model, `runs/one` and `runs/two`, that answer otherwise.
fn two_adapters() -> Place {
    let place = Place::new();
    let rows = |word: &str| -> String {
        let row = |i| json!({"text": format!("{word} {i} {word} {word}")}).to_string() + "\n";
        (0..8).map(row).collect()
    };
    for (run, word) in [("one", "water"), ("two", "seven")] {
        place.write(&format!("{run}.jsonl"), rows(word));
        place.ok(&format!(
            "finetune --recipe sft-lora --model tiny --dataset {run}.jsonl --seq-len 64 --max-steps 6 --lr 2e-2 \
             --set samples.count=0 --set model.dtype=fp32 --set data.on_mismatch=warn --out runs/{run}"
        ));
    }
    place
}

/// Every row of a file is answered by the adapter it names, side by side with others, as it is alone.
#[test]
fn one_base_answers_by_several_adapters() {
    let place = two_adapters();
    let asked = [
        None,
        Some(json!("two")),
        Some(Value::Null),
        Some(json!("one")),
        Some(json!("base")),
        Some(json!("two")),
    ];
    let row = |i: usize, adapter: &Option<Value>| {
        let mut row =
            json!({"messages": [{"role": "user", "content": format!("Tell me of {i}.")}]});
        adapter.iter().for_each(|adapter| row["adapter"] = adapter.clone());
        format!("{row}\n")
    };
    let rows = |asked: &[Option<Value>]| -> String {
        asked.iter().enumerate().map(|(i, adapter)| row(i, adapter)).collect()
    };
    place.write("asked.jsonl", rows(&asked));
    place.write("plain.jsonl", rows(&vec![None; asked.len()]));
    let answers = |line: &str| {
        place.ok(&format!("generate --model tiny --max-new-tokens 6 --json {line}")).json_lines()
    };
    let both = "--adapter runs/one --adapter runs/two";
    let mixed = answers(&format!("{both} --messages asked.jsonl"));
    let by: Vec<&Value> = mixed.iter().map(|answer| &answer["adapter"]).collect();
    assert_eq!(by, ["one", "two", "base", "one", "base", "two"]);
    let mut distinct = std::collections::BTreeSet::new();
    for (name, flags) in
        [("one", "--adapter runs/one"), ("two", "--adapter runs/two"), ("base", "")]
    {
        let alone = answers(&format!("{flags} --messages plain.jsonl"));
        assert!(alone[0].get("adapter").is_none(), "one adapter goes without saying");
        distinct.insert(alone[0]["ids"].to_string());
        for (i, answer) in mixed.iter().enumerate().filter(|(i, _)| by[*i] == name) {
            assert_eq!(answer["ids"], alone[i]["ids"], "row {i} by {name}");
        }
    }
    assert_eq!(distinct.len(), 3, "the adapters answer alike: {distinct:?}");
    // Other names, another order: the first one answers where nobody is named.
    place.write("x.jsonl", row(0, &Some(json!("x"))));
    let named = "--adapter x=runs/two/final --adapter y=runs/one";
    let [answer] = &answers(&format!("{named} --messages x.jsonl"))[..] else {
        panic!("one answer")
    };
    assert_eq!(answer["ids"], answers("--adapter runs/two --messages plain.jsonl")[0]["ids"]);

    // A chat goes from one to the other.
    let mut chat = place
        .command(&format!("chat --model tiny {both} --max-new-tokens 6"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("chat starts");
    let lines = "Tell me of 0.\n/reset\n/adapter\n/adapter twoo\n/adapter two\nTell me of 0.\n/reset\n/adapter base\nTell me of 0.\n";
    chat.stdin.take().expect("its input").write_all(lines.as_bytes()).expect("it reads");
    let ran = chat.wait_with_output().expect("chat ends");
    let [said, log] = [ran.stdout, ran.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
    let text = |flags: &str| {
        answers(&format!("{flags} --messages plain.jsonl"))[0]["text"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    let expected: Vec<String> =
        ["--adapter runs/one", "--adapter runs/two", ""].map(|flags| text(flags) + "\n").into();
    assert_eq!(said, expected.concat(), "{log}");
    for line in [
        "`one` answers; there are `one`, `two`, `base`",
        "no adapter is called `twoo`",
        "help: did you mean `two`? there are `one`, `two`, `base`",
        "`two` answers from here on",
    ] {
        assert!(log.contains(line), "{line:?} is missing in: {log}");
    }
}

#[test]
fn a_file_is_scored_by_every_adapter() {
    let place = two_adapters();
    let score = |flags: &str| {
        place
            .ok(&format!("score --model tiny --data one.jsonl --rows 2 --dtype fp32 {flags}"))
            .stdout
    };
    let table = score("--adapter runs/one --adapter runs/two");
    let column = |i: usize, table: &str| -> Vec<String> {
        let mut lines: Vec<Vec<&str>> =
            table.lines().map(|line| line.split_whitespace().collect()).collect();
        lines.retain(|line| ["loss", "perplexity", "accuracy"].contains(&line[0]));
        lines.iter().map(|line| line[i].to_owned()).collect()
    };
    assert_eq!(table.lines().next(), Some("adapter         one             two"), "{table}");
    for (i, run) in ["one", "two"].into_iter().enumerate() {
        let alone = score(&format!("--adapter runs/{run}"));
        assert_eq!(column(i + 1, &table), column(1, &alone), "{run}: {table}{alone}");
    }
    assert_ne!(column(1, &table), column(2, &table));
    let by = |line: &Value| (line["row"].as_u64(), line["adapter"].clone());
    let lines = place
        .ok("score --model tiny --data one.jsonl --rows 2 --json --adapter runs/one --adapter a=runs/two")
        .json_lines();
    let expected: Vec<(Option<u64>, Value)> =
        (0..2).flat_map(|row| ["one", "a"].map(|name| (Some(row), json!(name)))).collect();
    assert_eq!(lines.iter().map(by).collect::<Vec<_>>(), expected);
}

#[test]
fn adapters_that_cannot_be_told_apart_or_found_are_refused() {
    let place = Place::new();
    for (from, to) in [("llama-lora", "one"), ("llama-dora", "two/one"), ("gpt2-lora", "other")] {
        place.copy_model(&format!("../adapters/{from}"), to);
    }
    place.copy_model("../adapters/llama-lora", "quantised");
    place.write("quantised/tunesmith_base.json", r#"{"blake3": "0", "storage": "nf4"}"#);
    let said = |code: i32, line: &str, expected: &[&str]| {
        let ran = place.fails(code, line);
        for text in expected {
            assert!(ran.stderr.contains(text), "{line}: {text:?} is missing in: {}", ran.stderr);
        }
    };
    let ask = "generate --model llama3 --prompt-ids 1,2 --max-new-tokens 2";
    said(
        64,
        &format!("{ask} --adapter one --adapter two/one"),
        &["one and two/one are both called `one`", "help: --adapter NAME=DIR"],
    );
    said(66, &format!("{ask} --adapter nowhere"), &["--adapter nowhere: ", "found nothing there"]);
    said(66, &format!("{ask} --adapter x=tiny"), &["--adapter tiny: ", "no adapter_config.json"]);
    said(64, &format!("{ask} --adapter base=one"), &["`base` is the model without an adapter"]);
    said(64, &format!("{ask} --adapter =one"), &["expected DIR or NAME=DIR"]);
    said(65, &format!("{ask} --adapter one --adapter other"), &["other"]);
    said(
        78,
        &format!("{ask} --adapter one --adapter quantised"),
        &["`quantised` was trained on another storage than `one`", "help: --storage chooses"],
    );
    said(
        64,
        "merge --model llama3 --out merged --adapter one --adapter a=two/one",
        &["expected one --adapter, found 2"],
    );
    place.ok(&format!("{ask} --adapter one --adapter a=two/one"));
    let chat = json!({"messages": [{"role": "user", "content": "Hello"}]});
    let rows = |adapter: Value| {
        let mut row = chat.clone();
        row["adapter"] = adapter;
        format!("{chat}\n{row}\n")
    };
    for (adapter, problem) in [
        (
            json!("none"),
            "rows.jsonl: line 2: /adapter: no adapter is called `none`: none was given",
        ),
        (
            json!(3),
            "rows.jsonl: line 2: /adapter: expected the name of an adapter or null, found 3",
        ),
    ] {
        place.write("rows.jsonl", rows(adapter));
        said(65, "generate --model tiny --messages rows.jsonl --max-new-tokens 1", &[problem]);
    }
    place.write("rows.jsonl", format!("{chat}\n{{\"messages\": [}}\n"));
    said(65, "generate --model tiny --messages rows.jsonl", &["rows.jsonl: line 2: "]);
}
