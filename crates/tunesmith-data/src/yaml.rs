//! One key of a YAML file as a JSON value, as far as the heads of READMEs go: lists and maps by indentation or in
//! brackets, quoted and plain scalars, comments. Scalars stay text (`true`, `false` and null excepted). What else YAML
//! knows (anchors, tags, texts of several lines) is refused, so that nothing is misread and nothing grows.

use serde_json::{Map, Value};

/// Lists inside lists.
const MAX_DEPTH: usize = 32;

/// A line that says something.
#[derive(Clone, Copy)]
struct Line<'a> {
    indent: usize,
    text: &'a str,
    /// Counted from 1.
    number: usize,
}

/// The value of a key at the top of `text`, null where it is not there; what is wrong with it, in words.
pub(crate) fn key(text: &str, key: &str) -> Result<Value, String> {
    let lines = text.lines().zip(1..).filter_map(|(line, number)| {
        let text = without_comment(line).trim_end();
        let indent = text.len() - text.trim_start_matches(' ').len();
        (indent < text.len()).then_some(Line { indent, text: &text[indent..], number })
    });
    let is_key =
        |line: &Line| line.indent == 0 && pair(line.text).is_some_and(|(name, _)| name == key);
    let mut rest = lines.skip_while(|line| !is_key(line));
    let Some(first) = rest.next() else { return Ok(Value::Null) };
    let of_key = rest.take_while(|line| line.indent > 0 || line.text.starts_with('-'));
    let mut lines = vec![first];
    lines.extend(of_key);
    let mut reader = Reader { lines, at: 0 };
    let value = reader.block(0, 0)?.get_mut(key).map(Value::take).unwrap_or_default();
    match reader.lines.get(reader.at) {
        Some(line) => Err(wrong(line, "a line of this indentation")),
        None => Ok(value),
    }
}

fn wrong(line: &Line, found: &str) -> String {
    format!("line {} of the head: found {found}: {}", line.number, line.text)
}

struct Reader<'a> {
    lines: Vec<Line<'a>>,
    at: usize,
}

impl<'a> Reader<'a> {
    /// The list or the map whose lines are indented by `indent`.
    fn block(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let Some(first) = self.lines.get(self.at).copied() else { return Ok(Value::Null) };
        if depth > MAX_DEPTH {
            return Err(wrong(&first, "too many lists inside each other"));
        }
        if is_item(first.text) { self.list(indent, depth) } else { self.map(indent, depth) }
    }

    fn list(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let mut items = Vec::new();
        while let Some(line) = self.lines.get(self.at).copied() {
            if line.indent != indent || !is_item(line.text) {
                break;
            }
            let inside = line.text[1..].trim_start_matches(' ');
            if inside.is_empty() {
                self.at += 1;
                items.push(self.nested(indent + 1, depth)?);
            } else if is_item(inside)
                || (pair(inside).is_some() && !inside.starts_with(['{', '[', '"', '\'']))
            {
                // what follows the dash is the first line of a block of its own
                let indent = line.indent + line.text.len() - inside.len();
                self.lines[self.at] = Line { indent, text: inside, ..line };
                items.push(self.block(indent, depth + 1)?);
            } else {
                self.at += 1;
                items.push(scalar(inside, &line, depth)?);
            }
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, indent: usize, depth: usize) -> Result<Value, String> {
        let mut fields = Map::new();
        while let Some(line) = self.lines.get(self.at).copied() {
            if line.indent != indent || is_item(line.text) {
                break;
            }
            let Some((name, rest)) = pair(line.text) else {
                return Err(wrong(&line, "no key and colon"));
            };
            self.at += 1;
            let value = match rest {
                "" => {
                    let next = self.lines.get(self.at);
                    // a list may stand below its key without being indented
                    let level =
                        next.is_some_and(|next| next.indent == indent && is_item(next.text));
                    self.nested(if level { indent } else { indent + 1 }, depth)?
                }
                rest => scalar(rest, &line, depth)?,
            };
            if fields.insert(name.to_owned(), value).is_some() {
                return Err(wrong(&line, "a key that stands twice"));
            }
        }
        Ok(Value::Object(fields))
    }

    /// The block that is indented by at least `least`; null where there is none.
    fn nested(&mut self, least: usize, depth: usize) -> Result<Value, String> {
        match self.lines.get(self.at).copied() {
            Some(next) if next.indent >= least => self.block(next.indent, depth + 1),
            _ => Ok(Value::Null),
        }
    }
}

fn is_item(text: &str) -> bool {
    text == "-" || text.starts_with("- ")
}

/// The name before a colon and what follows it.
fn pair(text: &str) -> Option<(&str, &str)> {
    let (name, rest) = match text.strip_suffix(':') {
        Some(name) if !name.contains(": ") => (name, ""),
        _ => text.split_once(": ")?,
    };
    let name = name.trim();
    let name =
        name.strip_prefix(['"', '\'']).and_then(|n| n.strip_suffix(['"', '\''])).unwrap_or(name);
    Some((name, rest.trim()))
}

fn scalar(text: &str, line: &Line, depth: usize) -> Result<Value, String> {
    let (value, rest) = flow(text, line, depth, &[])?;
    if rest.trim().is_empty() { Ok(value) } else { Err(wrong(line, "more behind a value")) }
}

/// The value at the start of `text`, and what is left; a plain one ends before any of `ends`.
fn flow<'t>(
    text: &'t str,
    line: &Line,
    depth: usize,
    ends: &[char],
) -> Result<(Value, &'t str), String> {
    if depth > MAX_DEPTH {
        return Err(wrong(line, "too many lists inside each other"));
    }
    let text = text.trim_start();
    let open = |what: &str| wrong(line, &format!("{what} that is not closed"));
    match text.as_bytes().first() {
        Some(b'[') => {
            let (mut items, mut rest) = (Vec::new(), text[1..].trim_start());
            while !rest.starts_with(']') {
                let (item, after) = flow(rest, line, depth + 1, &[',', ']'])?;
                items.push(item);
                rest = next_item(after, ']').ok_or_else(|| open("a list"))?;
            }
            Ok((Value::Array(items), &rest[1..]))
        }
        Some(b'{') => {
            let (mut fields, mut rest) = (Map::new(), text[1..].trim_start());
            while !rest.starts_with('}') {
                let (name, after) = rest.split_once(':').ok_or_else(|| open("a map"))?;
                let name = name.trim().trim_matches(['"', '\'']);
                let (item, after) = flow(after, line, depth + 1, &[',', '}'])?;
                fields.insert(name.to_owned(), item);
                rest = next_item(after, '}').ok_or_else(|| open("a map"))?;
            }
            Ok((Value::Object(fields), &rest[1..]))
        }
        Some(b'\'') => {
            let end = text[1..].find('\'').ok_or_else(|| open("a quote"))? + 1;
            if text[end + 1..].starts_with('\'') {
                return Err(wrong(line, "a quote inside quotes"));
            }
            Ok((Value::from(&text[1..end]), &text[end + 1..]))
        }
        Some(b'"') => {
            let mut values = serde_json::Deserializer::from_str(text).into_iter::<String>();
            let value = values.next().and_then(Result::ok).ok_or_else(|| open("a quote"))?;
            Ok((Value::from(value), &text[values.byte_offset()..]))
        }
        Some(b'&' | b'!' | b'|' | b'>' | b'%' | b'@' | b'`') => {
            Err(wrong(line, "what only other readers of YAML know"))
        }
        // `**/*.csv` is a pattern; `*name` would be an alias
        Some(b'*') if text[1..].starts_with(|c: char| c.is_alphanumeric()) => {
            Err(wrong(line, "an alias"))
        }
        _ => {
            let end = text.find(ends).unwrap_or(text.len());
            let value = match text[..end].trim() {
                "" | "~" | "null" => Value::Null,
                "true" => Value::Bool(true),
                "false" => Value::Bool(false),
                plain => Value::from(plain),
            };
            Ok((value, &text[end..]))
        }
    }
}

/// Behind the comma, or at the bracket.
fn next_item(after: &str, close: char) -> Option<&str> {
    let after = after.trim_start();
    match after.strip_prefix(',') {
        Some(rest) => Some(rest.trim_start()).filter(|rest| !rest.is_empty()),
        None => after.starts_with(close).then_some(after),
    }
}

fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut before = ' ';
    for (at, c) in line.char_indices() {
        match (quote, c) {
            (None, '#') if before == ' ' => return &line[..at],
            (None, '"' | '\'') if " [{,:".contains(before) => quote = Some(c),
            (Some(open), c) if c == open => quote = None,
            _ => {}
        }
        before = c;
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lists_and_maps_by_indentation_and_in_brackets() {
        let text = "license: mit\na: &x [ignored\nk:\n- b: 1 # one\n  c:\n  - x\n  - 'y # y'\n  - \"z\\n\"\n\
            -\n  d: {e: [f, \"g\"], h: true}\n- - i\n  - ~\n- **/*.csv\n- a:b\nnext: - 3\n";
        let expected = json!([
            {"b": "1", "c": ["x", "y # y", "z\n"]},
            {"d": {"e": ["f", "g"], "h": true}},
            ["i", null],
            "**/*.csv",
            "a:b",
        ]);
        assert_eq!(key(text, "k").unwrap(), expected);
        assert_eq!(key(text, "license").unwrap(), json!("mit"));
        assert_eq!(key(text, "other").unwrap(), Value::Null);
        assert_eq!(key("k:\n  - a\n  - b\n", "k").unwrap(), json!(["a", "b"]));
        assert_eq!(key("k:\n", "k").unwrap(), Value::Null);
    }

    #[test]
    fn what_is_not_read_is_refused() {
        let deep = ["k:".to_owned(), "[".repeat(100_000)].join(" ");
        let items = format!("k:\n{}a", "- ".repeat(100_000));
        for text in [
            "k: &a x",
            "k: [a, *b]",
            "k: |\n  a",
            "k: [a",
            "k: {a: 1",
            "k: 'a",
            "k: \"a",
            "k:\n  a\n   b",
            "k:\n - a\n  b: c",
            "k: a\n  b: c",
            "k:\n  a: 1\n  a: 2",
            "k: [a] b",
            "k: 'it''s'",
            &deep,
            &items,
        ] {
            let error = key(text, "k").unwrap_err();
            assert!(error.starts_with("line "), "{error}");
        }
    }
}
