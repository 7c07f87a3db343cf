//! `{% generation %}` … `{% endgeneration %}`: which part of the output the model writes.
//!
//! The engine knows no custom tags, so `source` rewrites the pair before it compiles: it becomes a `{% call %}` block
//! of a function that puts two marker characters around what the block wrote, and the markers are taken out of the
//! finished text, leaving their places. A call block is what Jinja2's own extension makes of the tag, and it is a block
//! tag like the original, so `{%-`, `-%}`, trim_blocks and lstrip_blocks act on it in the same way.

use super::{Rendered, TemplateError};
use minijinja::value::Kwargs;
use minijinja::{Error, State, Value};
use std::collections::BTreeMap;

/// The function that the call blocks call.
pub(super) const FUNCTION: &str = "__generation__";

/// The template variable that holds the two marker characters.
pub(super) const MARKS: &str = "__generation_marks__";

/// What a rewritten tag calls: the block's own output between the marks.
pub(super) fn call(state: &mut State, kwargs: Kwargs) -> Result<Value, Error> {
    let body: Value = kwargs.get("caller")?;
    let body = body.call(state, &[])?;
    let marks = state.lookup(MARKS).unwrap_or_default();
    let mut marks = marks.as_str().unwrap_or_default().chars();
    let (open, close) = (marks.next(), marks.next());
    let parts = [open.map(String::from), Some(super::python::str(&body)), close.map(String::from)];
    Ok(Value::from(parts.into_iter().flatten().collect::<String>()))
}

/// Two characters that stand for the border of a block while the output is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct Marks {
    open: char,
    close: char,
}

impl Marks {
    /// The first two noncharacters that none of the values holds; Unicode keeps them for uses such as this one.
    pub(super) fn unused_in(
        context: &BTreeMap<String, Value>,
        messages: &[Value],
    ) -> Result<Self, TemplateError> {
        let mut used = Vec::new();
        for value in context.values().chain(messages) {
            noncharacters(value, &mut used);
        }
        let mut free = ('\u{FDD0}'..='\u{FDEF}').filter(|c| !used.contains(c));
        match (free.next(), free.next()) {
            (Some(open), Some(close)) => Ok(Self { open, close }),
            _ => Err(TemplateError::Limit(
                "the noncharacters U+FDD0 to U+FDEF, all in use by the conversation".into(),
            )),
        }
    }

    /// The value of [`MARKS`].
    pub(super) fn value(self) -> Value {
        Value::from([self.open, self.close].iter().collect::<String>())
    }

    /// Takes the marks out of `text`; nested blocks count as their outermost.
    pub(super) fn take_out(self, text: &str) -> Result<Rendered, TemplateError> {
        let mut rendered =
            Rendered { text: String::with_capacity(text.len()), generated: Vec::new() };
        let (mut depth, mut start) = (0_u32, 0);
        for c in text.chars() {
            if c == self.open {
                if depth == 0 {
                    start = rendered.text.len();
                }
                depth += 1;
            } else if c == self.close && depth > 0 {
                depth -= 1;
                if depth == 0 {
                    rendered.generated.push(start..rendered.text.len());
                }
            } else {
                rendered.text.push(c);
            }
        }
        if depth != 0 {
            let detail = "the template cut a {% generation %} block apart".to_owned();
            return Err(TemplateError::Render { line: 0, detail });
        }
        Ok(rendered)
    }
}

/// Collects the noncharacters in the strings of `value`.
fn noncharacters(value: &Value, found: &mut Vec<char>) {
    if let Some(text) = value.as_str() {
        // Every one of them begins with these two bytes in UTF-8.
        if text.as_bytes().windows(2).any(|pair| pair == [0xEF, 0xB7]) {
            found.extend(text.chars().filter(|c| ('\u{FDD0}'..='\u{FDEF}').contains(c)));
        }
    } else if let Some(pairs) = value.as_object().and_then(|object| object.try_iter_pairs()) {
        for (key, value) in pairs {
            noncharacters(&key, found);
            noncharacters(&value, found);
        }
    }
}
