//! What people write and models answer: a message, a conversation, and the other shapes of text that become examples.

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
    /// One weight per message: 0 is read and not trained, 1 is trained as usual; only turns of the assistant count.
    /// A conversation that says so itself is taken at its word, whatever [`TrainOn`](crate::TrainOn) asks for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<Vec<f32>>,
}

/// One row of data, before tokens: what a row shape produces and an `Encoder` consumes.
///
/// Some rows are made of others: a preference is two tied conversations, the chosen one first; a step of a solution is
/// the solution up to it with a label.
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
    /// A text, or two, to be classified as a whole: what the post-processor makes of it, no EOS, no trained token.
    Classified {
        /// The text.
        text: String,
        /// The second text of a pair.
        pair: Option<String>,
        /// Index of the class, or a score.
        label: f32,
    },
    /// A question alone: a conversation up to the turn that is asked for, with the generation prompt. Nothing is trained.
    Prompt(Conversation),
    /// A sample with a label of its own: wanted (1) or not (0), or a score.
    Labelled(Box<Sample>, f32),
    /// A sample whose trained tokens count `weight` times.
    Weighted(Box<Sample>, f32),
    /// Samples that belong together and stay in one batch, such as the chosen and the rejected answer of a preference.
    Tied(Vec<Sample>),
}
