//! `messages`: a list of `{role, content}`, as in ultrachat_200k and OpenAI's files.

use super::{Adapter, Columns, ROLES, text_of};
use crate::fault::{Fault, describe};
use crate::source::Faulty;
use serde_json::{Map, Value};
use tunesmith_tokens::{Conversation, Message, Sample};

pub(super) const REQUIRED: &[&str] = &["messages"];
pub(super) const OPTIONAL: &[&str] = &["tools", "chat_template_kwargs"];

pub(super) fn sample(mut columns: Columns) -> Faulty<Sample> {
    let list = columns.required("messages")?;
    let messages = messages(list, &columns.pointer("messages"), columns.adapter)?;
    conversation(messages, columns).map(Sample::Chat)
}

/// The conversation of `messages`, with the row's tools and template variables.
pub(super) fn conversation(messages: Vec<Message>, mut columns: Columns) -> Faulty<Conversation> {
    let mut conversation = Conversation { messages, ..Default::default() };
    if let Some(tools) = columns.optional("tools") {
        let tools = from_text(tools).map_err(|fault| (columns.pointer("tools"), fault))?;
        conversation.tools = Some(tools);
    }
    if let Some(kwargs) = columns.optional("chat_template_kwargs") {
        conversation.template_kwargs = match from_text(kwargs) {
            Ok(Value::Object(kwargs)) => {
                kwargs.into_iter().filter(|(_, value)| !value.is_null()).collect()
            }
            Ok(other) => {
                let fault = Fault::WrongType {
                    expected: "an object of template variables",
                    found: describe(&other),
                };
                return Err((columns.pointer("chat_template_kwargs"), fault));
            }
            Err(fault) => return Err((columns.pointer("chat_template_kwargs"), fault)),
        };
    }
    Ok(conversation)
}

/// Parquet files often carry tools as JSON inside a text column, because each tool has other fields.
fn from_text(value: Value) -> Result<Value, Fault> {
    let Value::String(text) = &value else { return Ok(value) };
    serde_json::from_str(text)
        .map_err(|_| Fault::WrongType { expected: "JSON", found: describe(&value) })
}

/// The messages in a list; `pointer` is the list's own.
pub(super) fn messages(list: Value, pointer: &str, adapter: &Adapter) -> Faulty<Vec<Message>> {
    let list = match list {
        Value::Array(list) if list.is_empty() => {
            return Err((pointer.into(), Fault::EmptyMessages));
        }
        Value::Array(list) => list,
        other => {
            let fault =
                Fault::WrongType { expected: "a list of messages", found: describe(&other) };
            return Err((pointer.into(), fault));
        }
    };
    let messages = list.into_iter().enumerate();
    messages
        .map(|(i, value)| {
            message(value, adapter)
                .map_err(|(inner, fault)| (format!("{pointer}/{i}{inner}"), fault))
        })
        .collect()
}

fn message(value: Value, adapter: &Adapter) -> Faulty<Message> {
    let Value::Object(mut fields) = value else {
        let fault = Fault::WrongType {
            expected: "an object with `role` and `content`",
            found: describe(&value),
        };
        return Err((String::new(), fault));
    };
    let role = field(&mut fields, "role")?;
    let role = text_of(role).map_err(|fault| ("/role".to_owned(), fault))?;
    let role = match adapter.roles.get(&role) {
        Some(known) => known.clone(),
        None if ROLES.contains(&role.as_str()) => role,
        None => return Err(("/role".into(), Fault::UnknownRole { role })),
    };
    // A struct column has every field in every row; what is null there would be absent in JSON.
    fields.retain(|name, value| name == "content" || !value.is_null());
    let calls_tools =
        fields.get("tool_calls").and_then(Value::as_array).is_some_and(|calls| !calls.is_empty());
    let content = match fields.shift_remove("content") {
        // OpenAI's files have null or nothing beside tool calls, and templates print nothing for it
        None | Some(Value::Null) if calls_tools => String::new(),
        None => return Err((String::new(), missing(&fields, "content"))),
        Some(content) => text_of(content).map_err(|fault| ("/content".to_owned(), fault))?,
    };
    Ok(Message { role, content, extra: fields })
}

fn field(fields: &mut Map<String, Value>, name: &'static str) -> Faulty<Value> {
    fields.shift_remove(name).ok_or_else(|| (String::new(), missing(fields, name)))
}

fn missing(fields: &Map<String, Value>, key: &'static str) -> Fault {
    Fault::MissingKey { key, found: fields.keys().cloned().collect() }
}
