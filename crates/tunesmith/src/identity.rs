//! What a checkpoint was made with: it must not change under a run that goes on, unless a person says so by name.

use crate::{
    exit::{Exit, Failure},
    locate,
    prepare::Prepared,
};
use anyhow::Result;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Values of the recipe that may change freely: how long, how often, what is shown, and where things lie.
const FREE: [&str; 21] = [
    "source",
    "model.device",
    "model.recompute",
    "model.memory_gb",
    "data.dataset",
    "data.eval_rows",
    "data.prepared",
    "train.max_steps",
    "train.epochs",
    "train.save_every",
    "train.save_in_background",
    "train.eval_every",
    "train.keep",
    "train.keep_every",
    "train.keep_best",
    "train.patience",
    "train.on_spike",
    "samples.prompts",
    "samples.count",
    "samples.max_new_tokens",
    "data.clock",
];
/// Characters of a long value that are shown.
const SHOWN: usize = 12;

/// Every other value of the recipe by its dotted key, fingerprints of data, tokenizer and base model, and the template.
pub(crate) fn identity(prepared: &Prepared) -> Result<Value> {
    let mut values = Map::new();
    flatten("", &serde_json::to_value(&prepared.recipe)?, &mut values);
    values.retain(|key, _| !FREE.contains(&key.as_str()));
    let model = &prepared.model_dir;
    let tokenizer =
        files(model, |name| ["tokenizer.json", "tokenizer_config.json"].contains(&name));
    let template = prepared.encoder.template();
    let template = template.map(|template| template.source().to_owned());
    let base = match prepared.recipe.model.from_scratch {
        true => files(model, |name| name == "config.json"),
        false => files(model, |name| {
            name == "config.json" || name.ends_with(".safetensors") || name.ends_with(".gguf")
        }),
    };
    let adapter = &prepared.recipe.adapter.from;
    let adapter = match adapter.is_empty() {
        true => None,
        false => Some(adapter_print(adapter)?),
    };
    let prints = [
        ("dataset", Some(prepared.dataset.identity()?)),
        ("tokenizer", Some(tunesmith_data::fingerprint(&tokenizer)?)),
        ("template", template),
        ("base", Some(tunesmith_data::fingerprint(&base)?)),
        ("adapter.weights", adapter),
    ];
    values.extend(
        prints.into_iter().filter_map(|(key, print)| Some((key.to_owned(), print?.into()))),
    );
    values.insert("data.clock".into(), prepared.recipe.data.clock.into());
    Ok(values.into())
}

/// The fingerprint of the adapter that a run starts from: another one may lie under its name tomorrow.
pub(crate) fn adapter_print(name: &str) -> Result<String> {
    let dir = locate::adapter(Path::new(name));
    let is_its = |name: &str| name == "adapter_config.json" || name.ends_with(".safetensors");
    Ok(tunesmith_data::fingerprint(&files(&dir, is_its))?)
}

/// Refuses to go on with other settings than those of the checkpoint, but for those `allowed` by name, such as
/// `schedule.lr`, or `schedule` for all of them.
pub(crate) fn refuse_changes(
    saved: &Value,
    now: &Value,
    allowed: &[String],
    dir: &Path,
) -> Result<()> {
    let mut changed = Vec::new();
    for (key, is) in now.as_object().into_iter().flatten() {
        // What an older tunesmith did not note cannot be compared.
        let Some(was) = saved.get(key).or(earlier(key, now)).filter(|was| *was != is) else {
            continue;
        };
        let is_allowed = |name: &String| {
            key == name || key.strip_prefix(name.as_str()).is_some_and(|rest| rest.starts_with('.'))
        };
        let line = format!("  {key}: was {}, is {}", shown(was), shown(is));
        match allowed.iter().any(is_allowed) {
            true => tracing::warn!("changed, as allowed:{line}"),
            false => changed.push((key.as_str(), line)),
        }
    }
    if changed.is_empty() {
        return Ok(());
    }
    let (keys, lines): (Vec<_>, Vec<_>) = changed.into_iter().unzip();
    let text = format!(
        "{}: the checkpoint was made with other settings\n{}\n\
         help: give the old settings, choose a new run directory with --out, or allow the changes by name: --allow-change {}",
        dir.display(),
        lines.join("\n"),
        keys.join(",")
    );
    Err(Failure(Exit::BadConfig, text).into())
}

/// What a run did before there was a key for it.
fn earlier(key: &str, now: &Value) -> Option<&'static Value> {
    let in_pairs = ["preference", "reward"].map(Value::from).contains(&now["objective.kind"]);
    (key == "data.share_prompt" && in_pairs).then_some(&Value::Bool(false))
}

fn shown(value: &Value) -> String {
    match value {
        // A hash, or a template.
        Value::String(text) if text.len() >= 64 => {
            format!("{}…", text.chars().take(SHOWN).collect::<String>().escape_debug())
        }
        other => other.to_string(),
    }
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(&wanted))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

fn flatten(prefix: &str, value: &Value, leaves: &mut Map<String, Value>) {
    let Value::Object(object) = value else {
        leaves.insert(prefix.to_owned(), value.clone());
        return;
    };
    for (key, value) in object {
        let key = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        flatten(&key, value, leaves);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_shown_and_allowed_by_name() {
        let hash = |digit: &str| digit.repeat(64);
        let saved = json!({"data.batch": 2, "schedule.lr": 0.003, "dataset": hash("a"), "gone": 1});
        let now = json!({"data.batch": 3, "schedule.lr": 0.001, "dataset": hash("b"), "new": 1});
        let check = |allowed: &[&str]| {
            let allowed: Vec<String> = allowed.iter().map(|&name| name.to_owned()).collect();
            refuse_changes(&saved, &now, &allowed, Path::new("x")).map_err(|e| e.to_string())
        };
        let text = check(&[]).unwrap_err();
        for said in [
            "  data.batch: was 2, is 3\n",
            "  schedule.lr: was 0.003, is 0.001\n",
            "  dataset: was aaaaaaaaaaaa…, is bbbbbbbbbbbb…\n",
            "--allow-change data.batch,schedule.lr,dataset",
        ] {
            assert!(text.contains(said), "{said:?} is missing in: {text}");
        }
        assert!(check(&["data", "dataset"]).unwrap_err().ends_with("--allow-change schedule.lr"));
        assert_eq!(check(&["data.batch", "schedule", "dataset"]), Ok(()));
    }

    /// Prompts were repeated before they could be shared, which packs pairs in another way.
    #[test]
    fn what_runs_did_before_there_was_a_key_is_known() {
        let check = |objective: &str, shares: bool| {
            let saved = json!({"objective.kind": objective});
            let now = json!({"objective.kind": objective, "data.share_prompt": shares});
            refuse_changes(&saved, &now, &[], Path::new("x")).map_err(|e| e.to_string())
        };
        assert!(check("preference", true).unwrap_err().contains("data.share_prompt: was false"));
        assert_eq!(check("preference", false), Ok(()));
        assert_eq!(check("sft", true), Ok(()));
    }

    #[test]
    fn the_same_settings_are_no_change() {
        let saved = json!({"data.batch": 2});
        assert_eq!(
            refuse_changes(&saved, &saved, &[], Path::new("x")).map_err(|e| e.to_string()),
            Ok(())
        );
    }
}
