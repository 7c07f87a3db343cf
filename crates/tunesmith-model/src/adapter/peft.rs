//! `adapter_config.json` in PEFT's words (version 0.21): written as small as is right, read with every key accounted for.

use super::{LoraConfig, LoraInit, Modules, Pattern, config::ALL_LINEAR};
use crate::ModelError;
use serde_json::{Map, Value, json};
use std::path::Path;

pub(super) const FILE: &str = "adapter_config.json";

/// Settings of PEFT that change what an adapter computes and that tunesmith does not have: they must be unset.
const NEUTRAL: &[&str] = &[
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "megatron_config",
    "monteclora_config",
    "target_parameters",
    "use_bdlora",
    "use_qalora",
    "velora_config",
];

/// What the file says beside the adapter's own settings.
pub(super) struct Card<'a> {
    pub(super) base_name: &'a str,
    pub(super) task_type: &'a str,
    pub(super) transposed: bool,
    /// `target_modules` as PEFT writes it after it has looked at the model.
    pub(super) targets: Value,
}

/// The text of the file: keys in order, two spaces, no newline at the end.
pub(super) fn write(config: &LoraConfig, card: &Card<'_>) -> String {
    let patterns = |patterns: &[Pattern], whole: bool| {
        let pair = |p: &Pattern| (p.pattern.clone(), number(p.value, whole));
        Value::Object(patterns.iter().map(pair).collect())
    };
    let list = |names: &[String]| if names.is_empty() { Value::Null } else { json!(names) };
    let mut keys = Map::new();
    let mut put = |key: &str, value: Value| _ = keys.insert(key.to_owned(), value);
    put("alpha_pattern", patterns(&config.alpha_pattern, false));
    put("base_model_name_or_path", card.base_name.into());
    put("bias", json!(config.bias));
    if !config.exclude_modules.is_empty() {
        put("exclude_modules", json!(config.exclude_modules));
    }
    put("fan_in_fan_out", card.transposed.into());
    put("inference_mode", true.into());
    put(
        "init_lora_weights",
        match config.init {
            LoraInit::Gaussian => "gaussian".into(),
            LoraInit::Kaiming | LoraInit::Pissa => true.into(),
        },
    );
    put("layers_pattern", list(&config.layers_pattern));
    put(
        "layers_to_transform",
        match &config.layers_to_transform[..] {
            [] => Value::Null,
            layers => json!(layers),
        },
    );
    put("lora_alpha", number(config.alpha, false));
    put("lora_dropout", config.dropout.into());
    put("modules_to_save", list(&config.modules_to_save));
    put("peft_type", "LORA".into());
    put("r", config.r.into());
    put("rank_pattern", patterns(&config.rank_pattern, true));
    put("target_modules", card.targets.clone());
    put("task_type", card.task_type.into());
    if !config.trainable_token_indices.is_empty() {
        put("trainable_token_indices", json!(config.trainable_token_indices));
    }
    if config.use_dora {
        put("use_dora", true.into());
    }
    put("use_rslora", config.use_rslora.into());
    format!("{:#}", Value::Object(keys))
}

/// A number without a fraction as Python writes an int.
fn number(x: f64, whole: bool) -> Value {
    if whole || x.fract() == 0.0 && x.abs() < 1e15 { json!(x as i64) } else { json!(x) }
}

/// Reads `adapter_config.json` of `dir`: the settings, and the base's name where it says one.
pub(super) fn read(dir: &Path) -> Result<(LoraConfig, Option<String>), ModelError> {
    let path = dir.join(FILE);
    let text = std::fs::read(&path).map_err(ModelError::io(&path))?;
    let place = || path.display().to_string();
    let bad = |reason: String| ModelError::BadAdapter { place: place(), reason };
    let raw: Map<String, Value> =
        serde_json::from_slice(&text).map_err(|e| bad(format!("not a JSON object: {e}")))?;
    let keys = Keys { raw: &raw, place: place() };
    if keys.get("peft_type").and_then(Value::as_str) != Some("LORA") {
        return Err(keys.bad("peft_type", "\"LORA\""));
    }
    for key in NEUTRAL {
        let unset = |v: &Value| {
            v == &json!(false) || v.as_array().is_some_and(Vec::is_empty) || v == &json!({})
        };
        if keys.get(key).is_some_and(|value| !unset(value)) {
            return Err(keys.bad(key, "nothing: tunesmith does not have it"));
        }
    }
    let default = LoraConfig::default();
    let config = LoraConfig {
        r: keys.number("r", 8.0)? as usize,
        alpha: keys.number("lora_alpha", 8.0)?,
        dropout: keys.number("lora_dropout", 0.0)?,
        target_modules: keys.modules("target_modules")?,
        exclude_modules: keys.modules("exclude_modules")?,
        rank_pattern: keys.patterns("rank_pattern")?,
        alpha_pattern: keys.patterns("alpha_pattern")?,
        layers_to_transform: match keys.get("layers_to_transform") {
            Some(Value::Number(layer)) => layer.as_i64().into_iter().collect(),
            _ => keys.parsed("layers_to_transform", "a list of block numbers")?.unwrap_or_default(),
        },
        layers_pattern: keys.names("layers_pattern")?,
        modules_to_save: keys.names("modules_to_save")?,
        trainable_token_indices: keys
            .parsed("trainable_token_indices", "a list of token ids, or such lists by module")?
            .unwrap_or_default(),
        bias: keys.parsed("bias", "none, all or lora_only")?.unwrap_or_default(),
        use_rslora: keys.parsed("use_rslora", "true or false")?.unwrap_or_default(),
        use_dora: keys.parsed("use_dora", "true or false")?.unwrap_or_default(),
        init: match keys.get("init_lora_weights") {
            Some(Value::String(init)) if init == "pissa" => LoraInit::Pissa,
            // Others that change the base while they are loaded.
            Some(Value::String(init))
                if ["pissa_niter", "olora", "corda", "loftq", "lora_ga"]
                    .iter()
                    .any(|name| init.starts_with(name)) =>
            {
                return Err(keys.bad("init_lora_weights", "an adapter converted to plain LoRA"));
            }
            _ => default.init,
        },
    };
    config.check().map_err(|error| match error {
        ModelError::BadAdapter { place: key, reason } => bad(format!("{key}: {reason}")),
        other => other,
    })?;
    Ok((config, keys.get("base_model_name_or_path").and_then(Value::as_str).map(str::to_owned)))
}

/// Typed access, with errors that name the key.
struct Keys<'a> {
    raw: &'a Map<String, Value>,
    place: String,
}

impl Keys<'_> {
    fn get(&self, key: &str) -> Option<&Value> {
        self.raw.get(key).filter(|value| !value.is_null())
    }

    fn bad(&self, key: &str, expected: &str) -> ModelError {
        let found = self.get(key).map_or("nothing".to_owned(), Value::to_string);
        let reason = format!("`{key}`: expected {expected}, found {found}");
        ModelError::BadAdapter { place: self.place.clone(), reason }
    }

    fn number(&self, key: &str, default: f64) -> Result<f64, ModelError> {
        match self.get(key) {
            None => Ok(default),
            Some(value) => value
                .as_f64()
                .filter(|x| *x >= 0.0)
                .ok_or_else(|| self.bad(key, "a number of at least 0")),
        }
    }

    fn parsed<T: serde::de::DeserializeOwned>(
        &self,
        key: &str,
        expected: &str,
    ) -> Result<Option<T>, ModelError> {
        let parse = |value: &Value| serde_json::from_value(value.clone());
        self.get(key).map(parse).transpose().map_err(|_| self.bad(key, expected))
    }

    /// A name or a list of them.
    fn names(&self, key: &str) -> Result<Vec<String>, ModelError> {
        match self.get(key) {
            Some(Value::String(name)) => Ok(vec![name.clone()]),
            _ => Ok(self.parsed(key, "a list of names")?.unwrap_or_default()),
        }
    }

    fn modules(&self, key: &str) -> Result<Modules, ModelError> {
        let none = Modules::Names(Vec::new());
        let modules = self.parsed(key, "names, or one regular expression")?.unwrap_or(none);
        match modules {
            Modules::Pattern(word) if word.eq_ignore_ascii_case(ALL_LINEAR) => {
                Ok(Modules::Pattern(ALL_LINEAR.into()))
            }
            modules => Ok(modules),
        }
    }

    fn patterns(&self, key: &str) -> Result<Vec<Pattern>, ModelError> {
        let given: Map<String, Value> =
            self.parsed(key, "an object of numbers")?.unwrap_or_default();
        let pair = |(pattern, value): (String, Value)| {
            value.as_f64().map(|value| Pattern { pattern, value })
        };
        let patterns: Option<Vec<Pattern>> = given.into_iter().map(pair).collect();
        patterns.ok_or_else(|| self.bad(key, "an object of numbers"))
    }
}
