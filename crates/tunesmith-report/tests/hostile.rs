//! A log that was mutated is read or refused, without a panic.

#[path = "../../../tests/src/mutate.rs"]
mod mutate;

use tunesmith_report::{MetricsLog, Record};

#[test]
fn mutated_logs_are_read_or_refused_and_never_panic() {
    let record = |step: u64| {
        Record::new(step).with("loss", 1.5 / step as f64).with("num_tokens", 512 * step)
    };
    let odd = Record::new(4).with("loss", f64::NAN).with("grad_norm", f64::INFINITY);
    let lines: String =
        (1..4).map(record).chain([odd]).map(|record| record.to_json() + "\n").collect();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("metrics.jsonl");
    mutate::never_panics("metrics.jsonl", &[lines.into_bytes()], 3000, &|bytes| {
        std::fs::write(&path, bytes).unwrap();
        MetricsLog::read(&path).is_ok()
    });
}
