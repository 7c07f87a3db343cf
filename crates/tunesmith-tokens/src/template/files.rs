//! Where a model directory keeps its chat template, and the special tokens that it may name.

use super::{Template, TemplateError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;

/// The names under which tokenizers keep their special tokens, and templates read them.
const TOKEN_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl Template {
    /// Reads the chat template of a model directory; `None` where it carries none.
    ///
    /// In order: `chat_template.jinja` (and `additional_chat_templates/tool_use.jinja`), `chat_template` in
    /// `tokenizer_config.json` (a string, or a list of names and templates), `chat_template.json`.
    ///
    /// # Errors
    /// A file that cannot be read or parsed, or a template that does not compile.
    pub fn from_dir(dir: impl AsRef<Path>) -> Result<Option<Self>, TemplateError> {
        let dir = dir.as_ref();
        let variables = special_tokens(dir)?;
        if let Some(source) = read(&dir.join("chat_template.jinja"))? {
            let template = Self::parse(&source, variables)?;
            let tool_use = read(&dir.join("additional_chat_templates").join("tool_use.jinja"))?;
            return tool_use.map_or(Ok(Some(template.clone())), |source| {
                template.with_tool_use(&source).map(Some)
            });
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            let path = dir.join(name);
            let found = read_json(&path)?
                .and_then(|mut json| json.get_mut("chat_template").map(Value::take));
            if let Some(value) = found.filter(|value| !value.is_null()) {
                return Self::from_value(&value, variables, &path).map(Some);
            }
        }
        Ok(None)
    }

    /// One of the templates that come with tunesmith, for base models that carry none: `chat` or `alpaca`.
    ///
    /// # Errors
    /// A name that is not built in.
    pub fn builtin<K: Into<String>, V: Into<String>>(
        name: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, TemplateError> {
        let source = match name {
            "chat" => include_str!("builtin/chat.jinja"),
            "alpaca" => include_str!("builtin/alpaca.jinja"),
            _ => return Err(TemplateError::UnknownBuiltin(name.to_owned())),
        };
        Self::parse(source, variables)
    }

    fn from_value(
        value: &Value,
        variables: BTreeMap<String, String>,
        path: &Path,
    ) -> Result<Self, TemplateError> {
        let bad = |reason: &str| TemplateError::BadFile {
            path: path.to_owned(),
            reason: reason.to_owned(),
        };
        if let Some(source) = value.as_str() {
            return Self::parse(source, variables);
        }
        let list =
            value.as_array().ok_or_else(|| bad("chat_template is neither a string nor a list"))?;
        let named = |name: &str| {
            let entry =
                list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name));
            entry.and_then(|entry| entry.get("template")).and_then(Value::as_str)
        };
        let default = named("default")
            .ok_or_else(|| bad("the list of chat templates has none called \"default\""))?;
        let template = Self::parse(default, variables)?;
        match named("tool_use") {
            Some(source) => template.with_tool_use(source),
            None => Ok(template),
        }
    }
}

/// The special tokens of a model directory by variable name: `tokenizer_config.json`, then what
/// `special_tokens_map.json` adds.
///
/// # Errors
/// A file that cannot be read or parsed.
pub fn special_tokens(dir: impl AsRef<Path>) -> Result<BTreeMap<String, String>, TemplateError> {
    let mut tokens = BTreeMap::new();
    for file in ["tokenizer_config.json", "special_tokens_map.json"] {
        let Some(json) = read_json(&dir.as_ref().join(file))? else { continue };
        for name in TOKEN_NAMES {
            let value = &json[name];
            if let Some(token) = value.as_str().or_else(|| value["content"].as_str()) {
                tokens.entry(name.to_owned()).or_insert_with(|| token.to_owned());
            }
        }
    }
    Ok(tokens)
}

/// The text of a file, or `None` where there is no such file.
fn read(path: &Path) -> Result<Option<String>, TemplateError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(TemplateError::Read { path: path.to_owned(), source }),
    }
}

/// The JSON of a file, or `None` where there is no such file.
pub(crate) fn read_json(path: &Path) -> Result<Option<Value>, TemplateError> {
    let Some(text) = read(path)? else { return Ok(None) };
    match serde_json::from_str(&text) {
        Ok(json) => Ok(Some(json)),
        Err(error) => Err(TemplateError::BadFile {
            path: path.to_owned(),
            reason: format!("not JSON: {error}"),
        }),
    }
}
