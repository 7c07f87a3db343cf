//! `messages`: a list of `{role, content}`, as in ultrachat_200k and OpenAI's files; `conversations`: a list of
//! `{from, value}`, as in ShareGPT's.
//!
//! | in a message | becomes |
//! |---|---|
//! | `from`, `value` | role and content; ShareGPT's names of roles (`human`, `gpt`, `observation` …) are known |
//! | content as a list of parts of text | their text, one behind the other |
//! | `tool_calls` whose `arguments` are JSON in text | the same calls with the arguments as an object: templates print JSON of it |
//! | a turn of `function_call` | a turn of the assistant with that call |
//! | `loss_weight`, `weight`, `train`, `training` | what the turn counts: a number, or true and false |
//! | everything else | stays, and the template sees it |

use super::{Adapter, Columns, ROLES, Shape, object, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::{Map, Value, json};
use tunesmith_tokens::{Conversation, Message, Sample};

pub(super) const REQUIRED: &[&[&str]] = &[&["messages"]];
pub(super) const SHAREGPT: &[&[&str]] = &[&["conversations"]];
pub(super) const OPTIONAL: &[&str] = &["system", "tools", "chat_template_kwargs"];

/// What a message says about its own weight, in the order in which it is believed.
const WEIGHTS: [&str; 4] = ["loss_weight", "weight", "train", "training"];
/// The role of a turn that is a call of a function; the roles in a data set's TOML may name it.
pub(super) const FUNCTION_CALL: &str = "function_call";
/// ShareGPT's roles.
const SHAREGPT_ROLES: [(&str, &str); 14] = [
    ("human", "user"),
    ("user", "user"),
    ("gpt", "assistant"),
    ("chatgpt", "assistant"),
    ("bing", "assistant"),
    ("bard", "assistant"),
    ("model", "assistant"),
    ("assistant", "assistant"),
    ("system", "system"),
    ("observation", "tool"),
    ("tool", "tool"),
    ("tool_response", "tool"),
    ("function_response", "tool"),
    (FUNCTION_CALL, FUNCTION_CALL),
];

/// Messages, each with the weight that it names itself.
#[derive(Debug, Default)]
pub(super) struct Turns {
    pub(super) messages: Vec<Message>,
    pub(super) weights: Vec<Option<f32>>,
}

impl Turns {
    pub(super) fn push(&mut self, message: Message) {
        self.messages.push(message);
        self.weights.push(None);
    }

    pub(super) fn extend(&mut self, other: Self) {
        self.messages.extend(other.messages);
        self.weights.extend(other.weights);
    }

    /// The same turns, none of which is trained.
    pub(super) fn untrained(mut self) -> Self {
        self.weights.fill(Some(0.0));
        self
    }

    /// The conversation of these turns, with the row's tools and template variables.
    pub(super) fn conversation(self, columns: &mut Columns) -> Faulty<Conversation> {
        let named = self.weights.iter().any(Option::is_some);
        let weights = named.then(|| self.weights.iter().map(|w| w.unwrap_or(1.0)).collect());
        let mut conversation =
            Conversation { messages: self.messages, weights, ..Default::default() };
        if let Some(tools) = columns.optional("tools") {
            let tools = from_text(tools).map_err(|fault| (columns.pointer("tools"), fault))?;
            conversation.tools = as_tools(tools);
        }
        if let Some(kwargs) = columns.optional("chat_template_kwargs") {
            let at = |fault| (columns.pointer("chat_template_kwargs"), fault);
            let kwargs = from_text(kwargs).map_err(at)?;
            let kwargs = object(kwargs, "an object of template variables").map_err(at)?;
            conversation.template_kwargs =
                kwargs.into_iter().filter(|(_, value)| !value.is_null()).collect();
        }
        Ok(conversation)
    }
}

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let column =
        if columns.adapter.shape == Shape::ShareGpt { "conversations" } else { "messages" };
    let turns = turns_of(&mut columns, column)?;
    turns.conversation(&mut columns).map(Sample::Chat)
}

/// The turns in a column, behind the row's own system message.
pub(super) fn turns_of(columns: &mut Columns, column: &str) -> Faulty<Turns> {
    let list = columns.required(column)?;
    let mut turns = system(columns)?;
    turns.extend(messages(list, &columns.pointer(column), columns.adapter)?);
    Ok(turns)
}

/// The system message that a column of its own holds.
pub(super) fn system(columns: &mut Columns) -> Faulty<Turns> {
    let mut turns = Turns::default();
    let text = columns.optional_text("system")?;
    if !text.is_empty() {
        turns.push(Message::new("system", text));
    }
    Ok(turns)
}

/// Files of columns often carry lists and objects as JSON inside text, because each row has other fields.
fn from_text(value: Value) -> Result<Value, Fault> {
    let Value::String(text) = &value else { return Ok(value) };
    match text.as_str() {
        "" => Ok(Value::Null),
        text => serde_json::from_str(text)
            .map_err(|_| Fault::WrongType { expected: "JSON", found: describe(&value) }),
    }
}

/// Definitions of tools as templates expect them: each an object of type `function`.
fn as_tools(value: Value) -> Option<Value> {
    let whole = |tool: Value| match &tool {
        Value::Object(fields) if fields.contains_key("name") && !fields.contains_key("type") => {
            json!({"type": "function", "function": tool})
        }
        _ => tool,
    };
    match value {
        Value::Null => None,
        Value::Array(tools) if tools.is_empty() => None,
        Value::Array(tools) => Some(tools.into_iter().map(whole).collect()),
        other => Some(other),
    }
}

/// The messages in a list; `pointer` is the list's own.
pub(super) fn messages(list: Value, pointer: &str, adapter: &Adapter) -> Faulty<Turns> {
    let list = super::list(transposed(list), pointer, "a list of messages")?;
    if list.is_empty() {
        return Err((pointer.into(), Fault::EmptyMessages));
    }
    let n = list.len();
    let mut turns = Turns { messages: Vec::with_capacity(n), weights: Vec::with_capacity(n) };
    for (i, value) in list.into_iter().enumerate() {
        let (message, weight) = message(value, adapter)
            .map_err(|(inner, fault)| (format!("{pointer}/{i}{inner}"), fault))?;
        turns.messages.push(message);
        turns.weights.push(weight);
    }
    Ok(turns)
}

/// A struct of lists, one list per key, as the list of structs that it stands for: old parquet files of `datasets` have
/// it that way.
fn transposed(value: Value) -> Value {
    let Value::Object(fields) = &value else { return value };
    let columns: Option<Vec<(&String, &Vec<Value>)>> =
        fields.iter().map(|(name, column)| Some((name, column.as_array()?))).collect();
    let Some(columns) = columns else { return value };
    let n = columns.first().map_or(0, |(_, column)| column.len());
    if columns.is_empty() || columns.iter().any(|(_, column)| column.len() != n) {
        return value;
    }
    let row = |i: usize| {
        let fields = columns.iter().map(|(name, column)| ((*name).clone(), column[i].clone()));
        Value::Object(fields.collect())
    };
    (0..n).map(row).collect()
}

/// One message, with the weight that it names itself.
pub(super) fn message(value: Value, adapter: &Adapter) -> Faulty<(Message, Option<f32>)> {
    let mut fields = object(value, "an object with `role` and `content`")
        .map_err(|fault| (String::new(), fault))?;
    let key =
        |ours: &'static str, sharegpt: &'static str, fields: &Map<String, Value>| match adapter
            .keys
            .get(ours)
        {
            Some(key) => key.clone(),
            None if !fields.contains_key(ours) && fields.contains_key(sharegpt) => {
                sharegpt.to_owned()
            }
            None => ours.to_owned(),
        };
    let (role_key, content_key) = (key("role", "from", &fields), key("content", "value", &fields));
    let is_sharegpt = role_key != "role";
    let role = match fields.shift_remove(&role_key) {
        Some(role) => text_of(role).map_err(|fault| (format!("/{role_key}"), fault))?,
        None => return Err((String::new(), missing(&fields, &role_key))),
    };
    let known = SHAREGPT_ROLES.iter().find(|(name, _)| is_sharegpt && *name == role);
    let role = match (adapter.roles.get(&role), known) {
        (Some(known), _) => known.clone(),
        (None, Some((_, known))) => (*known).to_owned(),
        (None, None) if ROLES.contains(&role.as_str()) => role,
        (None, None) => return Err((format!("/{role_key}"), Fault::UnknownRole { role })),
    };
    let weight = weight(&mut fields)?;
    // A struct column has every field in every row; what is null there would be absent in JSON.
    fields.retain(|name, value| *name == content_key || !value.is_null());
    let calls = match fields.shift_remove("tool_calls") {
        Some(calls) => tool_calls(calls).map_err(|fault| ("/tool_calls".to_owned(), fault))?,
        None => Vec::new(),
    };
    let calls_tools = !calls.is_empty();
    if calls_tools {
        fields.insert("tool_calls".into(), Value::Array(calls));
    }
    let content = match fields.shift_remove(&content_key) {
        // OpenAI's files have null or nothing beside tool calls, and templates print nothing for it
        None | Some(Value::Null) if calls_tools => String::new(),
        None => return Err((String::new(), missing(&fields, &content_key))),
        Some(Value::Array(parts)) => joined(parts, &mut fields)
            .map_err(|(inner, fault)| (format!("/{content_key}{inner}"), fault))?,
        Some(content) => text_of(content).map_err(|fault| (format!("/{content_key}"), fault))?,
    };
    if role != FUNCTION_CALL {
        return Ok((Message { role, content, extra: fields }, weight));
    }
    let calls = from_text(Value::String(content)).and_then(tool_calls);
    let calls = calls.map_err(|fault| (format!("/{content_key}"), fault))?;
    fields.insert("tool_calls".into(), Value::Array(calls));
    Ok((Message { role: "assistant".into(), content: String::new(), extra: fields }, weight))
}

/// What a message says that it counts.
fn weight(fields: &mut Map<String, Value>) -> Faulty<Option<f32>> {
    for name in WEIGHTS {
        match fields.get(name) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let weight =
                    super::weight_of(value).map_err(|fault| (format!("/{name}"), fault))?;
                fields.shift_remove(name);
                return Ok(Some(weight));
            }
        }
    }
    Ok(None)
}

/// The text of content that comes in parts.
fn joined(parts: Vec<Value>, fields: &mut Map<String, Value>) -> Faulty<String> {
    let mut content = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let at = |inner: &str| format!("/{i}{inner}");
        let mut part = match part {
            Value::String(text) => {
                content += &text;
                continue;
            }
            part => object(part, "a part of text").map_err(|fault| (at(""), fault))?,
        };
        let kind = part.get("type").and_then(Value::as_str).unwrap_or("text").to_owned();
        let text = part.shift_remove("text").filter(|text| !text.is_null());
        let text = text.or_else(|| part.shift_remove("value")).unwrap_or(Value::Null);
        match kind.as_str() {
            "text" => content += &text_of(text).map_err(|fault| (at("/text"), fault))?,
            "reasoning" => {
                let text = text_of(text).map_err(|fault| (at("/value"), fault))?;
                fields.insert("reasoning_content".into(), Value::String(text));
            }
            "tool_call" => {
                let calls = from_text(text).and_then(tool_calls);
                let calls = calls.map_err(|fault| (at("/value"), fault))?;
                fields.insert("tool_calls".into(), Value::Array(calls));
            }
            _ => return Err((at("/type"), Fault::NotText { kind })),
        }
    }
    Ok(content)
}

/// Calls of functions: each `{"type": "function", "function": {"name", "arguments"}}` with the arguments as an object.
fn tool_calls(value: Value) -> Result<Vec<Value>, Fault> {
    let calls = match from_text(value)? {
        Value::Null => return Ok(Vec::new()),
        Value::Array(calls) => calls,
        Value::Object(call) => vec![Value::Object(call)],
        other => {
            return Err(Fault::WrongType {
                expected: "calls of functions, each with `name` and `arguments`",
                found: describe(&other),
            });
        }
    };
    calls.into_iter().map(tool_call).collect()
}

fn tool_call(call: Value) -> Result<Value, Fault> {
    let mut call = object(call, "a call of a function with `name` and `arguments`")?;
    if call.contains_key("name") && !call.contains_key("function") {
        call = Map::from_iter([
            ("type".to_owned(), Value::from("function")),
            ("function".to_owned(), Value::Object(call)),
        ]);
    }
    if let Some(arguments) = call.get_mut("function").and_then(|f| f.get_mut("arguments"))
        && let Value::String(text) = arguments
        && let Ok(parsed @ Value::Object(_)) = serde_json::from_str(text)
    {
        *arguments = parsed;
    }
    Ok(Value::Object(call))
}

fn missing(fields: &Map<String, Value>, key: &str) -> Fault {
    Fault::MissingKey { key: key.into(), found: fields.keys().cloned().collect() }
}
