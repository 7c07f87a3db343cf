//! A step that breaks leaves a file, and `tunesmith replay` makes it again: whatever the run minimises.

use serde_json::json;
use tch::Tensor;
use tunesmith_model::{TensorFile, write_tensors};
use tunesmith_tests::*;

/// The small model that ships, with one number of its last norm that is none.
fn poison(place: &Place) {
    for name in place.names("tiny") {
        place.write(&format!("poisoned/{name}"), place.bytes(&format!("tiny/{name}")));
    }
    let file = TensorFile::open(&place.path("tiny/model.safetensors")).expect("the small model");
    let tensors: Vec<(String, Tensor)> = file
        .names()
        .into_iter()
        .map(|name| {
            let tensor = file.tensor(&name).expect("a tensor").copy();
            if name == "model.norm.weight" {
                let _ = tensor.get(0).fill_(f64::NAN);
            }
            (name, tensor)
        })
        .collect();
    let written = tensors.iter().map(|(name, tensor)| (name.clone(), tensor));
    write_tensors(&place.path("poisoned/model.safetensors"), written).expect("written");
}

#[test]
fn a_broken_step_is_made_again_for_every_objective() {
    let place = Place::new();
    poison(&place);
    let rows = |row: &dyn Fn(u64) -> serde_json::Value| {
        (0..8).map(|i| row(i).to_string()).collect::<Vec<_>>().join("\n") + "\n"
    };
    place.write("text.jsonl", rows(&|i| json!({"text": format!("The number {i} is here.")})));
    place.write(
        "pairs.jsonl",
        rows(
            &|i| json!({"prompt": format!("{i}?"), "chosen": " Yes.", "rejected": " I think not."}),
        ),
    );
    place.write(
        "judged.jsonl",
        rows(&|i| json!({"prompt": format!("{i}?"), "completion": " Yes.", "label": i % 2 == 0})),
    );
    place.write(
        "classes.jsonl",
        rows(&|i| json!({"text": format!("The number {i} is here."), "label": i % 3})),
    );
    for (recipe, data) in [
        ("sft-full", "text"),
        ("dpo-lora", "pairs"),
        ("kto", "judged"),
        ("reward", "pairs"),
        ("classify", "classes"),
    ] {
        let broken = place.run(&format!(
            "finetune --recipe {recipe} --model poisoned --dataset {data}.jsonl --out runs/{recipe} --max-steps 2 \
             --seq-len 64 --set samples.count=0 --set data.on_mismatch=warn"
        ));
        assert!(broken.stderr.contains("tunesmith replay"), "{recipe}: {broken:?}");
        let file = format!("runs/{recipe}/replay-step-000000001.json");
        let replay = place.run(&format!("replay {file}"));
        assert_eq!(replay.code, broken.code, "{recipe}: {replay:?}");
        let error = |stderr: &str| stderr[stderr.find("error: ").expect("an error")..].to_owned();
        assert_eq!(error(&replay.stderr), error(&broken.stderr), "{recipe}");
    }
}
