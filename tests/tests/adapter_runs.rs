//! Runs of the binary that train adapters: what they leave, that they go on where they stood, that others read them.

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
    assert_eq!(score("--model llama3 --adapter runs/x"), score("--model merged"));
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
