//! `tojson`, as transformers defines it: Python's `json.dumps` without HTML escapes and with non-ASCII text as it is.

use super::environment::too_large;
use super::{MAX_OUTPUT, python};
use minijinja::value::{Kwargs, Rest, ValueKind};
use minijinja::{Error, ErrorKind, Value};
use std::fmt::Write;

/// `json.dumps`' knobs.
struct Style {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`; positions count as in Python.
pub(super) fn filter(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<Value, Error> {
    let names = ["ensure_ascii", "indent", "separators", "sort_keys"];
    if args.len() > names.len() {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let arg = |index: usize| -> Result<Option<Value>, Error> {
        let value = match args.get(index) {
            Some(value) => Some(value.clone()),
            None => kwargs.get::<Option<Value>>(names[index])?,
        };
        Ok(value.filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let ensure_ascii = arg(0)?.is_some_and(|value| value.is_true());
    let indent = match arg(1)? {
        None => None,
        Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
        Some(width) => Some(" ".repeat(i64::try_from(width)?.clamp(0, 64) as usize)),
    };
    let (mut item_separator, mut key_separator) = (", ".to_owned(), ": ".to_owned());
    if indent.is_some() {
        item_separator = ",".into();
    }
    if let Some(separators) = arg(2)? {
        item_separator = python::str(&separators.get_item_by_index(0)?);
        key_separator = python::str(&separators.get_item_by_index(1)?);
    }
    let sort_keys = arg(3)?.is_some_and(|value| value.is_true());
    kwargs.assert_all_used()?;
    let style = Style { ensure_ascii, indent, item_separator, key_separator, sort_keys };
    let mut out = String::new();
    style.write(value, 0, &mut out)?;
    Ok(Value::from(out))
}

impl Style {
    fn write(&self, value: &Value, depth: usize, out: &mut String) -> Result<(), Error> {
        if out.len() > MAX_OUTPUT {
            return Err(too_large());
        }
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => out.push_str(&number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq => {
                out.push('[');
                let mut n_items = 0;
                for item in value.try_iter()? {
                    self.separate(n_items, depth + 1, out);
                    self.write(&item, depth + 1, out)?;
                    n_items += 1;
                }
                self.close(n_items, depth, ']', out);
            }
            ValueKind::Map => {
                let pairs = value.as_object().and_then(|object| object.try_iter_pairs());
                let mut pairs: Vec<(Value, Value)> = pairs.into_iter().flatten().collect();
                if self.sort_keys {
                    pairs.sort_by(|(left, _), (right, _)| left.cmp(right));
                }
                out.push('{');
                for (index, (key, item)) in pairs.iter().enumerate() {
                    self.separate(index, depth + 1, out);
                    let key = match key.kind() {
                        ValueKind::String => key.as_str().unwrap_or_default().to_owned(),
                        ValueKind::None => "null".into(),
                        ValueKind::Bool => if key.is_true() { "true" } else { "false" }.into(),
                        ValueKind::Number => number(key),
                        kind => return Err(not_serializable(kind)),
                    };
                    self.write_string(&key, out);
                    out.push_str(&self.key_separator);
                    self.write(item, depth + 1, out)?;
                }
                self.close(pairs.len(), depth, '}', out);
            }
            kind => return Err(not_serializable(kind)),
        }
        Ok(())
    }

    fn separate(&self, index: usize, depth: usize, out: &mut String) {
        if index > 0 {
            out.push_str(&self.item_separator);
        }
        self.newline(depth, out);
    }

    fn close(&self, n_items: usize, depth: usize, bracket: char, out: &mut String) {
        if n_items > 0 {
            self.newline(depth, out);
        }
        out.push(bracket);
    }

    fn newline(&self, depth: usize, out: &mut String) {
        if let Some(indent) = &self.indent {
            out.push('\n');
            for _ in 0..depth {
                out.push_str(indent);
            }
        }
    }

    fn write_string(&self, text: &str, out: &mut String) {
        out.push('"');
        for c in text.chars() {
            match c {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\u{8}' => out.push_str("\\b"),
                '\u{c}' => out.push_str("\\f"),
                c if c < ' ' || (self.ensure_ascii && c >= '\u{7f}') => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        // Writing to a string cannot fail.
                        let _ = write!(out, "\\u{unit:04x}");
                    }
                }
                c => out.push(c),
            }
        }
        out.push('"');
    }
}

fn number(value: &Value) -> String {
    match python::as_float(value) {
        Some(number) if number.is_nan() => "NaN".into(),
        Some(number) if number.is_infinite() => {
            if number > 0.0 { "Infinity" } else { "-Infinity" }.into()
        }
        Some(number) => python::float(number),
        None => value.to_string(),
    }
}

fn not_serializable(kind: ValueKind) -> Error {
    Error::new(
        ErrorKind::BadSerialization,
        format!("a value of type {kind} is not JSON serializable"),
    )
}
