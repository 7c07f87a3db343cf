//! The benchmark of a GPU as a dry run on the CPU: every line of it that needs no GPU.

use serde_json::Value;
use std::process::Command;

#[test]
fn a_dry_run_measures_every_part() {
    let here = std::env::current_exe().unwrap();
    let program = here.ancestors().nth(2).unwrap().join("examples/gpu");
    let built = program.is_file();
    assert!(built, "{}: `cargo test -p tunesmith-train` builds it", program.display());
    let output = Command::new(&program).arg("--cpu-dry-run").output().unwrap();
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    assert!(output.status.success(), "{stdout}{stderr}");
    let report: Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["failures"], Value::Array(Vec::new()));
    for (part, least) in [
        ("kernels", 100),
        ("nodes", 12),
        ("floors", 9),
        ("training", 6),
        ("decode checks", 1),
        ("decode", 3),
        ("attention", 4),
    ] {
        let rows = report[part].as_array().map_or(0, Vec::len);
        assert!(rows >= least, "{part}: {rows} rows");
    }
    for job in report["training"].as_array().unwrap() {
        assert!(job["tokens/s"].as_f64().unwrap() > 0.0, "{job}");
    }
    let refused = Command::new(&program).arg("--sconds").output().unwrap();
    assert!(!refused.status.success());
    assert!(String::from_utf8(refused.stderr).unwrap().contains("unexpected argument `--sconds`"));
}
