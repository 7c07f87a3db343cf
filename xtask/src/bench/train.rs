//! `cargo xtask bench train`: SmolLM2-135M, whole and by LoRA, ours beside TRL's SFTTrainer (and PEFT), on the same
//! 512-token rows of ids with every token trained, 2 rows a step.
//!
//! One comparison per setting of the peer: fp32, bf16 autocast (against our bf16 with fp32 masters), pure bf16, and
//! fp32 with what a knowing user would tune. Both sides must see the same first loss.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::rounds::{Runs, Side, alternate};
use super::{Options, peer, report};
use crate::build;
use crate::command::{Cmd, in_root};

const MODEL: &str = "smollm2-135m-instruct";
const VOCABULARY: u64 = 49_152;
const ROWS: usize = 16;
const ROW_TOKENS: usize = 512;
const PER_STEP: usize = 2;
/// Steps of a round; the first is not timed.
const STEPS: usize = 4;

/// Short spins, for both sides: on a machine that does anything else, long ones cost either side a factor.
pub(super) const SPIN: (&str, &str) = ("GOMP_SPINCOUNT", "1000");
/// What the binary sets for itself beside: memory that stays.
const MALLOC: &str =
    "glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=8589934592";
/// And what a knowing user of the peer sets: huge pages, too.
const TUNED: &str = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:\
                     glibc.malloc.trim_threshold=8589934592";

/// One comparison.
struct Setting {
    name: &'static str,
    ours: &'static str,
    peer: &'static str,
    what: &'static str,
    tuning: &'static str,
}

const fn setting(name: &'static str, kinds: [&'static str; 2], how: [&'static str; 2]) -> Setting {
    Setting { name, ours: kinds[0], peer: kinds[1], what: how[0], tuning: how[1] }
}

const SETTINGS: [Setting; 8] = [
    setting("fp32", ["fp32", "fp32"], ["full", "default"]),
    setting("autocast", ["bf16", "autocast"], ["full", "default"]),
    setting("bf16", ["bf16", "bf16"], ["full", "default"]),
    setting("fp32-tuned", ["fp32", "fp32"], ["full", "tuned"]),
    setting("lora-fp32", ["fp32", "fp32"], ["lora", "default"]),
    setting("lora-bf16", ["bf16", "bf16"], ["lora", "default"]),
    setting("lora-fp32-tuned", ["fp32", "fp32"], ["lora", "tuned"]),
    setting("lora-bf16-tuned", ["bf16", "bf16"], ["lora", "tuned"]),
];

/// Runs the settings, or the one that `--only` names, and prints the comparison.
///
/// # Errors
/// Something is missing, a side fails, or the first losses differ by more than rounding.
pub(crate) fn run(options: &Options) -> Result<()> {
    let chosen: Vec<&Setting> = SETTINGS
        .iter()
        .filter(|setting| options.only.as_deref().is_none_or(|only| only == setting.name))
        .collect();
    if chosen.is_empty() {
        let names = SETTINGS.map(|setting| setting.name).join(", ");
        bail!("--only: expected one of {names}");
    }
    let ids = temporary("ids.json", &serde_json::to_string(&rows_of_ids(ROWS, ROW_TOKENS))?)?;
    compare(options, &chosen, &ids.display().to_string())
}

/// A file of this benchmark among the system's temporary ones; the system clears it.
pub(super) fn temporary(name: &str, text: &str) -> Result<PathBuf> {
    let path = std::env::temp_dir().join(format!("tunesmith-bench-{name}"));
    std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

/// With the settings that the binary gives itself.
pub(super) fn as_the_binary(command: Cmd) -> Cmd {
    command.env(SPIN.0, SPIN.1).env("GLIBC_TUNABLES", MALLOC)
}

fn compare(options: &Options, chosen: &[&Setting], ids: &str) -> Result<()> {
    let ours = ours()?;
    let model = options.part(MODEL)?.display().to_string();
    let counts = [PER_STEP.to_string(), STEPS.to_string()];
    let (mut table, mut settings) = (Vec::new(), Vec::new());
    for Setting { name, ours: kind, peer: peer_kind, what, tuning } in chosen {
        let arguments = [&model, *kind, *what, ids].map(str::to_owned);
        let command = as_the_binary(ours.clone()).args(arguments).args(counts.clone());
        let mut sides = vec![Side { name: "tunesmith", command }];
        if options.peer {
            let arguments = [&model, *peer_kind, *what, tuning, ids].map(str::to_owned);
            let command = peer::script("train.py")?.args(arguments).args(counts.clone());
            let mut command = command.env(SPIN.0, SPIN.1);
            if *tuning == "tuned" {
                command = command.env("GLIBC_TUNABLES", TUNED);
            }
            sides.push(Side { name: "trl", command });
        }
        let runs = alternate(&sides, options.rounds)?;
        for runs in &runs {
            table.push(row(name, runs)?);
        }
        settings.push(summary(name, &runs)?);
    }
    print!("{}", report::table(&HEADER, &table));
    let line = json!({
        "bench": "train",
        "machine": report::machine(),
        "rounds": options.rounds,
        "model": MODEL,
        "rows_per_step": PER_STEP,
        "row_tokens": ROW_TOKENS,
        "settings": settings,
    });
    println!("{line}");
    Ok(())
}

/// Builds the example that trains; it links libtorch.
///
/// # Errors
/// It does not build.
pub(super) fn ours() -> Result<Cmd> {
    let command = Cmd::cargo(
        "build --release --package tunesmith-train --example throughput --manifest-path",
    )
    .args([in_root("Cargo.toml")]);
    if !command.succeeds()? {
        bail!("`{}` failed; the compiler's own message is above", command.display());
    }
    let binary = build::binary()?;
    let folder = binary.parent().context("the release binary has no folder")?;
    Ok(Cmd::new(folder.join("examples/throughput")))
}

/// Rows of ids that look random, the same everywhere (SplitMix64, Steele et al. 2014).
pub(super) fn rows_of_ids(n: usize, n_tokens: usize) -> Vec<Vec<u64>> {
    let mut state = 0u64;
    let mut next = || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 31)) % VOCABULARY
    };
    (0..n).map(|_| (0..n_tokens).map(|_| next()).collect()).collect()
}

const HEADER: [&str; 8] =
    ["setting", "side", "tokens/s", "of peak", "CPU s/step", "peak MiB", "first step s", "loss"];

fn tokens_per_s(runs: &Runs) -> Result<f64> {
    Ok(runs.median("tokens")? / runs.median("seconds")?)
}

/// Useful work over what matrix products alone reach on this machine; of our side, which measures them.
fn share_of_peak(runs: &Runs) -> Result<Option<f64>> {
    if runs.figures.iter().any(|figures| figures["matmul_flop_per_s"].is_null()) {
        return Ok(None);
    }
    let useful = runs.median("flop_per_token")? * tokens_per_s(runs)?;
    Ok(Some(useful / runs.median("matmul_flop_per_s")?))
}

fn row(setting: &str, runs: &Runs) -> Result<Vec<String>> {
    Ok(vec![
        setting.to_owned(),
        runs.name.to_owned(),
        format!("{:.0}", tokens_per_s(runs)?),
        share_of_peak(runs)?.map_or_else(|| "-".into(), |share| format!("{:.0} %", 100.0 * share)),
        format!("{:.2}", runs.median("cpu_seconds")?),
        format!("{:.0}", runs.median("peak_mib")?),
        format!("{:.1}", runs.median("first_step")?),
        format!("{:.4}", runs.median("loss")?),
    ])
}

/// The figures of a setting, and the ratios of ours to the peer's.
///
/// # Errors
/// First losses further apart than bf16 rounds: the sides would not do the same.
fn summary(setting: &str, runs: &[Runs]) -> Result<Value> {
    let side = |runs: &Runs| -> Result<Value> {
        let share = share_of_peak(runs)?;
        Ok(json!({
            "share_of_matmul_peak": share,
            "name": runs.name,
            "tokens_per_s": tokens_per_s(runs)?,
            "cpu_seconds": runs.median("cpu_seconds")?,
            "peak_mib": runs.median("peak_mib")?,
            "first_step": runs.median("first_step")?,
        }))
    };
    let sides = runs.iter().map(side).collect::<Result<Vec<_>>>()?;
    let [ours, theirs] = runs else { return Ok(json!({"setting": setting, "sides": sides})) };
    let (loss, expected) = (ours.median("loss")?, theirs.median("loss")?);
    if (loss / expected - 1.0).abs() > 0.01 {
        bail!("{setting}: both sides should begin with the same loss, but {loss} and {expected}");
    }
    let ratio = |key: &str| -> Result<f64> { Ok(ours.median(key)? / theirs.median(key)?) };
    Ok(json!({
        "setting": setting,
        "sides": sides,
        "speed": 1.0 / ratio("seconds")?,
        "cpu": 1.0 / ratio("cpu_seconds")?,
        "memory": ratio("peak_mib")?,
        "first_step": ratio("first_step")?,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(name: &'static str, seconds: f64, loss: f64) -> Runs {
        let figures = json!({
            "seconds": seconds, "cpu_seconds": 2.0 * seconds, "tokens": 1024, "first_step": 3.0,
            "peak_mib": 3000, "loss": loss, "flop_per_token": 1e9, "matmul_flop_per_s": 1e12,
        });
        Runs { name, figures: vec![figures] }
    }

    #[test]
    fn sides_are_compared() {
        let both = [runs("ours", 2.0, 12.0), runs("theirs", 8.0, 12.01)];
        assert_eq!(row("fp32", &both[0]).unwrap()[2..5], ["512", "51 %", "4.00"]);
        assert_eq!(summary("fp32", &both).unwrap()["speed"], 4.0);
        let apart = [runs("ours", 2.0, 12.0), runs("theirs", 8.0, 11.0)];
        assert!(summary("fp32", &apart).is_err());
    }

    #[test]
    fn ids_are_within_the_vocabulary_and_all_rows_differ() {
        let rows = rows_of_ids(ROWS, ROW_TOKENS);
        assert!(rows.iter().flatten().all(|&id| id < VOCABULARY));
        assert_ne!(rows[0], rows[1]);
        assert_eq!((rows.len(), rows[0].len()), (ROWS, ROW_TOKENS));
    }
}
