//! Following text that spells special tokens through a chat template.
//!
//! A template copies, trims and quotes what it is given. To know which `<|im_end|>` in its output is its own, those in
//! the messages, tools and variables are put between two noncharacters before a second render, and these are taken out
//! again. Most conversations spell no special token, and are not touched.

use crate::{Conversation, Message, Tokenizer};
use serde_json::Value;
use std::ops::Range;

/// A conversation in which every special token that is spelled in its strings stands between two marks.
pub(crate) struct Marked {
    pub(crate) conversation: Conversation,
    open: char,
    close: char,
}

/// Marks the special tokens in the strings of `conversation`; `None` if there is none, or none that reaches `text`.
pub(crate) fn mark(
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    text: &str,
) -> Option<Marked> {
    let spells = |text: &str| tokenizer.spells_special(text);
    let any = conversation.messages.iter().any(|message| {
        spells(&message.role)
            || spells(&message.content)
            || message.extra.values().any(|value| any_string(value, &spells))
    });
    let rest = conversation.tools.iter().chain(conversation.template_kwargs.values());
    if !any && !rest.into_iter().any(|value| any_string(value, &spells)) {
        return None;
    }
    // Marks that occur in the text could not be told from its own characters.
    let mut free = ('\u{FDD0}'..='\u{FDEF}').filter(|&c| !text.contains(c));
    let (open, close) = (free.next()?, free.next()?);
    let mark = |text: &str| -> String {
        let mut marked = String::with_capacity(text.len() + 8);
        let mut copied = 0;
        for range in tokenizer.find_special(text, &[]) {
            marked.push_str(&text[copied..range.start]);
            marked.push(open);
            marked.push_str(&text[range.clone()]);
            marked.push(close);
            copied = range.end;
        }
        marked + &text[copied..]
    };
    let messages = conversation.messages.iter().map(|message| Message {
        role: mark(&message.role),
        content: mark(&message.content),
        extra: message
            .extra
            .iter()
            .map(|(key, value)| (key.clone(), map_strings(value, &mark)))
            .collect(),
    });
    let conversation = Conversation {
        messages: messages.collect(),
        tools: conversation.tools.as_ref().map(|tools| map_strings(tools, &mark)),
        template_kwargs: conversation
            .template_kwargs
            .iter()
            .map(|(key, value)| (key.clone(), map_strings(value, &mark)))
            .collect(),
        weights: None, // the text does not depend on them
    };
    Some(Marked { conversation, open, close })
}

impl Marked {
    /// `text` without the marks, and what stood between them.
    pub(crate) fn take_out(&self, text: &str) -> (String, Vec<Range<usize>>) {
        let mut plain = String::with_capacity(text.len());
        let mut ranges = Vec::new();
        let mut start = None;
        for c in text.chars() {
            if c == self.open {
                start = Some(plain.len());
            } else if c == self.close {
                ranges.extend(start.take().map(|start| start..plain.len()));
            } else {
                plain.push(c);
            }
        }
        (plain, ranges)
    }
}

fn any_string(value: &Value, test: &impl Fn(&str) -> bool) -> bool {
    match value {
        Value::String(text) => test(text),
        Value::Array(items) => items.iter().any(|item| any_string(item, test)),
        Value::Object(map) => map.values().any(|item| any_string(item, test)),
        _ => false,
    }
}

fn map_strings(value: &Value, map: &impl Fn(&str) -> String) -> Value {
    match value {
        Value::String(text) => Value::String(map(text)),
        Value::Array(items) => items.iter().map(|item| map_strings(item, map)).collect(),
        Value::Object(entries) => {
            entries.iter().map(|(key, item)| (key.clone(), map_strings(item, map))).collect()
        }
        other => other.clone(),
    }
}
