//! Escaping, and the type that says "this is markup already".

use std::fmt;

/// Markup. Text from outside enters it through [`esc`] or [`Html::text`] only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Html(String);

impl Html {
    /// Takes `markup` as it is. The caller answers for everything in it: literals, and text that went through
    /// [`esc`].
    pub fn markup(markup: impl Into<String>) -> Self {
        Self(markup.into())
    }

    /// Text, escaped.
    pub fn text(text: &str) -> Self {
        Self(esc(text).to_string())
    }
}

impl fmt::Display for Html {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `text` so that it is safe between tags and inside quoted attributes: `format!("<b>{}</b>", esc(text))`.
pub fn esc(text: &str) -> Escaped<'_> {
    Escaped(text)
}

/// What [`esc`] returns: it displays the escaped text.
#[derive(Debug, Clone, Copy)]
pub struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(i) = rest.find(special) {
            f.write_str(&rest[..i])?;
            let c = rest[i..].chars().next().unwrap_or_default();
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // A reader would see nothing, or a text that runs backwards from here on.
                _ => write!(f, "[U+{:04X}]", u32::from(c))?,
            }
            rest = &rest[i + c.len_utf8()..];
        }
        f.write_str(rest)
    }
}

fn special(c: char) -> bool {
    matches!(c, '&' | '<' | '>' | '"' | '\'')
        || c.is_control() && !matches!(c, '\n' | '\t')
        || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A JSON value that may stand inside a `<script>` element: no `<` is left that could end it.
pub(super) fn json(value: &serde_json::Value) -> String {
    value.to_string().replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes() {
        for (text, want) in [
            ("plain ünïcode 你好\n\ttab", "plain ünïcode 你好\n\ttab"),
            (
                "</script><b a='x' b=\"y\">&amp;",
                "&lt;/script&gt;&lt;b a=&#39;x&#39; b=&quot;y&quot;&gt;&amp;amp;",
            ),
            ("a\u{0}b\u{1b}[31m\u{202e}c\r", "a[U+0000]b[U+001B][31m[U+202E]c[U+000D]"),
        ] {
            assert_eq!(esc(text).to_string(), want);
        }
        let value = serde_json::json!({"</script>": "<!--&"});
        let text = json(&value);
        assert!(!text.contains(['<', '>', '&']));
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}
