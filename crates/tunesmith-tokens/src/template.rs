//! Chat templates: Jinja in the dialect that Hugging Face's libraries give it, rendered exactly as they render it.
//!
//! # Why
//! A model was trained on one exact string per conversation. A space too many in the prompt is a distribution shift that
//! no test of shapes finds, so the same render serves training, sampling and serving, and the text equals that of
//! Jinja2 under transformers' settings, character by character.

mod bounds;
mod clock;
mod environment;
mod files;
pub(crate) use files::read_json;
pub use files::special_tokens;
mod generation;
mod json;
mod methods;
mod python;
mod source;

use crate::{Conversation, Message};
use minijinja::value::Serde;
use minijinja::{Environment, Value};
use serde_json::Map;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::PathBuf;

/// The most text that one render may write, in bytes.
pub const MAX_OUTPUT: usize = 64 << 20;

/// Instructions that one render may execute; a conversation of a thousand turns takes about a million.
const FUEL: u64 = 50_000_000;

/// The names under which the compiled sources live in the environment.
const DEFAULT: &str = "chat_template";
const TOOL_USE: &str = "tool_use";

/// What reading or rendering a template can fail with.
#[derive(Debug, thiserror::Error)]
pub enum TemplateError {
    /// The source is not valid Jinja, or uses something that is not supported.
    #[error("chat template does not compile: line {line}: {detail}")]
    Syntax {
        /// Line of the source, counted from 1.
        line: usize,
        /// What the compiler says.
        detail: String,
    },
    /// The template itself refused the conversation, through `raise_exception`.
    #[error("the chat template refuses this conversation: {0}")]
    Raised(String),
    /// Rendering failed: something undefined was used, or a type did not fit.
    #[error("chat template failed while rendering: line {line}: {detail}")]
    Render {
        /// Line of the source, counted from 1; 0 where none is known.
        line: usize,
        /// What went wrong.
        detail: String,
    },
    /// The output or the work grew past a limit: a hostile or broken template.
    #[error("chat template was stopped while rendering: it went past {0}")]
    Limit(String),
    /// A file that should hold a template could not be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file was read, and holds something else than expected.
    #[error("{path}: {reason}", path = path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// No template of this name is built in.
    #[error(
        "no built-in chat template is called {0:?}\nhelp: the built-in ones are \"chat\" and \"alpaca\""
    )]
    UnknownBuiltin(String),
}

/// A rendered conversation.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rendered {
    /// The text.
    pub text: String,
    /// What stood inside `{% generation %}` blocks, as byte ranges of `text`, in order.
    pub generated: Vec<Range<usize>>,
}

/// A compiled chat template with the variables that a tokenizer gives it.
#[derive(Debug, Clone)]
pub struct Template {
    env: Environment<'static>,
    source: String,
    has_tool_use: bool,
    has_generation: bool,
    variables: BTreeMap<String, String>,
}

/// A conversation as template values: what renders of its prefixes and variants share.
pub(crate) struct Scene {
    /// One value per message.
    pub(crate) messages: Vec<Value>,
    context: BTreeMap<String, Value>,
    has_tools: bool,
    /// The length of all contents: about that of the text.
    n_bytes: usize,
}

impl Template {
    /// Compiles `source`. `variables` are the special tokens by their names (`bos_token`, `eos_token`, …).
    ///
    /// # Errors
    /// A source that does not compile.
    pub fn parse<K: Into<String>, V: Into<String>>(
        source: &str,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, TemplateError> {
        let mut env = environment::new();
        let (rewritten, has_generation) = source::rewrite(source);
        env.add_template_owned(DEFAULT, rewritten).map_err(syntax_error)?;
        let variables =
            variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Ok(Self { env, source: source.to_owned(), has_tool_use: false, has_generation, variables })
    }

    /// Compiles a second source that is used instead whenever a conversation carries tools.
    ///
    /// # Errors
    /// A source that does not compile.
    pub fn with_tool_use(mut self, source: &str) -> Result<Self, TemplateError> {
        let (rewritten, has_generation) = source::rewrite(source);
        self.env.add_template_owned(TOOL_USE, rewritten).map_err(syntax_error)?;
        self.has_tool_use = true;
        self.has_generation |= has_generation;
        Ok(self)
    }

    /// Fixes what `strftime_now` tells, as seconds since 1970 in UTC; otherwise it is the time of [`parse`](Self::parse).
    #[must_use]
    pub fn at(mut self, unix_seconds: i64) -> Self {
        environment::set_clock(&mut self.env, unix_seconds);
        self
    }

    /// The source as it was read.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether it asks for the date, so that its text depends on the day ([`at`](Self::at)).
    pub fn tells_date(&self) -> bool {
        self.source.contains("strftime_now")
    }

    /// Whether the source marks what the model writes by `{% generation %}` blocks.
    pub fn has_generation(&self) -> bool {
        self.has_generation
    }

    /// The special tokens that the template can name, by variable name.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// The text of a conversation; with `add_generation_prompt`, ready for the model to answer.
    ///
    /// # Errors
    /// The template refuses the conversation, or fails on it.
    pub fn render(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<String, TemplateError> {
        Ok(self.render_marked(conversation, add_generation_prompt)?.text)
    }

    /// As [`render`](Self::render), with the places of the `{% generation %}` blocks.
    ///
    /// # Errors
    /// The template refuses the conversation, or fails on it.
    pub fn render_marked(
        &self,
        conversation: &Conversation,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let scene = self.scene(conversation);
        self.render_scene(&scene, scene.messages.clone(), add_generation_prompt)
    }

    /// Prepares a conversation for one or more renders.
    pub(crate) fn scene(&self, conversation: &Conversation) -> Scene {
        let tools = conversation.tools.as_ref().filter(|tools| !tools.is_null());
        let mut context: BTreeMap<String, Value> = BTreeMap::new();
        context.insert(
            "tools".into(),
            tools.map_or_else(|| Value::from(()), |tools| Value::from(Serde(tools))),
        );
        context.insert("documents".into(), Value::from(()));
        for (name, token) in &self.variables {
            context.insert(name.clone(), Value::from(token.as_str()));
        }
        for (name, value) in &conversation.template_kwargs {
            context.insert(name.clone(), Value::from(Serde(value)));
        }
        let messages = conversation.messages.iter().map(message_value).collect();
        let n_bytes = conversation.messages.iter().map(|message| message.content.len()).sum();
        Scene { messages, context, has_tools: tools.is_some(), n_bytes }
    }

    /// Renders `messages` in the surroundings of `scene`.
    pub(crate) fn render_scene(
        &self,
        scene: &Scene,
        messages: Vec<Value>,
        add_generation_prompt: bool,
    ) -> Result<Rendered, TemplateError> {
        let marks = if self.has_generation {
            Some(generation::Marks::unused_in(&scene.context, &messages)?)
        } else {
            None
        };
        let mut context = scene.context.clone();
        context.insert("messages".into(), Value::from(messages));
        context.insert("add_generation_prompt".into(), Value::from(add_generation_prompt));
        if let Some(marks) = marks {
            context.insert(generation::MARKS.into(), marks.value());
        }
        let name = if scene.has_tools && self.has_tool_use { TOOL_USE } else { DEFAULT };
        let template = self.env.get_template(name).map_err(syntax_error)?;
        let mut output = Limited(Vec::with_capacity(scene.n_bytes + scene.n_bytes / 8 + 256));
        environment::begin();
        template
            .render_captured_to(Value::from_pairs(context), &mut output)
            .map_err(render_error)?;
        let text = String::from_utf8(output.0)
            .map_err(|error| TemplateError::Render { line: 0, detail: error.to_string() })?;
        match marks {
            Some(marks) => marks.take_out(&text),
            None => Ok(Rendered { text, generated: Vec::new() }),
        }
    }
}

/// A message as templates see it: `role`, `content`, then the further keys; keys without a value are left out, and the
/// names under which models keep their reasoning stand for each other, both as in transformers.
pub(crate) fn message_value(message: &Message) -> Value {
    let mut map = Map::new();
    map.insert("role".into(), message.role.as_str().into());
    map.insert("content".into(), message.content.as_str().into());
    for (key, value) in message.extra.iter().filter(|(_, value)| !value.is_null()) {
        map.insert(key.clone(), value.clone());
    }
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|key| map.get(*key))
        .cloned();
    if let Some(reasoning) = reasoning {
        map.entry("thinking").or_insert_with(|| reasoning.clone());
        map.insert("reasoning_content".into(), reasoning);
    }
    Value::from(Serde(&map))
}

fn syntax_error(error: minijinja::Error) -> TemplateError {
    TemplateError::Syntax {
        line: error.line().unwrap_or(0),
        detail: error.detail().map_or_else(|| error.to_string(), str::to_owned),
    }
}

fn render_error(error: minijinja::Error) -> TemplateError {
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    while let Some(cause) = source {
        if let Some(raised) = cause.downcast_ref::<environment::Raised>() {
            return TemplateError::Raised(raised.0.clone());
        }
        if cause
            .downcast_ref::<io::Error>()
            .is_some_and(|error| error.kind() == io::ErrorKind::FileTooLarge)
        {
            return TemplateError::Limit(format!("{MAX_OUTPUT} bytes of text"));
        }
        source = cause.source();
    }
    if error.kind() == minijinja::ErrorKind::OutOfFuel {
        return TemplateError::Limit(format!("{FUEL} steps"));
    }
    TemplateError::Render { line: error.line().unwrap_or(0), detail: error.to_string() }
}

/// Output up to [`MAX_OUTPUT`] bytes.
struct Limited(Vec<u8>);

impl io::Write for Limited {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_OUTPUT {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
