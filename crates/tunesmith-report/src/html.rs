//! The report: one HTML file that holds everything it shows, opens offline, and can be mailed.
//!
//! A [`Report`] is a head (title, facts, figures, warnings) and a list of [`Section`]s. The functions that make the
//! usual sections are in the modules below; a new kind of run adds its own section with [`Section::new`] and the
//! escaping [`Html`] builder, and touches nothing here.
//!
//! # Why plain strings
//! Markup is built with `format!` into [`Html`], which can only take text through [`esc`]: everything from outside
//! (prompts, rows, answers, paths) is escaped where it enters. Charts are real SVG made here, with sizes in per cent,
//! so that they need no script to be seen; the small script only adds tooltips and copy buttons.

pub mod answers;
pub mod bars;
pub mod batch;
pub mod curves;
mod markup;
pub mod plot;
mod series;
pub mod tables;
mod ticks;

use std::io;
use std::path::Path;

pub use answers::{Answer, Exchange, Turn, answers};
pub use bars::Bars;
pub use batch::{Document, Piece, first_batch};
pub use curves::curves;
pub use markup::{Html, esc};
pub use tables::{Rows, facts, recipe, rows, timing};

const STYLE: &str = include_str!("html/style.css");
const SCRIPT: &str = include_str!("html/script.js");

/// One titled part of the page.
#[derive(Debug, Clone)]
pub struct Section {
    /// The heading; the navigation shows it too.
    pub title: String,
    /// One sentence under the heading.
    pub note: Option<String>,
    /// What it holds.
    pub body: Html,
}

impl Section {
    /// A section with a heading.
    pub fn new(title: impl Into<String>, body: Html) -> Self {
        Self { title: title.into(), note: None, body }
    }

    /// The section with a sentence under its heading.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }
}

/// One of the large numbers at the top.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    /// What it is: `final loss`.
    pub label: String,
    /// The number: `1.2204`.
    pub value: String,
    /// A word below it: `from 2.8113`.
    pub note: String,
}

/// A page.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The run's name.
    pub title: String,
    /// One line under the title: `SmolLM2-135M-Instruct on ultrachat, SFT of all weights`.
    pub subtitle: String,
    /// When it ended, and whatever else belongs into the small line above the title.
    pub date: String,
    /// The command that repeats it.
    pub command: Option<String>,
    /// The large numbers.
    pub figures: Vec<Figure>,
    /// What a reader must know before believing the rest.
    pub warnings: Vec<String>,
    /// The parts, top to bottom.
    pub sections: Vec<Section>,
}

impl Report {
    /// A page without content.
    pub fn new(title: impl Into<String>) -> Self {
        Self { title: title.into(), ..Self::default() }
    }

    /// Adds one of the large numbers: `figure("final loss", "1.2204", "from 2.8113")`.
    pub fn figure(&mut self, label: &str, value: impl Into<String>, note: impl Into<String>) {
        self.figures.push(Figure { label: label.into(), value: value.into(), note: note.into() });
    }

    /// Adds a section at the end.
    pub fn push(&mut self, section: Section) {
        self.sections.push(section);
    }

    /// Writes the page to `path`, whole or not at all.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub fn write(&self, path: &Path) -> io::Result<()> {
        crate::metrics::replace(path, self.to_html().as_bytes())
    }

    /// The page.
    pub fn to_html(&self) -> String {
        let title = esc(&self.title);
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
             style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
             <title>{title} · tunesmith</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n"
        );
        page += &self.head();
        page += "<main>\n";
        for (i, section) in self.sections.iter().enumerate() {
            page += &format!(
                "<section id=\"s{i}\">\n<header><h2>{}</h2>{}</header>\n{}\n</section>\n",
                esc(&section.title),
                section.note.as_deref().map_or(String::new(), |n| format!("<p>{}</p>", esc(n))),
                section.body
            );
        }
        page += "</main>\n<footer>Written by tunesmith. This file is complete: it loads nothing.</footer>\n";
        page + &format!("<script>\n{SCRIPT}</script>\n</body>\n</html>\n")
    }

    fn head(&self) -> String {
        let mut head = format!(
            "<header class=\"head\">\n<p class=\"kicker\"><span class=\"mark\">tunesmith</span>{}</p>\n\
             <h1>{}</h1>\n<p class=\"sub\">{}</p>\n",
            esc(&self.date),
            esc(&self.title),
            esc(&self.subtitle)
        );
        for warning in &self.warnings {
            head += &format!("<p class=\"warning\" role=\"note\">{}</p>\n", esc(warning));
        }
        if !self.figures.is_empty() {
            head += "<dl class=\"figures\">\n";
            for Figure { label, value, note } in &self.figures {
                head += &format!(
                    "<div><dt>{}</dt><dd><b>{}</b><small>{}</small></dd></div>\n",
                    esc(label),
                    esc(value),
                    esc(note)
                );
            }
            head += "</dl>\n";
        }
        if let Some(command) = &self.command {
            head += &format!("<pre class=\"command copy\"><code>{}</code></pre>\n", esc(command));
        }
        if self.sections.len() > 1 {
            head += "<nav>";
            for (i, section) in self.sections.iter().enumerate() {
                head += &format!("<a href=\"#s{i}\">{}</a>", esc(&section.title));
            }
            head += "</nav>\n";
        }
        head + "</header>\n"
    }
}
