//! Where a rendered conversation holds what the assistant wrote: the spans that are trained.
//!
//! # Why
//! Most templates do not say which part of their output the model writes, and searching for contents in the text goes
//! wrong as soon as a template trims, drops or repeats one. Two comparisons of renders tell it for sure. What sampling
//! feeds to get message k is `render(messages[..k], add_generation_prompt)`: where the full text begins with it, the turn
//! starts right behind it. And a render in which the content of message k is replaced by a marker word shows what follows
//! it: all that the full text ends with. That also holds where a template adds default system prompts, or cuts the
//! thinking out of earlier answers, since the rest of the text is the same in both renders.
//!
//! A turn of ChatML, with what is trained underlined:
//!
//! ```text
//! <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello<|im_end|>\n
//!                                                       ‾‾‾‾‾‾‾‾‾‾‾‾‾‾‾
//! ```
//!
//! The end of the turn is the added token that follows the content (after tool calls, the last one of the turn); white
//! space and whatever else a template writes behind that is not trained, because sampling has stopped before it. A template
//! that ends turns by text alone has all of it trained, and the first token of the next message if it is an EOS of the
//! model.

use crate::template::{Scene, message_value};
use crate::{Conversation, Message, Template, Tokenizer};
use minijinja::Value;
use std::ops::Range;

/// The role whose messages are trained.
pub(crate) const ASSISTANT: &str = "assistant";

/// A message of the assistant, and the bytes of the text that are trained for it; none where the text does not show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turn {
    pub(crate) index: usize,
    pub(crate) span: Option<Range<usize>>,
}

/// The assistant's turns in `full`, the render of `conversation` without generation prompt.
pub(crate) fn turns(
    template: &Template,
    tokenizer: &Tokenizer,
    conversation: &Conversation,
    full: &str,
) -> Vec<Turn> {
    let scene = template.scene(conversation);
    let marker = unused_word(full);
    let look = Look { template, tokenizer, scene: &scene, full, marker: &marker };
    let mut previous_end = 0;
    let mut turns = Vec::new();
    for (index, message) in conversation.messages.iter().enumerate() {
        if message.role == ASSISTANT {
            let span = look.turn(index, message, previous_end);
            previous_end = span.as_ref().map_or(previous_end, |span| span.end);
            turns.push(Turn { index, span });
        }
    }
    turns
}

/// Which tokens begin inside one of `spans` (ordered). Tokens of no bytes, added by a post-processor, do not.
pub(crate) fn tokens_in(tokens: &[Range<usize>], spans: &[Range<usize>]) -> Vec<bool> {
    let mut spans = spans.iter().peekable();
    let inside = |token: &Range<usize>| {
        while spans.next_if(|span| span.end <= token.start).is_some() {}
        !token.is_empty() && spans.peek().is_some_and(|span| span.start <= token.start)
    };
    tokens.iter().map(inside).collect()
}

/// The weight of the span that each token begins in (`weights[i]` for `spans[i]`), 1 elsewhere.
pub(crate) fn weights_in(
    tokens: &[Range<usize>],
    spans: &[Range<usize>],
    weights: &[f32],
) -> Vec<f32> {
    let mut spans = spans.iter().zip(weights).peekable();
    let weight = |token: &Range<usize>| {
        while spans.next_if(|(span, _)| span.end <= token.start).is_some() {}
        let inside = spans.peek().filter(|(span, _)| span.start <= token.start);
        inside.map_or(1.0, |(_, weight)| **weight)
    };
    tokens.iter().map(weight).collect()
}

/// What the search for one turn looks at.
struct Look<'a> {
    template: &'a Template,
    tokenizer: &'a Tokenizer,
    scene: &'a Scene,
    full: &'a str,
    marker: &'a str,
}

impl Look<'_> {
    fn turn(&self, index: usize, message: &Message, previous_end: usize) -> Option<Range<usize>> {
        let mut marked = self.scene.messages.clone();
        marked[index] =
            message_value(&Message { content: self.marker.to_owned(), ..message.clone() });
        let up_to_here = marked[..=index].to_vec();
        let around = self.render(marked, false).and_then(|text| self.around_marker(&text));
        let content = around.map(|(before, after)| {
            let n_before = common_prefix(&before, self.full);
            let n_after = common_suffix(&after, self.full);
            n_before.min(self.full.len() - n_after)..self.full.len() - n_after
        });
        let start = self.start(index, content.as_ref(), previous_end)?;
        let content_end = content.map(|content| content.end.max(start));
        let calls =
            message.extra.contains_key("tool_calls") || message.extra.contains_key("function_call");
        // Where the history stays as it is, the conversation up to this turn says where the turn ends.
        let until = |messages: Vec<Value>| {
            let text =
                self.render(messages, false).filter(|text| self.full.starts_with(text.as_str()));
            text.map(|text| text.len())
        };
        let turn_end = until(self.scene.messages[..=index].to_vec()).or_else(|| {
            // Content that the full text leaves out, because of what follows, may be shown as long as nothing does.
            let mut without = up_to_here.clone();
            without[index] = message_value(&Message { content: String::new(), ..message.clone() });
            if content_end.is_none() { until(without) } else { None }
        });
        let end = match (content_end, turn_end) {
            (Some(content_end), Some(turn_end)) if turn_end >= content_end => {
                self.end(content_end..turn_end, calls)
            }
            (Some(content_end), _) => {
                let tail =
                    self.render(up_to_here, false).and_then(|text| self.around_marker(&text));
                // Templates put a line break between content and tool calls, and none where the content is empty.
                let rest = self.full[content_end..].trim_start();
                let tail = tail.filter(|(_, tail)| rest.starts_with(tail.trim_start()));
                match tail {
                    Some((_, tail)) => {
                        let n_behind = rest.len() - tail.trim_start().len();
                        self.end(content_end..self.full.len() - n_behind, calls)
                    }
                    None => self.next_token(content_end),
                }
            }
            // The template shows something else than the content, a tool call for example: the whole turn.
            (None, Some(turn_end)) if turn_end > start => self.end(start..turn_end, true),
            (None, _) => return None,
        };
        Some(start..end.max(start))
    }

    /// Where the model takes over.
    fn start(
        &self,
        index: usize,
        content: Option<&Range<usize>>,
        previous_end: usize,
    ) -> Option<usize> {
        let before = self.scene.messages[..index].to_vec();
        let prompt = self.render(before.clone(), true).filter(|prompt| !prompt.is_empty());
        let content_start = content.map(|content| content.start);
        let Some(prompt) = prompt else {
            return content_start.map(|start| self.before_space(start, previous_end));
        };
        if self.full.starts_with(&prompt) && prompt.len() >= previous_end {
            return Some(prompt.len());
        }
        // The template changes its history, or its prompt opens something that the answer does not have. What the prompt
        // adds to the messages is then looked for in front of the content.
        let header = self
            .render(before, false)
            .and_then(|text| prompt.strip_prefix(&text).map(str::to_owned));
        if let (Some(header), Some(content_start)) =
            (header.filter(|header| !header.trim().is_empty()), content_start)
        {
            let region = &self.full[previous_end.min(content_start)..content_start];
            if let Some(at) = region.rfind(&header) {
                return Some(content_start - region.len() + at + header.len());
            }
        }
        let n_common = common_prefix(&prompt, self.full);
        match content_start {
            Some(start)
                if n_common >= previous_end
                    && n_common > 0
                    && !self.full[n_common.min(start)..start].contains(char::is_alphanumeric) =>
            {
                Some(n_common.min(start))
            }
            Some(start) => Some(self.before_space(start, previous_end)),
            None => Some(n_common).filter(|&n_common| n_common >= previous_end),
        }
    }

    /// The end of what is trained, where `tail` is what the template writes behind the content before the next message:
    /// the added token that follows the content; with tool calls in between, the last added token; or all of it.
    fn end(&self, tail: Range<usize>, calls: bool) -> usize {
        let text = &self.full[tail.clone()];
        let tokens = self.tokenizer.find_added(text);
        let first = tokens.first().filter(|first| !calls && text[..first.start].trim().is_empty());
        let last = tokens.last().filter(|last| text[last.end..].trim().is_empty());
        if let Some(token) = first.or(last) {
            return tail.start + token.end;
        }
        // Some templates close a turn when the next one opens; then the model's own EOS stands there.
        let rest = &self.full[tail.end..];
        let next =
            self.tokenizer.find_added(rest).into_iter().next().filter(|next| next.start == 0);
        let next = next.filter(|next| {
            self.tokenizer
                .token_to_id(&rest[next.clone()])
                .is_some_and(|id| self.tokenizer.eos_ids().contains(&id))
        });
        tail.end + next.map_or(0, |next| next.end)
    }

    /// Where a turn ends differently in the middle of a conversation than at its end: behind the added token that
    /// follows the content directly.
    fn next_token(&self, content_end: usize) -> usize {
        let rest = &self.full[content_end..];
        let n_space = rest.len() - rest.trim_start().len();
        let first = self.tokenizer.find_added(rest).into_iter().next();
        first
            .filter(|token| token.start <= n_space)
            .map_or(content_end, |token| content_end + token.end)
    }

    /// White space in front of the content belongs to its first token, unless it belongs to the previous turn.
    fn before_space(&self, start: usize, previous_end: usize) -> usize {
        let before = &self.full[previous_end.min(start)..start];
        start - (before.len() - before.trim_end_matches(' ').len())
    }

    /// What stands before the marker's first and behind its last place.
    fn around_marker(&self, text: &str) -> Option<(String, String)> {
        let (first, last) = (text.find(self.marker)?, text.rfind(self.marker)?);
        Some((text[..first].to_owned(), text[last + self.marker.len()..].to_owned()))
    }

    fn render(&self, messages: Vec<Value>, add_generation_prompt: bool) -> Option<String> {
        // A prefix that the template refuses tells nothing; the full conversation has been rendered already.
        self.template
            .render_scene(self.scene, messages, add_generation_prompt)
            .ok()
            .map(|rendered| rendered.text)
    }
}

/// A word that does not occur in `text`.
fn unused_word(text: &str) -> String {
    let mut word = "Qxmarkedturn".to_owned();
    while text.contains(&word) {
        word.push('q');
    }
    word
}

/// How many bytes of whole characters both texts begin with.
fn common_prefix(left: &str, right: &str) -> usize {
    let n = left.bytes().zip(right.bytes()).take_while(|(left, right)| left == right).count();
    (0..=n).rev().find(|&at| right.is_char_boundary(at) && left.is_char_boundary(at)).unwrap_or(0)
}

/// How many bytes of whole characters both texts end with.
fn common_suffix(left: &str, right: &str) -> usize {
    let n = left
        .bytes()
        .rev()
        .zip(right.bytes().rev())
        .take_while(|(left, right)| left == right)
        .count();
    (0..=n).rev().find(|&n| right.is_char_boundary(right.len() - n)).unwrap_or(0)
}
