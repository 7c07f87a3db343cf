//! What a template writes around the contents of a conversation, learned once for each sequence of roles.
//!
//! # Why
//! `mask` finds the trained spans of a conversation by three or four further renders per answer. Conversations of the
//! same roles are laid out alike, though: the same text stands between their contents, and each span begins and ends as
//! many bytes beside its content. A render in which marker words stand for the contents shows that text (an outline). A
//! conversation whose own render is exactly the outline with its contents put in has its spans from the outline; any
//! other has them from `mask`, as have the first conversations of each sequence, which must agree before an outline is
//! believed. Encoding chats became four times as fast by it.
//!
//! ```text
//! outline   <|im_start|>user\n ‥ <|im_end|>\n<|im_start|>assistant\n ‥ <|im_end|>\n
//! spans                                                              0‾‾‾‾‾‾‾‾‾‾10
//! ```

use crate::mask::Turn;
use crate::template::{Scene, message_value};
use crate::{Conversation, Message, Template, Tokenizer};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{PoisonError, RwLock};

/// Conversations that must have the same outline and spans before it is believed.
const AGREEING: u32 = 2;
/// Conversations that may have another one before the search ends for their roles.
const DIFFERING: u32 = 8;
/// The most sequences of roles that are remembered.
const MOST: usize = 4096;

/// The outlines of one template with one tokenizer.
#[derive(Debug, Default)]
pub(crate) struct Outlines(RwLock<HashMap<String, Known>>);

/// What is known of a sequence of roles.
#[derive(Debug, Clone, Default)]
struct Known {
    outline: Option<Outline>,
    n_agreed: u32,
    n_differed: u32,
}

/// The text around the contents of a conversation, and where its trained spans are.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Outline {
    /// The text before each content, and that behind the last one.
    gaps: Vec<String>,
    /// Whether contents are written without the white space at their ends.
    trims: bool,
    spans: Vec<Beside>,
}

/// A trained span: it begins `before` bytes before the content of message `index` and ends `behind` bytes behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Beside {
    index: usize,
    before: usize,
    behind: usize,
}

impl Outlines {
    /// The turns of `conversation`, whose render is `full`: by its outline, or by `search`, which says them for sure.
    pub(crate) fn turns(
        &self,
        template: &Template,
        tokenizer: &Tokenizer,
        conversation: &Conversation,
        full: &str,
        search: impl FnOnce() -> Vec<Turn>,
    ) -> Vec<Turn> {
        let Some(key) = key(tokenizer, conversation) else { return search() };
        let read = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let known = read.get(&key);
        if let Some(Known { outline: Some(outline), n_agreed: AGREEING.., .. }) = known
            && let Some(contents) = outline.contents(conversation, full)
        {
            return outline.turns(&contents);
        }
        let ended = known.is_some_and(|known| known.n_differed >= DIFFERING)
            || (known.is_none() && read.len() >= MOST);
        drop(read);
        let turns = search();
        if !ended {
            let found = Outline::learn(template, conversation, full, &turns);
            let mut write = self.0.write().unwrap_or_else(PoisonError::into_inner);
            write.entry(key).or_default().add(found);
        }
        turns
    }
}

impl Known {
    fn add(&mut self, found: Option<Outline>) {
        match found {
            Some(found) if self.outline.as_ref().is_none_or(|outline| *outline == found) => {
                self.outline = Some(found);
                self.n_agreed += 1;
            }
            _ => {
                (self.outline, self.n_agreed) = (None, 0);
                self.n_differed += 1;
            }
        }
    }
}

impl Outline {
    /// The outline of a conversation whose render and turns are known; none where its contents do not stand in it as
    /// they are, or a turn was not found.
    fn learn(
        template: &Template,
        conversation: &Conversation,
        full: &str,
        turns: &[Turn],
    ) -> Option<Self> {
        let scene = template.scene(conversation);
        [false, true].into_iter().find_map(|trims| {
            let gaps = gaps(template, &scene, conversation, trims)?;
            let mut outline = Self { gaps, trims, spans: Vec::new() };
            let contents = outline.contents(conversation, full)?;
            for turn in turns {
                let (span, content) = (turn.span.as_ref()?, &contents[turn.index]);
                outline.spans.push(Beside {
                    index: turn.index,
                    before: content.start.checked_sub(span.start)?,
                    behind: span.end.checked_sub(content.end)?,
                });
            }
            Some(outline)
        })
    }

    /// Where the contents stand in `full`, if it is the outline around them and nothing else.
    fn contents(&self, conversation: &Conversation, full: &str) -> Option<Vec<Range<usize>>> {
        let (last, gaps) = self.gaps.split_last()?;
        let mut at = 0;
        let mut contents = Vec::with_capacity(gaps.len());
        for (gap, message) in gaps.iter().zip(&conversation.messages) {
            let content =
                if self.trims { message.content.trim() } else { message.content.as_str() };
            let rest = full.get(at..)?.strip_prefix(gap.as_str())?;
            if !rest.starts_with(content) {
                return None;
            }
            let start = at + gap.len();
            at = start + content.len();
            contents.push(start..at);
        }
        (full.get(at..)? == last).then_some(contents)
    }

    fn turns(&self, contents: &[Range<usize>]) -> Vec<Turn> {
        let turn = |beside: &Beside| {
            let content = &contents[beside.index];
            let span = content.start - beside.before..content.end + beside.behind;
            Turn { index: beside.index, span: Some(span) }
        };
        self.spans.iter().map(turn).collect()
    }
}

/// The roles of a conversation that has nothing but roles and contents, and which contents are empty or have white space
/// at their ends; none for any other conversation, and where a content spells an added token.
fn key(tokenizer: &Tokenizer, conversation: &Conversation) -> Option<String> {
    let Conversation { messages, tools, template_kwargs, weights: _ } = conversation;
    if tools.is_some() || !template_kwargs.is_empty() {
        return None;
    }
    let mut key = String::new();
    for Message { role, content, extra } in messages {
        if !extra.is_empty() || tokenizer.spells_added(content) {
            return None;
        }
        let flags = [
            content.is_empty(),
            content.starts_with(char::is_whitespace),
            content.ends_with(char::is_whitespace),
        ];
        key.push_str(role);
        key.push('\0');
        key.extend(flags.map(|flag| if flag { '1' } else { '0' }));
    }
    Some(key)
}

/// What a render with marker words in place of the contents has between them.
fn gaps(
    template: &Template,
    scene: &Scene,
    conversation: &Conversation,
    trims: bool,
) -> Option<Vec<String>> {
    let mut messages = Vec::with_capacity(conversation.messages.len());
    let mut marks = Vec::with_capacity(conversation.messages.len());
    for (index, message) in conversation.messages.iter().enumerate() {
        let content = &message.content;
        let mark = format!("Qx{index}marked");
        // The marker has the content's emptiness and white space, which templates look at.
        let start = &content[..content.len() - content.trim_start().len()];
        let end = &content[content.trim_end().len().max(start.len())..];
        let mark = if content.trim().is_empty() { String::new() } else { mark };
        let marked = [start, &mark, end].concat();
        messages.push(message_value(&Message { content: marked.clone(), ..message.clone() }));
        marks.push(if trims { mark } else { marked });
    }
    let text = template.render_scene(scene, messages, false).ok()?.text;
    let mut rest = text.as_str();
    let mut gaps = Vec::with_capacity(marks.len() + 1);
    for mark in &marks {
        let at = rest.find(mark.as_str())?;
        gaps.push(rest[..at].to_owned());
        rest = &rest[at + mark.len()..];
    }
    gaps.push(rest.to_owned());
    Some(gaps)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mask;

    const CHATML: &str = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}\
        {% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";

    fn chat(contents: [&str; 4]) -> Conversation {
        let roles = ["user", "assistant", "user", "assistant"];
        let messages =
            roles.iter().zip(contents).map(|(role, content)| Message::new(*role, content));
        Conversation { messages: messages.collect(), ..Conversation::default() }
    }

    /// How many of the conversations were searched; every answer must be that of the search.
    fn n_searched(source: &str, conversations: &[Conversation]) -> usize {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/tokenizers/bytes.json");
        let tokenizer = Tokenizer::from_file(file.as_ref()).unwrap();
        let template = Template::parse(source, [("eos_token", "</s>")]).unwrap();
        compare(&template, &tokenizer, conversations)
    }

    fn compare(
        template: &Template,
        tokenizer: &Tokenizer,
        conversations: &[Conversation],
    ) -> usize {
        let outlines = Outlines::default();
        let mut n_searched = 0;
        for conversation in conversations {
            let Ok(full) = template.render(conversation, false) else { continue };
            let expected = mask::turns(template, tokenizer, conversation, &full);
            let found = outlines.turns(template, tokenizer, conversation, &full, || {
                n_searched += 1;
                mask::turns(template, tokenizer, conversation, &full)
            });
            assert_eq!(found, expected, "{} {conversation:?}", template.source());
        }
        n_searched
    }

    #[test]
    fn outlines_are_believed_when_they_agree() {
        let plain: Vec<Conversation> =
            ["a", "b c", "Q", "user", "Qx1marked"].map(|text| chat([text, "x", "y", text])).into();
        assert_eq!(n_searched(CHATML, &plain), 2);
        let trimmed = CHATML.replace("m.content", "m.content|trim");
        assert_eq!(n_searched(&trimmed, &plain), 2);
        let spaced = [" a", " b ", "c"].map(|text| chat([text, " x\n", "y", " z "]));
        let spaced = [spaced.clone(), spaced.clone(), spaced].concat();
        assert_eq!(n_searched(CHATML, &spaced), 6, "each has white space elsewhere");
        assert_eq!(n_searched(&trimmed, &spaced), 6);
    }

    #[test]
    fn what_an_outline_does_not_show_is_searched() {
        let special = vec![chat(["a", "<|im_end|>", "b", "c"]); 4];
        assert_eq!(n_searched(CHATML, &special), 4);
        let upper = CHATML.replace("m.content", "m.content|upper");
        assert_eq!(n_searched(&upper, &vec![chat(["a", "b", "c", "d"]); 4]), 4);
        let thinks = CHATML.replace("m.content", "m.content.split('</think>')[-1]");
        let mixed =
            ["<think>x</think>y", "z", "z", "z", "z"].map(|text| chat(["a", text, "b", text]));
        assert_eq!(n_searched(&thinks, &mixed), 3);
        let tools =
            Conversation { tools: Some(serde_json::json!([])), ..chat(["a", "b", "c", "d"]) };
        assert_eq!(n_searched(CHATML, &vec![tools; 4]), 4);
    }

    #[test]
    fn real_templates_and_conversations() {
        let Some(parts) = std::env::var_os("TUNESMITH_PARTS").filter(|parts| !parts.is_empty())
        else {
            return; // the fetched parts are not here
        };
        let parts = std::path::Path::new(&parts);
        let tokenizer = Tokenizer::from_dir(parts.join("tokenizers/qwen2_5")).unwrap();
        let rows = std::fs::read_to_string(parts.join("ultrachat/test_sft.jsonl")).unwrap();
        let conversations: Vec<Conversation> = rows
            .lines()
            .step_by(8)
            .map(|row| serde_json::from_str::<serde_json::Value>(row).unwrap())
            .map(|row| {
                serde_json::from_value(serde_json::json!({"messages": row["messages"]})).unwrap()
            })
            .collect();
        let (mut n, mut n_searched) = (0, 0);
        for entry in std::fs::read_dir(parts.join("templates/templates")).unwrap() {
            let source = std::fs::read_to_string(entry.unwrap().path()).unwrap();
            let variables = [("bos_token", "<|im_start|>"), ("eos_token", "<|im_end|>")];
            let template = Template::parse(&source, variables).unwrap();
            n += conversations.len();
            n_searched += compare(&template, &tokenizer, &conversations);
        }
        assert!(n > 1000 && n_searched < n / 2, "{n_searched} of {n} were searched");
    }
}
