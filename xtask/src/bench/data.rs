//! `cargo xtask bench data`: JSONL chats → template → tokens → mask → packs of 2048, ours and that of `datasets`,
//! transformers and TRL, on the same file with the same number of processes or threads.
//!
//! Both must give the same ids and marks for every row, by their hashes. Rows whose text spells a special token are set
//! apart: Python makes the special token of it, tunesmith leaves it text.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::rounds::{Runs, Side, alternate};
use super::{Options, peer, report};
use crate::build;
use crate::command::{Cmd, in_root};

const FILE: &str = "ultrachat/train_sft.jsonl";
const MODEL: &str = "smollm2-135m-instruct";
const SEQ_LEN: usize = 2048;

/// Runs both sides and prints the comparison.
///
/// # Errors
/// Something is missing, a side fails, or the two give different tokens.
pub(crate) fn run(options: &Options) -> Result<()> {
    let cores = report::cores();
    let arguments = [
        options.part(FILE)?.display().to_string(),
        options.part(MODEL)?.display().to_string(),
        SEQ_LEN.to_string(),
        cores.to_string(),
    ];
    let mut sides = vec![Side { name: "tunesmith", command: ours()?.args(&arguments) }];
    if options.peer {
        let command = peer::script("data.py")?.args(&arguments);
        sides.push(Side { name: "datasets + transformers + trl", command });
    }
    let runs = alternate(&sides, options.rounds)?;
    print!("{}", report::table(&HEADER, &rows(&runs)?));
    let same = match &runs[..] {
        [ours, theirs] => Some(compare(ours, theirs)?),
        _ => None,
    };
    if let Some(Ok((equal, apart))) = same {
        println!(
            "{equal} rows have the same tokens and marks; {apart} spell special tokens and are set apart"
        );
    }
    println!("{}", summary(&runs, &same, options.rounds)?);
    match same {
        Some(Err(difference)) => bail!("both sides should give the same tokens, but {difference}"),
        _ => Ok(()),
    }
}

/// Builds the example that runs our data path, in the release profile; it links no libtorch.
fn ours() -> Result<Cmd> {
    let command =
        Cmd::cargo("build --release --package tunesmith-data --example data_path --manifest-path")
            .args([in_root("Cargo.toml")]);
    if !command.succeeds()? {
        bail!("`{}` failed; the compiler's own message is above", command.display());
    }
    let binary = build::binary()?;
    let folder = binary.parent().context("the release binary has no folder")?;
    Ok(Cmd::new(folder.join("examples/data_path")))
}

const HEADER: [&str; 7] = ["side", "s", "CPU s", "MB/s", "rows", "tokens", "trained"];

fn mb_per_s(runs: &Runs) -> Result<f64> {
    Ok(runs.median("bytes")? / 1e6 / runs.median("seconds")?)
}

fn rows(runs: &[Runs]) -> Result<Vec<Vec<String>>> {
    let row = |runs: &Runs| {
        let mut row = vec![
            runs.name.to_owned(),
            format!("{:.2}", runs.median("seconds")?),
            format!("{:.2}", runs.median("cpu_seconds")?),
            format!("{:.1}", mb_per_s(runs)?),
        ];
        for key in ["rows", "tokens", "trained"] {
            row.push(runs.fixed(key)?.to_string());
        }
        Ok(row)
    };
    runs.iter().map(row).collect()
}

/// How many rows were found equal and how many were set apart, or the first row that differs.
fn compare(ours: &Runs, theirs: &Runs) -> Result<Result<(usize, usize), String>> {
    let hashes = |runs: &Runs| -> Result<Vec<Value>> {
        let list = runs.fixed("hashes")?.as_array().cloned();
        list.with_context(|| format!("{}: `hashes` is no list", runs.name))
    };
    let (left, right) = (hashes(ours)?, hashes(theirs)?);
    if left.len() != right.len() {
        return Ok(Err(format!("{} rows and {}", left.len(), right.len())));
    }
    let apart = right.iter().filter(|hash| hash.is_null()).count();
    let differs =
        |(_, (left, right)): &(usize, (&Value, &Value))| !right.is_null() && left != right;
    Ok(match left.iter().zip(&right).enumerate().find(differs) {
        Some((row, _)) => Err(format!("the ids or marks of row {row} differ")),
        None => Ok((left.len() - apart, apart)),
    })
}

fn summary(
    runs: &[Runs],
    same: &Option<Result<(usize, usize), String>>,
    rounds: usize,
) -> Result<Value> {
    let side = |runs: &Runs| -> Result<Value> {
        Ok(json!({
            "name": runs.name,
            "seconds": runs.median("seconds")?,
            "cpu_seconds": runs.median("cpu_seconds")?,
            "mb_per_s": mb_per_s(runs)?,
            "tokens_per_s": runs.median("tokens")? / runs.median("seconds")?,
            "packs": runs.fixed("packs")?,
        }))
    };
    let sides = runs.iter().map(side).collect::<Result<Vec<_>>>()?;
    let (ratio, cpu_ratio) = match runs {
        [ours, theirs] => (
            json!(mb_per_s(ours)? / mb_per_s(theirs)?),
            json!(theirs.median("cpu_seconds")? / ours.median("cpu_seconds")?),
        ),
        _ => (Value::Null, Value::Null),
    };
    Ok(json!({
        "bench": "data",
        "machine": report::machine(),
        "rounds": rounds,
        "file": FILE,
        "model": MODEL,
        "seq_len": SEQ_LEN,
        "sides": sides,
        "ratio": ratio,
        "cpu_ratio": cpu_ratio,
        "same_tokens": same.as_ref().map(Result::is_ok),
        "rows_equal": same.as_ref().and_then(|same| same.as_ref().ok()).map(|(equal, _)| equal),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &'static str, seconds: f64, hashes: Value) -> Runs {
        let figures = json!({
            "seconds": seconds, "cpu_seconds": 1.5, "bytes": 20_000_000, "rows": 2, "tokens": 9, "trained": 5, "packs": 1,
            "hashes": hashes,
        });
        Runs { name, figures: vec![figures] }
    }

    #[test]
    fn sides_are_compared() {
        let both = [
            runs("ours", 0.5, json!(["a", "b", "c"])),
            runs("theirs", 10.0, json!(["a", null, "c"])),
        ];
        assert_eq!(rows(&both).unwrap()[0], ["ours", "0.50", "1.50", "40.0", "2", "9", "5"]);
        let same = compare(&both[0], &both[1]).unwrap();
        assert_eq!(same, Ok((2, 1)));
        let summary = summary(&both, &Some(same), 1).unwrap();
        assert_eq!((&summary["ratio"], &summary["cpu_ratio"]), (&json!(20.0), &json!(1.0)));
        assert_eq!(summary["sides"][1]["tokens_per_s"], 0.9);
        assert_eq!((&summary["same_tokens"], &summary["rows_equal"]), (&json!(true), &json!(2)));
    }

    #[test]
    fn other_tokens_are_found() {
        let ours = runs("ours", 1.0, json!(["a", "b"]));
        let against = |hashes| compare(&ours, &runs("theirs", 1.0, hashes)).unwrap().unwrap_err();
        assert_eq!(against(json!(["a", "x"])), "the ids or marks of row 1 differ");
        assert_eq!(against(json!(["a"])), "2 rows and 1");
    }
}
