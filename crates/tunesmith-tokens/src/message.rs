//! What people write and models answer: a message, a conversation, and the other shapes of text that become one example.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// One turn, as a chat template sees it: `role`, `content`, and whatever else the row carried (`name`, `tool_calls` …).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, or whatever else the template knows.
    pub role: String,
    /// The text. Templates see exactly this string.
    pub content: String,
    /// Further keys, passed to the template untouched.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Message {
    /// A message of `role` and `content` alone.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: Map::new() }
    }
}

/// A conversation and what else its template may ask for.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Conversation {
    /// The turns, oldest first.
    pub messages: Vec<Message>,
    /// Tool definitions (JSON schemas), given to the template as `tools`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tools: Option<Value>,
    /// Further template variables (`enable_thinking` …).
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub template_kwargs: Map<String, Value>,
}

/// One row of data, before tokens: what a row shape produces and an `Encoder` consumes.
#[derive(Debug, Clone, PartialEq)]
pub enum Sample {
    /// Turns, rendered by the model's chat template; assistant turns are trained.
    Chat(Conversation),
    /// Plain strings; the completion and a closing EOS are trained.
    PromptCompletion {
        /// Read, not trained.
        prompt: String,
        /// Trained.
        completion: String,
    },
    /// Plain text; everything and a closing EOS are trained.
    Text(String),
    /// Token ids taken verbatim, nothing added. `trained` has the length of `ids`.
    Tokens {
        /// The ids.
        ids: Vec<u32>,
        /// `trained[i]`: the model must learn to say `ids[i]`.
        trained: Vec<bool>,
    },
}
