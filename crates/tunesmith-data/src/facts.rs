//! What one row is like: the facts that a check and the statistics are folded from.

use crate::{DataError, Dataset};
use tunesmith_tokens::{Conversation, Encoder, Example, Message, Sample};

/// Remarks about rows that can be trained, with what they mean.
pub(crate) const NOTES: [(&str, &str); 9] = [
    (
        "unanswered",
        "the last turn is not the assistant's: what stands behind the last answer is read and never trained",
    ),
    ("empty answer", "an answer is empty: only the token that ends it is trained"),
    ("nothing trained", "no token of the row is trained: it is dropped"),
    ("cut off", "the row is longer than the limit: its tokens beyond are cut off"),
    (
        "answer cut off",
        "the row is longer than the limit, and no trained token is left: it is dropped",
    ),
    ("too long", "the row is longer than the limit: it is dropped"),
    (
        "special text",
        "a message spells a special token of the model: it is read as the letters it consists of",
    ),
    ("NUL character", "a text holds a NUL character"),
    ("roles do not alternate", "two turns of the same role follow each other"),
];

/// What a row is like.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    /// Why it cannot be trained.
    pub(crate) error: Option<DataError>,
    /// Bit i: `NOTES[i]`.
    pub(crate) notes: u16,
    pub(crate) tokens: u32,
    pub(crate) trained: u32,
    pub(crate) truncated: u32,
    /// Tokens of the groups that are packed; what a group shares counts once.
    pub(crate) groups: Vec<u32>,
    pub(crate) turns: u32,
    pub(crate) label: Option<f32>,
    /// Names the content: equal rows have equal ones.
    pub(crate) hash: u64,
}

impl Facts {
    /// The facts of a row; without an encoder nothing of tokens.
    pub(crate) fn of(dataset: &Dataset, row: u64, encoder: Option<&Encoder>) -> Self {
        let sample = match dataset.sample(row) {
            Ok(sample) => sample,
            Err(error) => return Self { error: Some(error), ..Self::default() },
        };
        let mut facts = Self { hash: hash(&sample), ..Self::default() };
        facts.look(&sample, encoder);
        let Some(encoder) = encoder else { return facts };
        let mut examples = match dataset.encode(&sample, row, encoder) {
            Ok(examples) => examples,
            Err(error) => return Self { error: Some(error), ..facts },
        };
        let sum = |of: fn(&Example) -> usize| examples.iter().map(of).sum::<usize>() as u32;
        (facts.tokens, facts.trained) = (sum(Example::len), sum(Example::n_trained));
        facts.truncated = examples.iter().map(|example| example.truncated).sum();
        Example::share_prompts(&mut examples);
        let length = |group: &[Example]| group.iter().map(Example::n_own).sum::<usize>() as u32;
        facts.groups = Example::groups(&examples).map(length).collect();
        let is_prompt = matches!(sample, Sample::Prompt(_));
        match (examples.iter().all(Example::teaches), facts.truncated > 0) {
            _ if examples.is_empty() => facts.note("too long"),
            _ if is_prompt => {}
            (false, false) => facts.note("nothing trained"),
            (false, true) => facts.note("answer cut off"),
            (true, true) => facts.note("cut off"),
            (true, false) => {}
        }
        facts
    }

    fn note(&mut self, name: &str) {
        let place = NOTES.iter().position(|(note, _)| *note == name);
        self.notes |= place.map_or(0, |place| 1 << place);
    }

    fn look(&mut self, sample: &Sample, encoder: Option<&Encoder>) {
        match sample {
            Sample::Chat(conversation) => {
                self.look_at_turns(conversation, encoder);
                let last = conversation.messages.last();
                if last.is_some_and(|message| message.role != "assistant") {
                    self.note("unanswered");
                }
            }
            Sample::Prompt(conversation) => self.look_at_turns(conversation, encoder),
            Sample::PromptCompletion { prompt, completion } => {
                self.look_at_text(prompt, None);
                self.look_at_text(completion, None);
                if completion.trim().is_empty() {
                    self.note("empty answer");
                }
            }
            Sample::Text(text) => self.look_at_text(text, None),
            Sample::Classified { text, pair, label } => {
                self.look_at_text(text, None);
                pair.iter().for_each(|pair| self.look_at_text(pair, None));
                self.label = Some(*label);
            }
            Sample::Labelled(inner, label) => {
                self.look(inner, encoder);
                self.label = Some(*label);
            }
            Sample::Weighted(inner, _) => self.look(inner, encoder),
            Sample::Tied(members) => members.iter().for_each(|member| self.look(member, encoder)),
            Sample::Tokens { .. } => {}
        }
    }

    fn look_at_turns(&mut self, conversation: &Conversation, encoder: Option<&Encoder>) {
        let messages = &conversation.messages;
        self.turns = self.turns.max(messages.len() as u32);
        for message in messages {
            self.look_at_text(&message.content, encoder);
            let is_empty = message.role == "assistant" && message.content.trim().is_empty();
            if is_empty && !message.extra.contains_key("tool_calls") {
                self.note("empty answer");
            }
        }
        let alike = |pair: &[Message]| {
            pair[0].role == pair[1].role && ["user", "assistant"].contains(&pair[0].role.as_str())
        };
        if messages.windows(2).any(alike) {
            self.note("roles do not alternate");
        }
    }

    fn look_at_text(&mut self, text: &str, encoder: Option<&Encoder>) {
        if memchr::memchr(0, text.as_bytes()).is_some() {
            self.note("NUL character");
        }
        let tokenizer = encoder.and_then(|encoder| encoder.tokenizer());
        if tokenizer.is_some_and(|tokenizer| tokenizer.spells_special(text)) {
            self.note("special text");
        }
    }
}

/// A name for what a row holds.
pub(crate) fn hash(sample: &Sample) -> u64 {
    let mut hasher = blake3::Hasher::new();
    feed(sample, &mut hasher);
    let mut name = [0; 8];
    name.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(name)
}

fn feed(sample: &Sample, hasher: &mut blake3::Hasher) {
    let mut text = |text: &str| {
        hasher.update(&(text.len() as u64).to_le_bytes());
        hasher.update(text.as_bytes());
    };
    match sample {
        Sample::Chat(conversation) | Sample::Prompt(conversation) => {
            for message in &conversation.messages {
                text(&message.role);
                text(&message.content);
                if let Some(calls) = message.extra.get("tool_calls") {
                    text(&calls.to_string());
                }
            }
        }
        Sample::PromptCompletion { prompt, completion } => {
            text(prompt);
            text(completion);
        }
        Sample::Text(whole) => text(whole),
        Sample::Classified { text: first, pair, label } => {
            text(first);
            pair.iter().for_each(|pair| text(pair));
            hasher.update(&label.to_le_bytes());
        }
        Sample::Tokens { ids, trained } => {
            for (id, trained) in ids.iter().zip(trained) {
                hasher.update(&(2 * u64::from(*id) + u64::from(*trained)).to_le_bytes());
            }
        }
        Sample::Labelled(inner, label) => {
            feed(inner, hasher);
            hasher.update(&label.to_le_bytes());
        }
        Sample::Weighted(inner, _) => feed(inner, hasher),
        Sample::Tied(members) => members.iter().for_each(|member| feed(member, hasher)),
    }
}
