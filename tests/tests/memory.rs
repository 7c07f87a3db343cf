//! Runs in little memory: the plan that chooses what is computed again, and an optimizer that keeps less.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use tunesmith_tests::*;

const TRAIN: &str = "finetune --model tiny --dataset rows.jsonl --seq-len 32 --lr 3e-3";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", 30);
    place
}

/// The same run with all the memory there is, with too little, and as asked: another plan, the same losses.
#[test]
fn little_memory_chooses_to_compute_again_and_changes_nothing_else() {
    let place = place();
    let train = format!("{TRAIN} --max-steps 4");
    let ran = place.ok(&format!("{train} --out whole"));
    assert!(ran.stderr.contains("memory needed: nothing is computed again"), "{}", ran.stderr);
    let ran = place.ok(&format!("{train} --set model.memory_gb=0.05 --out small"));
    for said in ["of 47.7 MiB of memory needed: recompute blocks; without it", "--rehearse"] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
    let ran = place.ok(&format!("{train} --recompute mlp --out asked"));
    assert!(ran.stderr.contains("recompute mlp, as asked"), "{}", ran.stderr);
    for run in ["small", "asked"] {
        assert_eq!(place.untimed("whole"), place.untimed(run));
        assert!(
            place.bytes("whole/final/model.safetensors")
                == place.bytes(&format!("{run}/final/model.safetensors"))
        );
    }
    assert!(place.text("small/report.html").contains("peak without recompute"));
    // A policy is no setting of the result: a run goes on under another one.
    place.ok(&format!("{TRAIN} --max-steps 6 --recompute blocks --out whole --resume"));
    assert_eq!(place.metrics("whole").len(), 6);
}

/// bf16 weights alone and moments in 8 bits: stopped and resumed is the same, bit by bit, and another choice is refused.
#[test]
fn an_optimizer_that_keeps_less_resumes_exactly() {
    let place = place();
    let less = "--dtype bf16 --set optimizer.master=none --set optimizer.moments=8bit";
    let train = format!("{TRAIN} --save-every 3 --set schedule.decay=constant");
    place.ok(&format!("{train} {less} --max-steps 6 --out whole"));
    place.ok(&format!("{train} {less} --max-steps 3 --out x"));
    place.ok(&format!("{train} {less} --max-steps 6 --out x --resume"));
    assert_eq!(place.untimed("whole"), place.untimed("x"));
    for file in ["model.safetensors", "optimizer.safetensors"] {
        let bytes = |run: &str| place.bytes(&format!("{run}/checkpoints/step-000000006/{file}"));
        assert!(bytes("whole") == bytes("x"), "{file}");
    }
    let ran = place.fails(78, &format!("{train} --dtype bf16 --max-steps 9 --out x --resume"));
    for said in ["optimizer.master: was \"none\", is \"fp32\"", "optimizer.moments: was \"8bit\""] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
    let allowed = "--allow-change optimizer";
    let ran =
        place.fails(74, &format!("{train} --dtype bf16 {allowed} --max-steps 9 --out x --resume"));
    assert!(ran.stderr.contains("must be those of the checkpoint"), "{}", ran.stderr);
    let ran = place.fails(78, &format!("{train} --set optimizer.moments=4bit --out y"));
    assert!(ran.stderr.contains("`optimizer.moments`: expected"), "{}", ran.stderr);
}
