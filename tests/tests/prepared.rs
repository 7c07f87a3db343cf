//! `data prepare`, then `finetune`: the same run from the tokens as from the rows, and never one from tokens that are
//! damaged or made of something else.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use serde_json::json;
use std::path::PathBuf;
use tunesmith_tests::Place;

const RUN: &str =
    "finetune --model tiny --dataset chats.jsonl --seq-len 64 --max-steps 5 --set samples.count=0";
const PREPARE: &str = "data prepare --model tiny --dataset chats.jsonl --seq-len 64";
const TAKEN: &str = "tokens are taken from";

/// 30 conversations; `last` is what the last one answers.
fn chats(place: &Place, last: &str) {
    let row = |i: usize| {
        let answer = if i == 29 { last.to_owned() } else { format!("{} words about {i}.", i * 7) };
        let turns = [("user", format!("What is {i} plus {i}?")), ("assistant", answer)];
        let turns = turns.map(|(role, content)| json!({"role": role, "content": content}));
        format!("{}\n", json!({"messages": turns}))
    };
    place.write("chats.jsonl", (0..30).map(row).collect::<String>());
}

fn prepared(place: &Place, line: &str) -> PathBuf {
    PathBuf::from(place.ok(line).stdout.trim_end())
}

#[test]
fn a_run_from_tokens_is_the_run_from_rows() {
    let place = Place::new();
    chats(&place, "Some words.");
    let ran = place.ok(&format!("{RUN} --out rows"));
    assert!(!ran.stderr.contains(TAKEN), "{}", ran.stderr);
    let path = prepared(&place, PREPARE);
    assert!(path.starts_with(place.path("cache")), "{}", path.display());
    let ran = place.ok(&format!("{RUN} --out tokens"));
    assert!(ran.stderr.contains(TAKEN), "{}", ran.stderr);
    assert_eq!(place.untimed("tokens"), place.untimed("rows"));
    for file in ["rows.jsonl", "ledger.json", "final/model.safetensors"] {
        assert_eq!(place.bytes(&format!("tokens/{file}")), place.bytes(&format!("rows/{file}")));
    }
    // a model of fewer positions than the row's tokens, and options that the recipe gives
    let line = "--set data.train_on=everything --set data.prepared=here";
    let ran = place.fails(66, &format!("{RUN} {line} --out x"));
    assert!(ran.stderr.contains("found no here\nhelp: "), "{}", ran.stderr);
    prepared(&place, &format!("{PREPARE} --set data.train_on=everything --out here"));
    assert!(place.ok(&format!("{RUN} {line} --out x")).stderr.contains(TAKEN));
    assert_ne!(place.losses("x"), place.losses("rows"));
    let line = RUN.replace("--seq-len 64", "--seq-len 4096");
    prepared(&place, &PREPARE.replace("--seq-len 64", "--seq-len 4096"));
    assert!(place.ok(&format!("{line} --out y")).stderr.contains(TAKEN));
}

#[test]
fn tokens_that_do_not_fit_are_never_trained() {
    let place = Place::new();
    chats(&place, "Some words.");
    let path = prepared(&place, PREPARE);
    let sound = std::fs::read(&path).unwrap();
    let refused = |code: i32, line: &str, expected: &str| {
        let ran = place.fails(code, &format!("{RUN} {line} --out bad"));
        assert!(ran.stderr.contains(expected), "{expected:?} is missing in: {}", ran.stderr);
        assert!(!place.path("bad/final").exists() && !place.path("bad/checkpoints").exists());
        _ = std::fs::remove_dir_all(place.path("bad"));
    };
    let named = format!("--set data.prepared={}", path.display());
    // one bit
    let mut flipped = sound.clone();
    flipped[1000] ^= 16;
    std::fs::write(&path, &flipped).unwrap();
    for line in ["", &named] {
        refused(65, line, &format!("{}: bytes 168 to ", path.display()));
        refused(65, line, "do not have their checksum, and row ");
    }
    // half of it
    std::fs::write(&path, &sound[..sound.len() / 2]).unwrap();
    refused(65, "", &format!("{}: cut off or damaged: found ", path.display()));
    // written again over the damaged one
    assert_eq!(prepared(&place, PREPARE), path);
    assert_eq!(std::fs::read(&path).unwrap(), sound);
    // other options, another tokenizer
    refused(
        65,
        &format!("{named} --set data.train_on=everything"),
        "those of other options of the encoder\nhelp: ",
    );
    // data of the same length, other by one letter
    chats(&place, "Same words.");
    refused(65, &named, "found those of other data files\nhelp: prepare the data set again");
    let folder = path.parent().unwrap().display().to_string();
    refused(66, &format!("--set data.prepared={folder}"), "the data or the options changed");
    // nobody named them: the rows are read
    let ran = place.ok(&format!("{RUN} --out new"));
    assert!(!ran.stderr.contains(TAKEN), "{}", ran.stderr);
}
