//! `cargo xtask bench growth`: tokens a second and peak memory of full bf16 fine-tuning as rows grow longer, one row a step.

use anyhow::Result;
use serde_json::json;

use super::rounds::{Side, alternate};
use super::{Options, report, train};

const MODEL: &str = "smollm2-135m-instruct";
const ROW_TOKENS: [usize; 4] = [256, 1024, 4096, 8192];
/// The first is not timed.
const STEPS: usize = 3;

/// Runs every length and prints the table.
///
/// # Errors
/// Something is missing, or a run fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let ours = train::ours()?;
    let model = options.part(MODEL)?.display().to_string();
    let (mut table, mut lengths) = (Vec::new(), Vec::new());
    for n_tokens in ROW_TOKENS {
        let rows = train::rows_of_ids(STEPS, n_tokens);
        let ids = train::temporary("growth.json", &serde_json::to_string(&rows)?)?;
        let ids = ids.display().to_string();
        let arguments = [&model, "bf16", "full", &ids, "1", &STEPS.to_string()].map(str::to_owned);
        let command = train::as_the_binary(ours.clone()).args(arguments);
        let runs = alternate(&[Side { name: "tunesmith", command }], options.rounds)?;
        for runs in &runs {
            let speed = runs.median("tokens")? / runs.median("seconds")?;
            let mib = runs.median("peak_mib")?;
            table.push(vec![n_tokens.to_string(), format!("{speed:.0}"), format!("{mib:.0}")]);
            lengths.push(json!({"row_tokens": n_tokens, "tokens_per_s": speed, "peak_mib": mib}));
        }
    }
    print!("{}", report::table(&["tokens a row", "tokens/s", "peak MiB"], &table));
    let line = json!({
        "bench": "growth",
        "machine": report::machine(),
        "rounds": options.rounds,
        "model": MODEL,
        "lengths": lengths,
    });
    println!("{line}");
    Ok(())
}
