//! Save, stop, resume ≡ never stopped: byte-equal on the CPU, however the run ended.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use rustix::process::{Pid, Signal, kill_process};
use std::{
    fs,
    path::Path,
    process::{Child, Stdio},
    time::{Duration, Instant},
};
use tunesmith_tests::*;

const TRAIN: &str = "finetune --model llama3 --dataset rows.jsonl --seq-len 32 --lr 3e-3";

fn place() -> Place {
    let place = Place::new();
    place.write_rows("rows.jsonl", 30);
    place
}

/// Everything but clocks: metrics, ledger, the final model, and the newest checkpoint with the optimizer's state.
fn assert_same(place: &Place, a: &str, b: &str) {
    assert_eq!(place.untimed(a), place.untimed(b), "metrics of {a} and {b}");
    let checkpoints = place.names(&format!("{a}/checkpoints"));
    assert_eq!(checkpoints.last(), place.names(&format!("{b}/checkpoints")).last());
    let newest = format!("checkpoints/{}", checkpoints.last().expect("a checkpoint"));
    for folder in [newest.as_str(), "final"] {
        let names = place.names(&format!("{a}/{folder}"));
        assert_eq!(names, place.names(&format!("{b}/{folder}")));
        for name in names {
            let bytes = |run: &str| place.bytes(&format!("{run}/{folder}/{name}"));
            assert!(bytes(a) == bytes(b), "{folder}/{name} differs between {a} and {b}");
        }
    }
    assert_eq!(place.text(&format!("{a}/ledger.json")), place.text(&format!("{b}/ledger.json")));
}

fn start(place: &Place, line: &str) -> Child {
    let mut command = place.command(line);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("tunesmith starts")
}

/// Waits until a run has logged `n` steps or has ended; says how many it has logged.
fn wait_for(place: &Place, run: &str, n: usize, child: &mut Child) -> usize {
    let began = Instant::now();
    loop {
        let text = fs::read_to_string(place.path(run).join("metrics.jsonl")).unwrap_or_default();
        let logged = text.lines().count();
        if logged >= n || child.try_wait().expect("a child").is_some() {
            return logged;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{logged} of {n} steps in a minute");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn a_signal_saves_and_the_run_goes_on_as_if_nothing_had_happened() {
    let place = place();
    let train = format!("{TRAIN} --max-steps 150 --save-every 40");
    place.ok(&format!("{train} --out whole"));
    for (signal, run) in [(Signal::INT, "int"), (Signal::USR2, "usr2")] {
        let mut child = start(&place, &format!("{train} --out {run}"));
        wait_for(&place, run, 5, &mut child);
        kill_process(Pid::from_child(&child), signal).expect("the run goes on");
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(75), "{stderr}");
        let steps = place.metrics(run).len();
        assert!((5..150).contains(&steps), "stopped after {steps} steps");
        let saved = format!("step-{steps:09}");
        assert_eq!(place.names(&format!("{run}/checkpoints")).last(), Some(&saved), "{stderr}");
        for said in [&format!("stopped after step {steps}"), &saved, "--resume"] {
            assert!(stderr.contains(said), "{said:?} is missing in: {stderr}");
        }
        assert!(!place.path(run).join("final").exists());
        let ran = place.ok(&format!("{train} --out {run} --resume"));
        assert!(ran.stderr.contains(&format!("resuming after step {steps}")), "{}", ran.stderr);
        assert_same(&place, "whole", run);
    }
}

#[test]
fn resuming_at_every_step_changes_no_later_one() {
    let place = place();
    let train = format!("{TRAIN} --epochs 3 --batch 1 --accumulate 4 --set train.keep=99");
    place.ok(&format!("{train} --save-every 1 --out whole"));
    let steps = place.metrics("whole").len() as u64;
    assert!(steps >= 9, "{steps} steps are too few for three epochs");
    for step in 1..steps {
        let run = format!("from-{step}");
        copy(&place.path("whole"), &place.path(&run));
        let ran = place.ok(&format!("{train} --save-every 1 --out {run} --resume step-{step}"));
        assert!(ran.stderr.contains(&format!("resuming after step {step}\n")), "{}", ran.stderr);
        let aside = ran.stderr.matches(&format!("going on from step {step}: set ")).count() as u64;
        assert_eq!(aside, steps - step, "what was saved later is set aside");
        let left = place.names(&format!("{run}/checkpoints"));
        let left = left.iter().filter(|name| name.starts_with("later-")).count();
        assert_eq!(left, 0, "and goes once the run has come as far");
        for name in ["rows.jsonl", "ledger.json"] {
            assert!(
                place.bytes(&format!("whole/{name}")) == place.bytes(&format!("{run}/{name}")),
                "{run}/{name}"
            );
        }
        assert_same(&place, "whole", &run);
    }
    let ran = place.fails(66, &format!("{train} --out whole --resume step-999"));
    assert!(
        ran.stderr.contains("expected a checkpoint of step 999, found step-1, "),
        "{}",
        ran.stderr
    );
    let ran = place.fails(64, &format!("{train} --out whole --resume last"));
    assert!(ran.stderr.contains("expected a step, such as step-500"), "{}", ran.stderr);
}

/// Pairs that share their prompts come back as they were packed.
#[test]
fn a_run_on_pairs_that_share_their_prompts_resumes_at_every_step() {
    let place = place();
    let row = |i: usize| {
        format!(
            r#"{{"prompt": "{}", "chosen": " It is {i}.", "rejected": " No."}}"#,
            "What? ".repeat(3 + i % 4)
        )
    };
    place.write("pairs.jsonl", (0..12).map(row).collect::<Vec<_>>().join("\n") + "\n");
    let train = "finetune --recipe dpo-lora --model tiny --dataset pairs.jsonl --max-steps 8 --seq-len 128 --lr 3e-3 \
                 --batch 1 --set train.accumulate=2 --set samples.count=0 --set train.keep=99 --save-every 1";
    place.ok(&format!("{train} --out whole"));
    for step in [1, 2, 5, 7] {
        let run = format!("from-{step}");
        copy(&place.path("whole"), &place.path(&run));
        place.ok(&format!("{train} --out {run} --resume step-{step}"));
        assert_same(&place, "whole", &run);
    }
    // Repeated prompts would be packed another way, and the checkpoint's place would be another one.
    let ran = place
        .fails(78, &format!("{train} --out from-1 --resume step-4 --set data.share_prompt=false"));
    assert!(ran.stderr.contains("data.share_prompt: was true, is false"), "{}", ran.stderr);
}

/// A copy of a folder with everything below it.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &to),
            false => _ = fs::copy(entry.path(), to).unwrap(),
        }
    }
}

/// Written by the first commit that saved checkpoints of format 1; `tests/golden/README.md` says how.
#[test]
fn a_checkpoint_of_the_first_format_goes_on_as_it_would_have() {
    let place = Place::new();
    copy(&golden("checkpoint-format-1"), &place.path("old"));
    let before = place.untimed("old/run");
    let train = "finetune --model model --from-scratch --dataset old/rows.jsonl --seq-len 32 --lr 3e-3 --max-steps 8";
    copy(&place.path("old/model"), &place.path("model"));
    place.ok(&format!("{train} --save-every 4 --out old/run --resume"));
    let after = place.untimed("old/run");
    assert_eq!(after.len(), before.len());
    assert_eq!(after[..4], before[..4], "the log of before stays");
    for (a, b) in after.iter().zip(&before) {
        let number = |record: &str, name: &str| {
            serde_json::from_str::<serde_json::Value>(record).unwrap()[name].as_f64().unwrap()
        };
        for name in ["epoch", "learning_rate", "num_tokens"] {
            assert_eq!(number(a, name), number(b, name), "{name}: {a}");
        }
        // Equal but for the order of sums, which is that of the machine.
        let (a, b) = (number(a, "loss"), number(b, "loss"));
        assert!((a / b - 1.0).abs() < 1e-6, "loss {a}, was {b}");
    }
    assert_eq!(place.names("old/run/checkpoints"), ["step-000000004", "step-000000008"]);
}

#[test]
fn a_save_that_training_waits_for_is_the_same() {
    let place = place();
    let train = format!("{TRAIN} --max-steps 9 --save-every 2");
    place.ok(&format!("{train} --out beside"));
    place.ok(&format!("{train} --set train.save_in_background=false --out waited"));
    assert_same(&place, "beside", "waited");
    // It may change when a run goes on.
    place
        .ok(&format!("{train} --max-steps 11 --out waited --resume").replace("--max-steps 9 ", ""));
    assert_eq!(place.losses("waited").len(), 11);
}

#[test]
fn epochs_are_resumed_too() {
    let place = place();
    let train = format!("{TRAIN} --epochs 3 --batch 1 --accumulate 3 --save-every 3");
    place.ok(&format!("{train} --out whole"));
    place.ok(&format!("{train} --out cut"));
    // As a kill before the next save leaves it: an older checkpoint, and a log that is further.
    let checkpoints = place.names("cut/checkpoints");
    fs::remove_dir_all(place.path("cut/checkpoints").join(&checkpoints[1])).unwrap();
    fs::remove_dir_all(place.path("cut/final")).unwrap();
    fs::remove_file(place.path("cut/report.html")).unwrap();
    place.ok(&format!("{train} --out cut --resume"));
    assert_same(&place, "whole", "cut");
}

#[test]
fn a_finished_run_is_left_alone() {
    let place = place();
    for (run, knobs) in [
        ("steps", "--max-steps 4"),
        ("epochs", "--epochs 1"),
        ("unsaved", "--max-steps 4 --save-every 0"),
    ] {
        let train = format!("{TRAIN} {knobs} --out {run}");
        place.ok(&train);
        let contents = || -> Vec<(String, Vec<u8>)> {
            let mut files = Vec::new();
            let mut folders = vec![run.to_owned()];
            while let Some(folder) = folders.pop() {
                for name in place.names(&folder) {
                    let name = format!("{folder}/{name}");
                    match place.path(&name).is_dir() {
                        true => folders.push(name),
                        false if name.ends_with(".lock") => {} // names its owner
                        false => files.push((name.clone(), place.bytes(&name))),
                    }
                }
            }
            files
        };
        let before = contents();
        let ran = place.ok(&format!("{train} --resume"));
        assert!(ran.stderr.contains("already finished"), "{run}: {}", ran.stderr);
        assert!(before == contents(), "{run}: something changed");
    }
    // More steps are more to do, where there is something to do them from.
    place.ok(&format!("{TRAIN} --max-steps 6 --out steps --resume"));
    assert_eq!(place.metrics("steps").len(), 6);
    let ran =
        place.fails(78, &format!("{TRAIN} --max-steps 6 --save-every 0 --out unsaved --resume"));
    assert!(ran.stderr.contains("kept no checkpoint"), "{}", ran.stderr);
    assert_eq!(place.metrics("unsaved").len(), 4);
}

#[test]
fn resume_starts_where_there_is_nothing_yet() {
    let place = place();
    let train = format!("{TRAIN} --max-steps 3");
    let ran = place.ok(&format!("{train} --out new --resume"));
    assert!(ran.stderr.contains("no checkpoint yet, starting at step 0"), "{}", ran.stderr);
    place.ok(&format!("{train} --out whole"));
    assert_same(&place, "whole", "new");
    // A run that was killed before its first checkpoint has a log, which starts anew.
    for gone in ["checkpoints", "final"] {
        fs::remove_dir_all(place.path("new").join(gone)).unwrap();
    }
    fs::remove_file(place.path("new/report.html")).unwrap();
    place.ok(&format!("{train} --out new --resume"));
    assert_same(&place, "whole", "new");
    // One that was killed before its first file has nothing but the lock.
    place.write("early/.lock", "host x, pid 1\n");
    place.ok(&format!("{train} --out early --resume"));
    assert_same(&place, "whole", "early");
}

#[test]
fn what_a_checkpoint_was_made_with_must_stay() {
    let place = place();
    place.ok(&format!("{TRAIN} --max-steps 4 --out x"));
    let before = place.bytes("x/recipe.toml");
    let changed = TRAIN.replace("--lr 3e-3", "--lr 1e-4");
    let ran = place.fails(78, &format!("{changed} --max-steps 8 --batch 3 --out x --resume"));
    for said in [
        "step-000000004: the checkpoint was made with other settings",
        "data.batch: was 2, is 3",
        "schedule.lr: was 0.003, is 0.0001",
        "--allow-change data.batch,schedule.lr",
        "help: ",
    ] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
    assert!(!ran.stderr.contains("seed"), "what stayed is not listed: {}", ran.stderr);
    assert_eq!(before, place.bytes("x/recipe.toml"), "a refused run changes nothing");
    place.write_rows("rows.jsonl", 31);
    let ran = place.fails(78, &format!("{TRAIN} --max-steps 8 --out x --resume"));
    assert!(ran.stderr.contains("dataset: was"), "{}", ran.stderr);
}

#[test]
fn a_damaged_checkpoint_falls_back_and_never_to_the_start() {
    let place = place();
    place.ok(&format!("{TRAIN} --max-steps 8 --save-every 2 --out whole"));
    place.ok(&format!("{TRAIN} --max-steps 8 --save-every 2 --out x"));
    let damage = |file: &str, how: fn(&mut Vec<u8>)| {
        let mut bytes = place.bytes(file);
        how(&mut bytes);
        place.write(file, bytes);
    };
    let flip = |bytes: &mut Vec<u8>| *bytes.last_mut().unwrap() ^= 1;
    let cut = |bytes: &mut Vec<u8>| bytes.truncate(bytes.len() / 2);
    fs::remove_file(place.path("x/report.html")).unwrap();
    damage("x/checkpoints/step-000000008/optimizer.safetensors", flip);
    let resume = format!("{TRAIN} --max-steps 8 --save-every 2 --out x --resume");
    let ran = place.ok(&resume);
    for said in [
        "step-000000008/optimizer.safetensors: damaged",
        "set aside as",
        "corrupt-step-000000008",
        "resuming after step 6",
    ] {
        assert!(ran.stderr.contains(said), "{said:?} is missing in: {}", ran.stderr);
    }
    fs::remove_dir_all(place.path("x/checkpoints/corrupt-step-000000008")).unwrap();
    assert_same(&place, "whole", "x");

    damage("x/checkpoints/step-000000006/model.safetensors", cut);
    fs::remove_file(place.path("x/checkpoints/step-000000008/MANIFEST.json")).unwrap();
    let metrics = place.bytes("x/metrics.jsonl");
    for attempt in ["the first", "the second"] {
        let ran = place.fails(74, &resume);
        for said in ["expected a whole checkpoint, found 2 damaged ones", "help: "] {
            assert!(ran.stderr.contains(said), "{attempt}: {said:?} is missing in: {}", ran.stderr);
        }
        assert_eq!(metrics, place.bytes("x/metrics.jsonl"), "{attempt} attempt starts nothing");
    }
}

#[test]
fn a_disk_that_fills_up_costs_nothing_that_was_saved() {
    let place = place();
    let train = format!("{TRAIN} --set schedule.decay=constant --save-every 2");
    place.ok(&format!("{train} --max-steps 8 --out whole"));
    place.ok(&format!("{train} --max-steps 4 --out x"));
    // Files may not grow beyond 100 KiB: the weights fit, the optimizer's state does not.
    let line = format!("{} {train} --max-steps 8 --out x --resume", binary().display());
    let limited = format!("trap '' XFSZ; ulimit -f 200; exec {line}");
    let mut shell = std::process::Command::new("sh");
    for (name, value) in place.command("").get_envs() {
        value.map(|value| shell.env(name, value));
    }
    let output = shell.arg("-c").arg(limited).current_dir(place.path("")).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(74), "{stderr}");
    assert!(stderr.contains("optimizer.safetensors: File too large"), "{stderr}");
    assert_eq!(place.names("x/checkpoints"), ["step-000000002", "step-000000004"]);
    place.ok(&format!("{train} --max-steps 8 --out x --resume"));
    assert_same(&place, "whole", "x");
}
