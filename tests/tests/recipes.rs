//! Every recipe in `configs/recipes`, on the small model that ships and a handful of rows: it runs, it learns, and what it
//! leaves can be used.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::{Value, json};
use tunesmith_tests::*;

/// Twelve rows of a shape.
fn write_rows(place: &Place, name: &str, row: impl Fn(u64) -> Value) {
    let rows: Vec<String> = (0..12).map(|i| row(i).to_string()).collect();
    place.write(name, rows.join("\n") + "\n");
}

fn place() -> Place {
    let place = Place::new();
    let asked = |i: u64| format!("What comes after {i}?");
    write_rows(&place, "chats.jsonl", |i| {
        json!({"messages": [
            {"role": "user", "content": asked(i)},
            {"role": "assistant", "content": format!("After {i} comes {}.", i + 1)},
        ]})
    });
    write_rows(
        &place,
        "pairs.jsonl",
        |i| json!({"prompt": asked(i), "chosen": format!(" It is {}.", i + 1), "rejected": " I do not know that."}),
    );
    write_rows(&place, "judged.jsonl", |i| {
        let completion = if i % 2 == 0 { format!(" It is {}.", i + 1) } else { " No.".to_owned() };
        json!({"prompt": asked(i), "completion": completion, "label": i % 2 == 0})
    });
    write_rows(
        &place,
        "classes.jsonl",
        |i| json!({"text": if i % 3 == 0 { "up and up and up" } else { "down and down" }, "label": u64::from(i % 3 == 0)}),
    );
    place
}

fn losses(place: &Place, run: &str) -> Vec<f64> {
    place.metrics(run).iter().filter_map(|record| record["loss"].as_f64()).collect()
}

/// Runs a recipe for some steps at a rate at which the small model moves.
fn run(place: &Place, recipe: &str, rows: &str, more: &str) -> Vec<f64> {
    let out = format!("runs/{recipe}");
    place.ok(&format!(
        "finetune --recipe {recipe} --model tiny --dataset {rows} --out {out} --max-steps 8 --seq-len 128 --lr 3e-3 \
         --set train.accumulate=1 --set data.batch=4 --set train.eval_every=0 --set samples.count=0 --save-every 0 {more}"
    ));
    let losses = losses(place, &out);
    assert_eq!(losses.len(), 8, "{recipe}");
    let (early, late): (f64, f64) = (losses[..2].iter().sum(), losses[6..].iter().sum());
    assert!(late < early, "{recipe} does not learn: {losses:?}");
    losses
}

#[test]
fn recipes_of_supervised_fine_tuning() {
    let place = place();
    for recipe in ["sft-full", "sft-lora", "sft-qlora"] {
        run(&place, recipe, "chats.jsonl", "");
    }
    assert!(place.path("runs/sft-full/final/model.safetensors").exists());
    // An adapter of a quantised base answers on it, and merges into what its codes stand for.
    let ask = "generate --prompt-ids 5,6,7 --max-new-tokens 8 --json --dtype fp32";
    let on = place.ok(&format!("{ask} --model tiny --adapter runs/sft-qlora --storage nf4")).stdout;
    let merge = "merge --model tiny --adapter runs/sft-qlora --dtype fp32";
    place.ok(&format!("{merge} --out merged"));
    assert_eq!(place.ok(&format!("{ask} --model merged")).stdout, on);
    let ran = place.run(&format!("{merge} --storage dense --out other"));
    assert!(ran.code == Some(65) && ran.stderr.contains("--force"), "{ran:?}");
    place.ok(&format!("{merge} --storage dense --out other --force"));
}

#[test]
fn recipes_of_preferences() {
    let place = place();
    for recipe in ["dpo-full", "dpo-lora", "simpo", "orpo"] {
        let losses = run(&place, recipe, "pairs.jsonl", "");
        if recipe.starts_with("dpo") {
            assert!((losses[0] - std::f64::consts::LN_2).abs() < 1e-6, "{recipe}: {losses:?}");
        }
        let last = place.metrics(&format!("runs/{recipe}")).pop().unwrap();
        for name in [
            "rewards/chosen",
            "rewards/rejected",
            "rewards/margins",
            "rewards/accuracies",
            "logps/chosen",
        ] {
            assert!(last[name].is_number(), "{recipe}: {name}");
        }
    }
    run(&place, "kto", "judged.jsonl", "");
    assert!(place.metrics("runs/kto")[7]["kl"].is_number());
}

/// The cached reference is the copy's: the same losses, and the second run computes nothing.
#[test]
fn a_cached_reference_is_the_model_itself() {
    let place = place();
    let cached = "--set objective.reference=cached";
    let copy = run(&place, "dpo-full", "pairs.jsonl", "");
    let again = |out: &str| {
        let ran = place.ok(&format!(
            "finetune --recipe dpo-full --model tiny --dataset pairs.jsonl --out {out} --max-steps 8 --seq-len 128 \
             --lr 3e-3 --set train.accumulate=1 --set data.batch=4 --set train.eval_every=0 --set samples.count=0 \
             --save-every 0 {cached}"
        ));
        (losses(&place, out), ran.stderr)
    };
    let (first, said) = again("runs/first");
    assert!(said.contains("computing them once"), "{said}");
    let (second, said) = again("runs/second");
    assert!(!said.contains("computing them once"), "{said}");
    assert_eq!(first, second);
    for (a, b) in copy.iter().zip(&first) {
        assert!((a / b - 1.0).abs() < 1e-5, "{copy:?} {first:?}");
    }
}

#[test]
fn a_reward_model_ranks_and_scores() {
    let place = place();
    run(&place, "reward", "pairs.jsonl", "");
    let score = "score --model tiny --adapter runs/reward --data pairs.jsonl";
    let text = place.ok(score).stdout;
    assert!(text.contains("accuracy        1.0000 of 12"), "{text}");
    let json = place.ok(&format!("{score} --json")).stdout;
    assert_eq!(json.lines().count(), 24);
    let first: Value = serde_json::from_str(json.lines().next().unwrap()).unwrap();
    assert!(first["reward"].is_number(), "{first}");
    let ran = place.run("generate --model tiny --adapter runs/reward --prompt-ids 5");
    assert!(ran.code == Some(78) && ran.stderr.contains("ForSequenceClassification"), "{ran:?}");
}

#[test]
fn a_classifier_is_saved_with_its_labels() {
    let place = place();
    let labels = r#"--set objective.labels=["down","up"]"#;
    run(&place, "classify", "classes.jsonl", labels);
    let config = place.json("runs/classify/final/config.json");
    assert_eq!(config["architectures"][0], "LlamaForSequenceClassification");
    assert_eq!(config["id2label"], json!({"0": "down", "1": "up"}));
    let text = place.ok("score --model runs/classify --data classes.jsonl").stdout;
    assert!(text.contains("accuracy        1.0000 of 12"), "{text}");
    let lines = place.ok("score --model runs/classify --data classes.jsonl --json").stdout;
    assert!(lines.lines().next().unwrap().contains(r#""label":"up""#), "{lines}");
    // With an adapter, the labels travel beside PEFT's files.
    let lora = format!("{labels} --set adapter.method=lora --set adapter.r=4 --out runs/lora");
    place.ok(&format!(
        "finetune --recipe classify --model tiny --dataset classes.jsonl --max-steps 8 --seq-len 128 --lr 1e-2 \
         --set train.eval_every=0 {lora}"
    ));
    let text = place.ok("score --model tiny --adapter runs/lora --data classes.jsonl").stdout;
    assert!(text.contains("of 12"), "{text}");
}
