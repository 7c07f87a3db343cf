//! Hostile files: mutations of sound ones, and those that did harm elsewhere, are refused without a panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

use std::time::{Duration, Instant};
use tunesmith_tests::{hostile::*, *};

#[test]
fn mutated_files_are_read_or_refused_and_never_panic() {
    for Target { name, seeds, accepts, rounds } in &TARGETS {
        mutate::never_panics(name, &seeds(), *rounds, accepts);
    }
}

/// Every parser has its target in `fuzz/`, and every target its entry there.
#[test]
fn each_parser_is_a_fuzz_target() {
    let fuzz = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
    let mut n_ours = 0;
    for entry in std::fs::read_dir(fuzz.join("fuzz_targets")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(manifest.contains(&format!("path = \"fuzz_targets/{name}.rs\"")), "{name}");
        let text = std::fs::read_to_string(&path).unwrap();
        n_ours += usize::from(text.contains(&format!("tunesmith_tests::hostile::{name}(bytes)")));
    }
    assert_eq!(n_ours, TARGETS.len());
}

#[test]
fn what_did_harm_elsewhere_is_refused() {
    let deep = |open: &str, close: &str| {
        [open.repeat(200_000), close.repeat(200_000)].concat().into_bytes()
    };
    let header = |json: &str| {
        let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
        bytes.extend(json.as_bytes());
        bytes
    };
    let tensor = |shape: &str, offsets: &str| {
        header(&format!(r#"{{"a":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    let map = |file: &str| format!(r#"{{"weight_map": {{"a": {file:?}}}}}"#).into_bytes();
    type Accepts = fn(&[u8]) -> bool;
    let cases: Vec<(&str, Accepts, Vec<u8>)> = vec![
        ("a header longer than the file", safetensors, u64::MAX.to_le_bytes().to_vec()),
        (
            "a header of 100 MB that is not there",
            safetensors,
            100_000_000u64.to_le_bytes().to_vec(),
        ),
        ("a shape that overflows", safetensors, tensor("[4294967296,4294967296]", "[0,0]")),
        ("offsets behind the end", safetensors, tensor("[4]", "[0,16]")),
        ("offsets that run backwards", safetensors, tensor("[4]", "[16,0]")),
        (
            "a git-LFS pointer",
            safetensors,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n".to_vec(),
        ),
        ("a pickle", safetensors, b"\x80\x02}q\x00X\x01\x00\x00\x00aq\x01K\x01s.".to_vec()),
        ("a zip", safetensors, b"PK\x03\x04\x14\x00\x00\x00\x08\x00".to_vec()),
        ("a shard above", index, map("../shard.safetensors")),
        ("a shard at the root", index, map("/etc/passwd")),
        ("a shard behind a folder", index, map("a/../../b")),
        ("a shard with a zero byte", index, map("shard.safetensors\0")),
        ("an empty shard name", index, map("")),
        ("deep JSON as a configuration", config, deep("[", "]")),
        ("a deep template", template, deep("{% if x %}", "{% endif %}")),
        (
            "a deep expression",
            template,
            [b"{{ ".to_vec(), deep("(", ")"), b" }}".to_vec()].concat(),
        ),
        (
            "a manifest of a later day without a seal",
            manifest,
            br#"{"format": 99, "files": {}}"#.to_vec(),
        ),
        (
            "a manifest that names a file above",
            manifest,
            br#"{"format": 1, "files": {"../x": {"bytes": 1, "blake3": "0"}}}"#.to_vec(),
        ),
    ];
    for (what, accepts, bytes) in cases {
        let began = Instant::now();
        // A thread of its own with a small stack: what recurses without a limit ends here.
        let refused = std::thread::Builder::new().stack_size(2 << 20);
        let refused = refused.spawn(move || !accepts(&bytes)).expect("a thread").join();
        assert!(refused.unwrap_or_else(|_| panic!("{what}: panics")), "{what} is accepted");
        assert!(began.elapsed() < Duration::from_secs(2), "{what}: {:?}", began.elapsed());
    }
}

#[test]
fn a_token_of_the_hub_is_nowhere_afterwards() {
    let place = Place::new();
    place.write_rows("rows.jsonl", 20);
    let canary = "hf_canary0123456789abcdefghijklmnopqr";
    let line = "finetune --model llama3 --dataset rows.jsonl --seq-len 32 --max-steps 4 --save-every 2 -vv";
    for (run, line) in [
        ("x", format!("{line} --out x")),
        ("y", format!("{line} --out y --source hub --job --model owner/name")),
    ] {
        let mut command = place.command(&line);
        let output = command
            .env("HF_TOKEN", canary)
            .env("HUGGING_FACE_HUB_TOKEN", canary)
            .env("TUNESMITH_LOG", "trace")
            .env("RUST_BACKTRACE", "1")
            .output()
            .expect("tunesmith starts");
        for (stream, bytes) in [("stdout", &output.stdout), ("stderr", &output.stderr)] {
            assert!(!contains(bytes, canary), "the token is on {stream} of {run}");
        }
        assert_eq!(output.status.success(), run == "x");
    }
    let mut folders = vec![place.path("x")];
    let mut n_files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            n_files += 1;
            let bytes = std::fs::read(&path).expect("a file");
            assert!(!contains(&bytes, canary), "the token is in {}", path.display());
        }
    }
    assert!(n_files > 12, "{n_files} files are too few for a run");
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}
