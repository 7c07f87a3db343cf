//! Python's methods on strings, dicts and lists, where templates call them.
//!
//! Most come from minijinja-contrib. Here are those it lacks, and those where Python's idea of white space or of a line
//! differs from Rust's.

use super::{bounds, python};
use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

/// Called for a method that the engine does not know.
pub(super) fn call(
    state: &mut State,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), method, args)?,
        ValueKind::Seq => list_method(value, method, args)?,
        ValueKind::Map => match method {
            "copy" => {
                let () = from_args(args)?;
                Some(value.clone())
            }
            _ => None,
        },
        _ => None,
    };
    match own {
        Some(result) => Ok(result),
        None => {
            bounds::check_method(value, method, args)?;
            pycompat::unknown_method_callback(state, value, method, args)
        }
    }
}

/// The `trim` filter: Python's `str(value).strip(chars)`.
pub(super) fn trim_filter(value: &Value, chars: Option<&str>) -> String {
    let text = python::str(value);
    strip(&text, chars, true, true).to_owned()
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    let side = |left, right| -> Result<Option<Value>, Error> {
        let (chars,): (Option<&str>,) = from_args(args)?;
        Ok(Some(Value::from(strip(text, chars, left, right))))
    };
    let padded = |before: fn(usize, usize) -> usize| -> Result<Option<Value>, Error> {
        let (width, fill): (usize, Option<&str>) = from_args(args)?;
        let n_chars = text.chars().count();
        let missing = width.min(1 << 16).saturating_sub(n_chars);
        let left = before(missing, width);
        let fill = fill.unwrap_or(" ");
        Ok(Some(Value::from(format!("{}{text}{}", fill.repeat(left), fill.repeat(missing - left)))))
    };
    match method {
        "strip" => side(true, true),
        "lstrip" => side(true, false),
        "rstrip" => side(false, true),
        "isspace" => Ok(Some(Value::from(!text.is_empty() && text.chars().all(is_space)))),
        "split" => split(text, args, false).map(Some),
        "rsplit" => split(text, args, true).map(Some),
        "splitlines" => {
            let (keep_ends,): (Option<bool>,) = from_args(args)?;
            Ok(Some(
                split_lines(text, keep_ends.unwrap_or(false))
                    .into_iter()
                    .map(Value::from)
                    .collect(),
            ))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let found = if method == "partition" {
                text.split_once(separator)
            } else {
                text.rsplit_once(separator)
            };
            let parts = match found {
                Some((before, after)) => [before, separator, after],
                None if method == "partition" => [text, "", ""],
                None => ["", "", text],
            };
            Ok(Some(Value::from(Tuple::from(parts.map(Value::from)))))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Ok(Some(Value::from(text.strip_prefix(prefix).unwrap_or(text))))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Ok(Some(Value::from(text.strip_suffix(suffix).unwrap_or(text))))
        }
        "index" | "rindex" => {
            let (needle,): (&str,) = from_args(args)?;
            let found = if method == "index" { text.find(needle) } else { text.rfind(needle) };
            match found {
                Some(at) => Ok(Some(Value::from(text[..at].chars().count()))),
                None => Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "swapcase" => {
            let () = from_args(args)?;
            let swapped = text.chars().flat_map(|c| {
                let swapped: String = if c.is_uppercase() {
                    c.to_lowercase().collect()
                } else {
                    c.to_uppercase().collect()
                };
                swapped.chars().collect::<Vec<_>>()
            });
            Ok(Some(Value::from(swapped.collect::<String>())))
        }
        "casefold" => {
            let () = from_args(args)?;
            Ok(Some(Value::from(text.to_lowercase().replace('ß', "ss"))))
        }
        "isdecimal" => {
            Ok(Some(Value::from(!text.is_empty() && text.chars().all(|c| c.is_ascii_digit()))))
        }
        "ljust" => padded(|_, _| 0),
        "rjust" => padded(|missing, _| missing),
        "center" => padded(|missing, width| missing / 2 + (missing & width & 1)),
        "zfill" => {
            let (width,): (usize,) = from_args(args)?;
            let missing = width.min(1 << 16).saturating_sub(text.chars().count());
            let (sign, digits) = text.split_at(usize::from(text.starts_with(['+', '-'])));
            Ok(Some(Value::from(format!("{sign}{}{digits}", "0".repeat(missing)))))
        }
        _ => Ok(None),
    }
}

fn list_method(value: &Value, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match method {
        "index" => {
            let (needle,): (&Value,) = from_args(args)?;
            match value.try_iter()?.position(|item| item == *needle) {
                Some(at) => Ok(Some(Value::from(at))),
                None => Err(Error::new(ErrorKind::InvalidOperation, "value is not in list")),
            }
        }
        "copy" => {
            let () = from_args(args)?;
            Ok(Some(value.clone()))
        }
        _ => Ok(None),
    }
}

/// White space as `str.isspace` sees it: Unicode's, and four ASCII separators that Unicode does not count.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip<'t>(text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    let text = if left { text.trim_start_matches(strips) } else { text };
    if right { text.trim_end_matches(strips) } else { text }
}

/// `str.split` and, with `from_end`, `str.rsplit`.
fn split(text: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (args, kwargs): (&[Value], minijinja::value::Kwargs) = from_args(args)?;
    let arg = |index: usize, name: &str| match args.get(index) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let separator = arg(0, "sep")?.filter(|value| !value.is_none());
    let limit = match arg(1, "maxsplit")? {
        Some(value) => usize::try_from(i64::try_from(value)?).ok(),
        None => None,
    };
    kwargs.assert_all_used()?;
    let pieces: Vec<&str> = match separator.as_ref().map(|value| value.as_str()) {
        Some(Some("")) => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(None) => {
            return Err(Error::new(ErrorKind::InvalidOperation, "the separator must be a string"));
        }
        Some(Some(separator)) => match (limit, from_end) {
            (None, _) => text.split(separator).collect(),
            (Some(limit), false) => text.splitn(limit.saturating_add(1), separator).collect(),
            (Some(limit), true) => {
                reversed(text.rsplitn(limit.saturating_add(1), separator).collect())
            }
        },
        None => split_space(text, limit, from_end),
    };
    Ok(pieces.into_iter().map(Value::from).collect())
}

/// Splits at runs of white space; what is left over when `limit` is reached keeps its own white space.
fn split_space(text: &str, limit: Option<usize>, from_end: bool) -> Vec<&str> {
    let mut pieces = Vec::new();
    let mut rest = strip(text, None, !from_end, from_end);
    while !rest.is_empty() && limit.is_none_or(|limit| pieces.len() < limit) {
        let border = if from_end { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = border else { break };
        let width = rest[at..].chars().next().map_or(1, char::len_utf8);
        let (before, after) = (&rest[..at], &rest[at + width..]);
        let (piece, remaining) = if from_end { (after, before) } else { (before, after) };
        pieces.push(piece);
        rest = strip(remaining, None, !from_end, from_end);
    }
    if !rest.is_empty() {
        pieces.push(rest);
    }
    if from_end { reversed(pieces) } else { pieces }
}

fn reversed(mut pieces: Vec<&str>) -> Vec<&str> {
    pieces.reverse();
    pieces
}

fn split_lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let ends_line = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'
                ..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let Some(at) = rest.find(ends_line) else {
            lines.push(rest);
            break;
        };
        let width = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(&rest[..if keep_ends { at + width } else { at }]);
        rest = &rest[at + width..];
    }
    lines
}
