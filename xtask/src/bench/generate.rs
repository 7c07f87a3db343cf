//! `cargo xtask bench generate`: 128 greedy tokens of SmolLM2-135M, one prompt and 16 at once, ours beside transformers.

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::rounds::{Runs, Side, alternate};
use super::train::SPIN;
use super::{Options, peer, report, train};
use crate::build;
use crate::command::{Cmd, in_root};

const MODEL: &str = "smollm2-135m-instruct";
const PROMPT_TOKENS: usize = 32;
const NEW_TOKENS: usize = 128;
/// Answers of a round; their median counts.
const TIMES: usize = 3;

/// Name, dtype, prompts at once.
const SETTINGS: [(&str, &str, usize); 4] =
    [("fp32", "fp32", 1), ("bf16", "bf16", 1), ("fp32-16", "fp32", 16), ("bf16-16", "bf16", 16)];

/// Runs the settings, or the one that `--only` names, and prints the comparison.
///
/// # Errors
/// Something is missing, or a side fails.
pub(crate) fn run(options: &Options) -> Result<()> {
    let only = options.only.as_deref();
    let chosen: Vec<_> =
        SETTINGS.iter().filter(|setting| only.is_none_or(|only| only == setting.0)).collect();
    if chosen.is_empty() {
        bail!("--only: expected one of {}", SETTINGS.map(|setting| setting.0).join(", "));
    }
    let model = options.part(MODEL)?.display().to_string();
    let ours = ours()?;
    let (mut table, mut settings) = (Vec::new(), Vec::new());
    for &&(name, kind, n_prompts) in &chosen {
        let prompts = train::rows_of_ids(n_prompts, PROMPT_TOKENS);
        let file = train::temporary("prompts.json", &serde_json::to_string(&prompts)?)?;
        let arguments = [&model, kind, &file.display().to_string()].map(str::to_owned);
        let counts = [NEW_TOKENS.to_string(), TIMES.to_string()];
        let command = train::as_the_binary(ours.clone()).args(arguments.clone()).args(&counts);
        let mut sides = vec![Side { name: "tunesmith", command }];
        if options.peer {
            let command = peer::script("generate.py")?.args(arguments).args(&counts);
            let command = command.env(SPIN.0, SPIN.1);
            sides.push(Side { name: "transformers", command });
        }
        let runs = alternate(&sides, options.rounds)?;
        for runs in &runs {
            table.push(vec![
                name.to_owned(),
                runs.name.to_owned(),
                format!("{:.1}", tokens_per_s(runs)?),
            ]);
        }
        settings.push(summary(name, &runs)?);
    }
    print!("{}", report::table(&["setting", "side", "tokens/s"], &table));
    let line = json!({
        "bench": "generate",
        "machine": report::machine(),
        "rounds": options.rounds,
        "model": MODEL,
        "prompt_tokens": PROMPT_TOKENS,
        "new_tokens": NEW_TOKENS,
        "settings": settings,
    });
    println!("{line}");
    Ok(())
}

/// Builds the example that decodes; it links libtorch.
fn ours() -> Result<Cmd> {
    let command =
        Cmd::cargo("build --release --package tunesmith-sample --example decode --manifest-path")
            .args([in_root("Cargo.toml")]);
    if !command.succeeds()? {
        bail!("`{}` failed; the compiler's own message is above", command.display());
    }
    let binary = build::binary()?;
    let folder = binary.parent().context("the release binary has no folder")?;
    Ok(Cmd::new(folder.join("examples/decode")))
}

fn tokens_per_s(runs: &Runs) -> Result<f64> {
    Ok(runs.median("tokens")? / runs.median("seconds")?)
}

fn summary(setting: &str, runs: &[Runs]) -> Result<Value> {
    let speeds = runs.iter().map(tokens_per_s).collect::<Result<Vec<_>>>()?;
    let ratio = match speeds[..] {
        [ours, theirs] => json!(ours / theirs),
        _ => Value::Null,
    };
    Ok(json!({"setting": setting, "tokens_per_s": speeds, "ratio": ratio}))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_compared() {
        let runs = |name, seconds: f64| Runs {
            name,
            figures: vec![json!({"seconds": seconds, "tokens": 128})],
        };
        let both = [runs("ours", 2.0), runs("theirs", 5.0)];
        assert_eq!(summary("fp32", &both).unwrap()["ratio"], 2.5);
        assert_eq!(summary("fp32", &both[..1]).unwrap()["ratio"], Value::Null);
    }
}
