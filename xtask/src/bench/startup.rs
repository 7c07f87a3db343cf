//! `cargo xtask bench startup`: from the start of the process to the end of the first step on a file of chats, the real
//! `tunesmith finetune` beside a script of TRL: imports, weights, data, tokens, one step of 2 rows.

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::rounds::{Runs, Side, alternate_by, measure};
use super::{Options, peer, report};
use crate::build;
use crate::command::Cmd;

const FILE: &str = "ultrachat/train_sft.jsonl";
const MODEL: &str = "smollm2-135m-instruct";
const ROW_TOKENS: usize = 512;
const OURS: &str = "tunesmith";
/// Nobody waits longer for a first step.
const PATIENCE: Duration = Duration::from_mins(10);

/// Runs both sides and prints the comparison.
///
/// # Errors
/// Something is missing, or a side fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let (model, file) = (options.part(MODEL)?, options.part(FILE)?);
    let (model, file) = (model.display().to_string(), file.display().to_string());
    let folder = std::env::temp_dir().join("tunesmith-bench-startup");
    let arguments = ["finetune", "--recipe", "sft-full", "--model", &model, "--dataset", &file];
    let knobs = ["--set", "data.seq_len=512", "--set", "data.batch=2", "--set", "samples.count=0"];
    let command = Cmd::new(build::build(false, false)?).args(arguments).args(knobs);
    let command = command.args(["--out".as_ref(), folder.as_os_str()]);
    let mut sides = vec![Side { name: OURS, command }];
    if options.peer {
        let arguments = [&model, &file, &ROW_TOKENS.to_string()].map(Clone::clone);
        sides.push(Side { name: "trl", command: peer::script("startup.py")?.args(arguments) });
    }
    let runs = alternate_by(&sides, options.rounds, &|side| match side.name {
        OURS => first_step(&side.command, &folder),
        _ => measure(&side.command),
    })?;
    let row = |runs: &Runs| -> Result<Vec<String>> {
        let [seconds, mib] = [runs.median("first_step")?, runs.median("peak_mib")?];
        Ok(vec![runs.name.to_owned(), format!("{seconds:.1}"), format!("{mib:.0}")])
    };
    let rows = runs.iter().map(row).collect::<Result<Vec<_>>>()?;
    print!("{}", report::table(&["side", "first step s", "peak MiB"], &rows));
    let seconds = runs.iter().map(|runs| runs.median("first_step")).collect::<Result<Vec<_>>>()?;
    let ratio = match seconds[..] {
        [ours, theirs] => json!(ours / theirs),
        _ => Value::Null,
    };
    let line = json!({
        "bench": "startup",
        "machine": report::machine(),
        "rounds": options.rounds,
        "model": MODEL,
        "file": FILE,
        "first_step": seconds,
        "ratio": ratio,
    });
    println!("{line}");
    Ok(())
}

/// Starts a run in `folder`, waits for the record of its first step, and kills it.
fn first_step(command: &Cmd, folder: &Path) -> Result<Value> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    let mut command: Command = command.to_std();
    let begun = Instant::now();
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start tunesmith")?;
    let metrics = folder.join("metrics.jsonl");
    let seconds = loop {
        if std::fs::metadata(&metrics).is_ok_and(|metrics| metrics.len() > 0) {
            break begun.elapsed().as_secs_f64();
        }
        if let Some(status) = child.try_wait()? {
            bail!("tunesmith ended before its first step with {status}");
        }
        if begun.elapsed() > PATIENCE {
            child.kill()?;
            bail!("no first step after {} s", PATIENCE.as_secs());
        }
        thread::sleep(Duration::from_millis(5));
    };
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak = peak.and_then(|kib| kib.split_whitespace().next()?.parse::<u64>().ok());
    child.kill()?;
    child.wait()?;
    Ok(json!({"first_step": seconds, "peak_mib": peak.context("no VmHWM")? / 1024}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_record_counts_and_a_run_that_ends_before_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let run = folder.path().join("run");
        let script = "sleep 0.05; mkdir $0; echo {} > $0/metrics.jsonl; exec sleep 60";
        let command = Cmd::new("sh").args(["-c", script, &run.to_string_lossy()]);
        let figures = first_step(&command, &run).unwrap();
        let seconds = figures["first_step"].as_f64().unwrap();
        assert!((0.05..30.0).contains(&seconds), "{seconds}");
        let error = first_step(&Cmd::new("false"), &run).unwrap_err().to_string();
        assert_eq!(error, "tunesmith ended before its first step with exit status: 1");
    }
}
