//! Whole runs of the binary on small models: what they leave, that they learn, that they can be repeated.

use serde_json::Value;
use tunesmith_tests::*;

const TRAIN: &str = "finetune --model llama3 --dataset rows.jsonl --seq-len 32";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", 20);
    place
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn a_run_leaves_what_architecture_md_says() {
    let place = place();
    let ran = place.ok(&format!("{TRAIN} --out runs/x --max-steps 4 --save-every 2 --lr 1e-3"));
    let files = [
        ".lock",
        "checkpoints",
        "final",
        "ledger.json",
        "metrics.jsonl",
        "recipe.toml",
        "report.html",
        "rows.jsonl",
        "tensorboard",
    ];
    assert_eq!(place.names("runs/x"), files);
    assert_eq!(place.names("runs/x/checkpoints"), ["step-000000002", "step-000000004"]);
    let files = ["MANIFEST.json", "model.safetensors", "optimizer.safetensors", "state.json"];
    assert_eq!(place.names("runs/x/checkpoints/step-000000004"), files);
    let files = ["config.json", "generation_config.json", "model.safetensors"];
    assert_eq!(place.names("runs/x/final"), files);
    let [events] = &place.names("runs/x/tensorboard")[..] else { panic!("one event file") };
    assert!(events.starts_with("events.out.tfevents."), "{events}");

    // stdout ends with where everything is; without a tokenizer it shows no samples.
    let last: Vec<&str> = ran.stdout.lines().rev().take(2).collect();
    assert_eq!(last, ["report  runs/x/report.html", "model   runs/x/final"], "{}", ran.stdout);

    let names = [
        "step",
        "epoch",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "mean_token_accuracy",
        "tokens_per_second",
    ];
    let metrics = place.metrics("runs/x");
    assert_eq!(metrics.len(), 4, "every step is logged");
    for (record, step) in metrics.iter().zip(1..) {
        assert_eq!(keys(record), names);
        assert_eq!(record["step"], step);
        // Linear from the full rate on: lr · (1 − steps made before / steps).
        let lr = 1e-3 * (1.0 - f64::from(step - 1) / 4.0);
        assert!((record["learning_rate"].as_f64().unwrap() - lr).abs() < 1e-12, "{record}");
    }
    let state = place.json("runs/x/checkpoints/step-000000004/state.json");
    assert_eq!(state["num_tokens"], metrics[3]["num_tokens"]);

    let ledger = place.json("runs/x/ledger.json");
    let count = |name: &str| ledger[name].as_u64().expect(name);
    let dropped: u64 =
        ledger["dropped"].as_object().unwrap().values().filter_map(Value::as_u64).sum();
    assert_eq!(count("rows"), 20);
    assert_eq!(count("trained") + count("truncated") + dropped + count("unread"), 20, "{ledger}");

    let recipe = place.text("runs/x/recipe.toml");
    assert!(recipe.parse::<toml::Table>().is_ok(), "{recipe}");
    for (value, origin) in [("max_steps = 4 ", "flag --max-steps"), ("seed = 42 ", "default")] {
        let line = recipe.lines().find(|line| line.starts_with(value)).expect(value);
        assert!(line.ends_with(&format!("# {origin}")), "{line}");
    }
}

#[test]
fn the_report_is_one_file_that_loads_nothing() {
    let place = place();
    place.ok(&format!("{TRAIN} --out x --max-steps 3"));
    let page = place.text("x/report.html");
    assert!(page.starts_with("<!doctype html>") && page.trim_end().ends_with("</html>"));
    for loads in [" src=", "@import", "url(", "<link", "fetch(", "<iframe"] {
        assert!(!page.contains(loads), "the page loads something by {loads:?}");
    }
    let first_and_last = [place.losses("x")[0], place.losses("x")[2]].map(|x| format!("{x:.4}"));
    for shown in [first_and_last[0].as_str(), &first_and_last[1], "rows.jsonl", "--max-steps 3"] {
        assert!(page.contains(shown), "the page does not show {shown:?}");
    }
}

#[test]
fn one_batch_is_learned_by_heart() {
    for model in ["llama3", "gpt2"] {
        let place = Place::new();
        place.write_rows("rows.jsonl", 4);
        let train = "--dataset rows.jsonl --seq-len 32 --batch 4 --lr 1e-2 --max-steps 60";
        place.ok(&format!("finetune --model {model} {train} --out x"));
        let losses = place.losses("x");
        let (first, last) = (losses[0], losses[59]);
        assert!(last < first / 10.0, "{model}: loss {first} → {last}");

        // What was saved is what was trained: it scores as the last steps did, on the rows it was trained on.
        let loss = |model: &str| {
            let rows =
                place.ok(&format!("score --model {model} --data rows.jsonl --json")).json_lines();
            let sum = |name: &str| rows.iter().map(|row| row[name].as_f64().unwrap()).sum::<f64>();
            -sum("logprob") / sum("trained_tokens")
        };
        let (before, after) = (loss(model), loss("x/final"));
        assert!(
            (before / first - 1.0).abs() < 1e-4,
            "{model}: scored {before}, trained from {first}"
        );
        assert!(
            after < first / 10.0 && after <= last * 1.05,
            "{model}: scored {after}, last {last}"
        );
        assert_eq!(loss("x"), after, "a run directory stands for its model");
    }
}

#[test]
fn a_recipe_runs_again() {
    let place = place();
    let knobs = "--max-steps 6 --batch 2 --lr 3e-3 --seed 7 --set optimizer.weight_decay=0.1";
    place.ok(&format!("{TRAIN} {knobs} --out a"));
    place.ok(&format!("{TRAIN} {knobs} --out b"));
    place.ok("finetune --recipe a/recipe.toml --out c");
    for again in ["b", "c"] {
        assert_eq!(place.untimed("a"), place.untimed(again), "{again}");
        let weights = |run: &str| place.bytes(&format!("{run}/final/model.safetensors"));
        assert!(weights("a") == weights(again), "{again}: the weights differ");
    }
    // A flag still wins over the recipe, and another seed is another order.
    place.ok("finetune --recipe a/recipe.toml --seed 8 --out d");
    assert_ne!(place.losses("a"), place.losses("d"));
    let values =
        |run: &str| place.text(&format!("{run}/recipe.toml")).parse::<toml::Table>().unwrap();
    assert_eq!(values("a"), values("c"), "a recipe that is run again says the same");
}

#[test]
fn a_step_does_not_depend_on_how_it_is_split() {
    let place = place();
    let train = format!("{TRAIN} --no-shuffle --packing none --max-steps 5 --lr 1e-2");
    place.ok(&format!("{train} --batch 4 --accumulate 1 --out whole"));
    for split in ["--batch 1 --accumulate 4", "--batch 2 --accumulate 2"] {
        let out = split.replace(' ', "");
        place.ok(&format!("{train} {split} --out runs/{out}"));
        for (whole, split) in
            place.metrics("whole").iter().zip(place.metrics(&format!("runs/{out}")))
        {
            for name in ["loss", "grad_norm", "num_tokens", "mean_token_accuracy", "epoch"] {
                let (a, b) = (whole[name].as_f64().unwrap(), split[name].as_f64().unwrap());
                assert!((a - b).abs() <= 1e-5 * a.abs(), "{out}, {name}: {b}, expected {a}");
            }
        }
    }
}

#[test]
fn an_epoch_reads_every_row_once() {
    let place = place();
    place.ok(&format!("{TRAIN} --epochs 2 --batch 4 --packing none --out x --eval-every 0"));
    let metrics = place.metrics("x");
    assert_eq!(metrics.len(), 10, "20 rows, 4 a step, twice");
    assert_eq!(metrics[9]["epoch"], 2.0);
    let tokens: usize = place
        .text("rows.jsonl")
        .lines()
        .map(|row| {
            serde_json::from_str::<Value>(row).unwrap()["input_ids"].as_array().unwrap().len()
        })
        .sum();
    assert_eq!(metrics[9]["num_tokens"], 2 * tokens);
    let ledger = place.json("x/ledger.json");
    assert_eq!((&ledger["trained"], &ledger["unread"]), (&20.into(), &0.into()));
}

#[test]
fn held_out_rows_are_evaluated() {
    let place = place();
    place.write_rows("held.jsonl", 6);
    place.write(
        "set.toml",
        "split = \"train\"\neval_split = \"held\"\n[splits]\ntrain = \"rows.jsonl\"\nheld = \"held.jsonl\"\n",
    );
    place.ok("finetune --model llama3 --dataset set.toml --seq-len 32 --max-steps 5 --eval-every 2 --out x");
    let evaluated = |out: &str| {
        let mut records = place.metrics(out);
        records.retain(|record| record.get("eval_loss").is_some());
        records
    };
    let steps = |evaluated: &[Value]| {
        evaluated.iter().map(|record| record["step"].as_u64().unwrap()).collect::<Vec<_>>()
    };
    place.ok("finetune --model llama3 --dataset set.toml --epochs 1 --batch 4 --packing none --eval-every 100 --out y");
    assert_eq!(steps(&evaluated("y")), [5], "after the last step, whenever that is");
    let evaluated = evaluated("x");
    assert_eq!(steps(&evaluated), [2, 4, 5]);
    assert_eq!(
        keys(&evaluated[0]),
        ["step", "eval_loss", "eval_mean_token_accuracy", "eval_runtime"]
    );
    // The last evaluation is that of the model that was saved.
    let rows = place.ok("score --model x/final --data held.jsonl --json").json_lines();
    let sum = |name: &str| rows.iter().map(|row| row[name].as_f64().unwrap()).sum::<f64>();
    let (found, expected) =
        (evaluated[2]["eval_loss"].as_f64().unwrap(), -sum("logprob") / sum("trained_tokens"));
    assert!((found / expected - 1.0).abs() < 1e-5, "eval_loss {found}, scored {expected}");
}

#[test]
fn conversations_train_a_model_from_scratch() {
    let place = Place::new();
    let row = |question: &str, answer: &str| serde_json::json!({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]});
    place.write(
        "chat.jsonl",
        format!("{}\n{}\n", row("Who are you?", "A small smith."), row("What is tin?", "A metal.")),
    );
    let train = "finetune --model tiny --from-scratch --dataset chat.jsonl --seq-len 64 --batch 2 --max-steps 3";
    let ran = place.ok(&format!(
        "{train} --lr 1e-3 --out x --set samples.max_new_tokens=4 --set samples.count=1"
    ));
    assert!(
        ran.stdout.contains("user  Who are you?") && ran.stdout.contains("after  "),
        "{}",
        ran.stdout
    );
    assert!(!ran.stdout.contains("before  "), "fresh weights have no before: {}", ran.stdout);
    let page = place.text("x/report.html");
    for shown in ["Who are you?", "A", "smith"] {
        assert!(page.contains(shown), "the report does not show {shown:?}");
    }
    for name in ["chat_template.jinja", "tokenizer.json", "tokenizer_config.json"] {
        assert_eq!(
            place.bytes(&format!("x/final/{name}")),
            place.bytes(&format!("tiny/{name}")),
            "{name}"
        );
    }
    place.write("ask.json", r#"[{"role": "user", "content": "Who are you?"}]"#);
    let ask = "generate --model x/final --messages ask.json --max-new-tokens 3 --json";
    let [answer] = &place.ok(ask).json_lines()[..] else { panic!("one answer") };
    assert_eq!(keys(answer), ["prompt_ids", "ids", "text", "finish_reason"]);
    assert!(
        answer["prompt_ids"].ids().len() > 3,
        "the question went through the template: {answer}"
    );
}

#[test]
fn without_the_hub_what_ships_stands_in_and_the_run_says_so() {
    let place = Place::new();
    let train =
        "finetune --dataset ultrachat --from-scratch --max-steps 2 --seq-len 64 --batch 1 --out x";
    let ran = place.ok(&format!("{train} --eval-every 0 --set samples.max_new_tokens=2"));
    let warning = "the small model and the sample that ship with tunesmith stand in";
    assert!(ran.stderr.contains(warning), "{}", ran.stderr);
    let recipe = place.text("x/recipe.toml");
    let page = place.text("x/report.html");
    assert!(recipe.lines().take(3).any(|line| line.contains(warning)), "{recipe}");
    assert!(page.contains(warning));
    let name = recipe.lines().find(|line| line.starts_with("name = ")).expect("a model");
    assert!(
        name.contains("data/tunesmith-tiny") && name.ends_with("# stands in for the Hub's"),
        "{name}"
    );
    assert!(recipe.contains("configs/recipes/sft-tiny.toml"), "{recipe}");
    // A model that a person named is never replaced.
    let ran = place.fails(
        66,
        &train.replace("--from-scratch", "--model owner/name").replace("--out x", "--out y"),
    );
    assert!(ran.stderr.contains("owner/name") && !place.path("y").exists(), "{}", ran.stderr);
}
