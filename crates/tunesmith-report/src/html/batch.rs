//! The first batch as the model saw it: every token, the trained ones coloured.

use super::{Html, Section, esc};
use crate::format;

/// One token as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    /// What it decodes to; for half a character, whatever the caller wants shown.
    pub text: String,
    /// Whether the model learns to say it.
    pub trained: bool,
    /// Its id, shown when pointed at.
    pub id: u32,
}

/// One document of the batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The row it came from, counted from 0.
    pub row: u64,
    /// Its tokens.
    pub pieces: Vec<Piece>,
}

/// At most this many tokens are shown; further documents are counted.
const MAX_TOKENS: usize = 8192;
/// At most this many documents are shown.
const MAX_DOCUMENTS: usize = 12;

/// The section "First batch".
pub fn first_batch(documents: &[Document]) -> Section {
    let tokens: usize = documents.iter().map(|d| d.pieces.len()).sum();
    let trained: usize = documents.iter().map(n_trained).sum();
    let mut out = String::new();
    let mut shown_tokens = 0;
    let mut shown = 0;
    for document in documents {
        if shown > 0
            && (shown == MAX_DOCUMENTS || shown_tokens + document.pieces.len() > MAX_TOKENS)
        {
            break;
        }
        out += &one(document, shown, MAX_TOKENS);
        shown_tokens += document.pieces.len();
        shown += 1;
    }
    if shown < documents.len() {
        out += &format!(
            "<p class=\"more\">and {} more document{}</p>\n",
            documents.len() - shown,
            if documents.len() - shown == 1 { "" } else { "s" }
        );
    }
    Section::new("First batch", Html::markup(out)).note(format!(
        "{} tokens in {} document{}; {} of them ({}) are trained and coloured. The rest is read, not learned.",
        format::count(tokens as u64),
        documents.len(),
        if documents.len() == 1 { "" } else { "s" },
        format::count(trained as u64),
        format::percent(trained as u64, tokens as u64)
    ))
}

fn n_trained(document: &Document) -> usize {
    document.pieces.iter().filter(|p| p.trained).count()
}

fn one(document: &Document, i: usize, limit: usize) -> String {
    let n = document.pieces.len();
    let mut out = format!(
        "<details class=\"doc\"{}><summary><b>Document {}</b><span>row {}</span><span>{} tokens</span>\
         <span>{} trained</span></summary>\n<div class=\"tokens\" tabindex=\"0\">",
        if i == 0 { " open" } else { "" },
        i + 1,
        document.row,
        format::count(n as u64),
        format::count(n_trained(document) as u64),
    );
    for piece in document.pieces.iter().take(limit) {
        let tag = if piece.trained { "b" } else { "i" };
        let text = esc(&piece.text).to_string().replace('\n', "<s>↵</s>\n");
        out += &format!("<{tag} data-t={}>{text}</{tag}>", piece.id);
    }
    if n > limit {
        out += &format!("<em> … {} more tokens</em>", format::count((n - limit) as u64));
    }
    out + "</div></details>\n"
}
