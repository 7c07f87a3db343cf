//! Hostile data: mutations of sound files, and files that did harm elsewhere, are refused without a panic.
#![allow(clippy::unwrap_used, reason = "helpers of tests panic as tests do")]

#[path = "../../../tests/src/mutate.rs"]
mod mutate;
#[path = "hostile/targets.rs"]
mod targets;

use std::{
    path::Path,
    time::{Duration, Instant},
};
use targets::{card, dataset, rows};

fn golden(name: &str) -> Vec<u8> {
    std::fs::read(Path::new("tests/golden").join(name)).unwrap()
}

#[test]
fn mutated_files_are_read_or_refused_and_never_panic() {
    let lines = [
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}, {\"role\": \"assistant\", \"content\": \"b\"}]}\n".repeat(3),
        b"{\"input_ids\": [1, 2, 3], \"labels\": [-100, 2, 3]}\n".repeat(2),
        b"{\"text\": \"\\ud83d\\ude00 plain\"}\n".to_vec(),
    ];
    mutate::never_panics("rows.jsonl", &lines, 1000, &|bytes| rows(bytes, "jsonl"));
    let array = b"[{\"prompt\": \"a\", \"completion\": \"b\"},\n {\"prompt\": \"c\", \"completion\": \"d\"}]";
    mutate::never_panics("rows.json", &[array.to_vec()], 1000, &|bytes| rows(bytes, "json"));
    let parquet = [golden("chats.parquet"), golden("codec-snappy.parquet")];
    mutate::never_panics("rows.parquet", &parquet, 600, &|bytes| rows(bytes, "parquet"));
    let arrow = [golden("chats-file.arrow"), golden("chats-stream.arrow")];
    mutate::never_panics("rows.arrow", &arrow, 600, &|bytes| rows(bytes, "arrow"));
    let csv = b"text,label\n\"a, \"\"b\"\"\n\",1\n c,0\r\n";
    mutate::never_panics("rows.csv", &[csv.to_vec()], 1000, &|bytes| rows(bytes, "csv"));
    let readme = b"---\nlicense: mit\nconfigs:\n- config_name: de\n  data_files:\n  - split: train\n    path: [a-*, \"b\"]\n- config_name: fr\n  data_dir: fr\n  default: true\n---\n# Rows\n";
    mutate::never_panics("README.md", &[readme.to_vec()], 2000, &card);
    let description = b"split = \"train\"\neval_split = \"held\"\nshape = \"messages\"\n[splits]\ntrain = [\"a*.jsonl\", \"b\"]\nheld = \"c.jsonl\"\n[columns]\nmessages = \"chat\"\n";
    mutate::never_panics("dataset.toml", &[description.to_vec()], 1000, &dataset);
}

#[test]
fn what_did_harm_elsewhere_is_refused() {
    let deep = |open: &str, close: &str| {
        [open.repeat(200_000), close.repeat(200_000)].concat().into_bytes()
    };
    type Accepts = fn(&[u8]) -> bool;
    let head = |yaml: String| format!("---\n{yaml}\n---\n").into_bytes();
    let twice = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    let aliases: String = (1..30).map(twice).collect();
    let cases: [(&str, Accepts, Vec<u8>); 7] = [
        ("deep YAML", card, head(format!("configs: {}", "[".repeat(200_000)))),
        ("aliases of aliases", card, head(format!("a0: &a0 lol\n{aliases}configs: *a29"))),
        ("deep JSON as a row", |b| rows(b, "jsonl"), deep("{\"a\":", "}")),
        ("deep JSON as an array", |b| rows(b, "json"), deep("[", "]")),
        ("deep TOML", dataset, [b"a = ".to_vec(), deep("[", "]")].concat()),
        ("a parquet that is only its name", |b| rows(b, "parquet"), b"PAR1PAR1".to_vec()),
        (
            "a parquet with a footer of 2 GB",
            |b| rows(b, "parquet"),
            b"PAR1\xff\xff\xff\x7fPAR1".to_vec(),
        ),
    ];
    for (what, accepts, bytes) in cases {
        let began = Instant::now();
        // A thread of its own with a small stack: what recurses without a limit ends here.
        let thread = std::thread::Builder::new().stack_size(2 << 20);
        let refused = thread.spawn(move || !accepts(&bytes)).unwrap().join();
        assert!(refused.unwrap_or_else(|_| panic!("{what}: panics")), "{what} is accepted");
        assert!(began.elapsed() < Duration::from_secs(5), "{what}: {:?}", began.elapsed());
    }
}
