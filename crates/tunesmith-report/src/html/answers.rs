//! The same prompts answered before and after training, side by side.

use super::{Html, Section, esc};

/// One message of the prompt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Turn {
    /// `system`, `user`, `assistant` …
    pub role: String,
    /// The text.
    pub content: String,
}

/// What a model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The text.
    pub text: String,
    /// How many tokens it generated.
    pub n_tokens: usize,
    /// Whether it ended by itself, rather than at the limit.
    pub stopped: bool,
}

/// One prompt with its two answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exchange {
    /// The messages that both models saw.
    pub prompt: Vec<Turn>,
    /// The model before training; absent where it was not asked.
    pub before: Option<Answer>,
    /// The trained model.
    pub after: Answer,
}

/// The section "Before and after".
pub fn answers(exchanges: &[Exchange]) -> Section {
    let mut out = String::new();
    for exchange in exchanges {
        out += "<article class=\"exchange\">\n";
        for turn in &exchange.prompt {
            let side = if turn.role == "user" { "user" } else { "other" };
            out += &format!(
                "<div class=\"bubble {side}\"><h4>{}</h4><p>{}</p></div>\n",
                esc(&turn.role),
                esc(&turn.content)
            );
        }
        out += "<div class=\"pair\">\n";
        if let Some(before) = &exchange.before {
            out += &bubble("before", before);
        }
        out += &bubble("after", &exchange.after);
        out += "</div>\n</article>\n";
    }
    Section::new("Before and after", Html::markup(out))
}

fn bubble(when: &str, answer: &Answer) -> String {
    let (class, end) =
        if answer.stopped { ("ok", "stopped by itself") } else { ("cut", "cut at the limit") };
    let text = match answer.text.trim() {
        "" => "<em>said nothing</em>".to_owned(),
        text => esc(text).to_string(),
    };
    let plural = if answer.n_tokens == 1 { "" } else { "s" };
    format!(
        "<div class=\"answer {when}\"><h4>{when}</h4><div class=\"bubble model\"><p>{text}</p></div>\
         <p class=\"end {class}\">{} token{plural}, {end}</p></div>\n",
        answer.n_tokens
    )
}
