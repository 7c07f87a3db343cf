//! Sections that are tables: rows used, facts, timing, and the recipe.

use std::time::Duration;

use super::{Html, Section, esc};
use crate::format;

/// What became of every input row.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rows {
    /// Rows trained whole.
    pub trained: u64,
    /// Rows trained after their end was cut off.
    pub truncated: u64,
    /// How many tokens were cut off in all.
    pub truncated_tokens: u64,
    /// Rows left out, by reason.
    pub dropped: Vec<(String, u64)>,
}

/// The section "Rows": every input row is trained, truncated or dropped, and they sum to the whole.
pub fn rows(rows: &Rows) -> Section {
    let dropped: u64 = rows.dropped.iter().map(|(_, n)| n).sum();
    let whole = rows.trained + rows.truncated + dropped;
    let mut out = String::from("<div class=\"share\" role=\"img\" aria-label=\"shares of rows\">");
    for (class, n) in
        [("trained", rows.trained), ("truncated", rows.truncated), ("dropped", dropped)]
    {
        if n > 0 {
            out += &format!("<span class=\"{class}\" style=\"flex-grow:{n}\"></span>");
        }
    }
    out += "</div>\n<table class=\"ledger\"><tbody>\n";
    let mut line = |class: &str, name: &str, note: &str, n: u64| {
        out += &format!(
            "<tr class=\"{class}\"><th>{}</th><td>{}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>\n",
            esc(name),
            esc(note),
            format::count(n),
            format::percent(n, whole)
        );
    };
    line("trained", "trained", "whole", rows.trained);
    let cut = match rows.truncated_tokens {
        0 => String::new(),
        n => format!("{} tokens cut off in all", format::count(n)),
    };
    line("truncated", "truncated", &cut, rows.truncated);
    if rows.dropped.is_empty() {
        line("dropped", "dropped", "", 0);
    }
    for (reason, n) in &rows.dropped {
        line("dropped", "dropped", reason, *n);
    }
    line("sum", "rows", "", whole);
    out += "</tbody></table>\n";
    Section::new("Rows", Html::markup(out))
        .note("Every row of the data that was read, and what became of it.")
}

/// A section of names and values: hardware, versions, the model.
pub fn facts(title: &str, facts: &[(&str, String)]) -> Section {
    let mut out = String::from("<dl class=\"facts\">\n");
    for (name, value) in facts {
        out += &format!("<div><dt>{}</dt><dd>{}</dd></div>\n", esc(name), esc(value));
    }
    Section::new(title, Html::markup(out + "</dl>\n"))
}

/// The section "Time": where the run's seconds went, as bars of one scale.
pub fn timing(phases: &[(&str, Duration)]) -> Section {
    let whole: Duration = phases.iter().map(|(_, d)| *d).sum();
    let mut out = String::from("<table class=\"timing\"><tbody>\n");
    for (name, d) in phases {
        let share = if whole.is_zero() { 0.0 } else { d.as_secs_f64() / whole.as_secs_f64() };
        out += &format!(
            "<tr><th>{}</th><td class=\"bar\"><span style=\"width:{:.2}%\"></span></td><td class=\"n\">{}</td></tr>\n",
            esc(name),
            share * 100.0,
            format::duration(*d)
        );
    }
    out += "</tbody></table>\n";
    Section::new("Time", Html::markup(out)).note(format!("{} in all.", format::duration(whole)))
}

/// The section "Recipe": the resolved recipe file, folded away.
pub fn recipe(toml: &str) -> Section {
    let lines: Vec<String> = toml.trim_end().lines().map(toml_line).collect();
    let body = format!(
        "<details class=\"recipe\"><summary>recipe.toml <span>{} lines</span></summary>\
         <pre class=\"copy\"><code>{}</code></pre></details>\n",
        lines.len(),
        lines.join("\n")
    );
    Section::new("Recipe", Html::markup(body))
        .note("Fully resolved: every value, and where it came from.")
}

/// One line of TOML with its comment, its key and its heading marked.
fn toml_line(line: &str) -> String {
    let (code, comment) = line.split_at(comment_start(line));
    let code = match code.split_once('=') {
        _ if code.trim_start().starts_with('[') => format!("<b>{}</b>", esc(code)),
        Some((key, value)) if !key.trim_start().starts_with(['"', '\'']) => {
            format!("<i>{}</i>={}", esc(key), esc(value))
        }
        _ => esc(code).to_string(),
    };
    if comment.is_empty() { code } else { format!("{code}<s>{}</s>", esc(comment)) }
}

/// Where a `#` begins that is in no string; the line's length where there is none.
fn comment_start(line: &str) -> usize {
    let mut quote = None;
    let mut escaped = false;
    for (i, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') => return i,
            (None, '"' | '\'') => quote = Some(c),
            (Some('"'), '\\') if !escaped => {
                escaped = true;
                continue;
            }
            (Some(q), _) if c == q && !escaped => quote = None,
            _ => {}
        }
        escaped = false;
    }
    line.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toml_lines() {
        for (line, want) in [
            ("[train]", "<b>[train]</b>"),
            ("lr = 2e-5 # flag", "<i>lr </i>= 2e-5 <s># flag</s>"),
            (r##"x = "a # \" b" # c"##, "<i>x </i>= &quot;a # \\&quot; b&quot; <s># c</s>"),
            ("p = 'C:\\' # c", "<i>p </i>= &#39;C:\\&#39; <s># c</s>"),
            ("  \"a=b\",", "  &quot;a=b&quot;,"),
            ("", ""),
        ] {
            assert_eq!(toml_line(line), want);
        }
    }

    #[test]
    fn rows_sum_to_the_whole() {
        let html = rows(&Rows {
            trained: 980,
            truncated: 15,
            truncated_tokens: 4321,
            dropped: vec![("empty <messages>".into(), 3), ("too short".into(), 2)],
        })
        .body
        .to_string();
        for part in [
            "98.0\u{202f}%",
            "1.5\u{202f}%",
            "4\u{202f}321 tokens",
            "empty &lt;messages&gt;",
            "1\u{202f}000",
            "100\u{202f}%",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        assert!(rows(&Rows::default()).body.to_string().contains("–"));
    }
}
