//! Text and lists that a template makes on its way to the output: each may be as large as the output, and no larger.
//!
//! The engine counts steps; one step of `replace`, `join`, `indent` or `format` may write any amount of text.

use super::environment::too_large;
use super::{MAX_OUTPUT, python};
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, State, Value, filters};

/// Items that a list may be spelled out to.
const MAX_ITEMS: usize = 4 << 20;

/// Puts a bound before the engine's filters that may make something out of proportion.
pub(super) fn guard(env: &mut Environment<'static>) {
    let filters = [
        ("replace", Value::from_function(filters::replace)),
        ("join", Value::from_function(filters::join)),
        ("indent", Value::from_function(filters::indent)),
        ("format", Value::from_function(filters::format)),
        ("list", Value::from_function(filters::list)),
        ("sort", Value::from_function(filters::sort)),
        ("unique", Value::from_function(filters::unique)),
    ];
    for (name, filter) in filters {
        env.add_filter(name, move |state: &mut State, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            let size = match (name, &args[..]) {
                ("replace", [text, from, to, ..]) => replaced(text, from, to),
                ("join", [items, joiner @ ..]) => joined(items, joiner.first()),
                ("indent", [text, rest @ ..]) => indented(text, rest)?,
                ("format", [text, rest @ ..]) => formatted(text, rest),
                (_, [items, ..]) => spelled_out(items),
                _ => 0,
            };
            if size > MAX_OUTPUT { Err(too_large()) } else { filter.call(state, &args) }
        });
    }
}

/// The same for methods of Python's.
pub(super) fn check_method(value: &Value, method: &str, args: &[Value]) -> Result<(), Error> {
    let size = match (method, args) {
        ("replace", [from, to, ..]) => replaced(value, from, to),
        ("join", [items, ..]) => joined(items, Some(value)),
        ("format", rest) => formatted(value, rest),
        _ => 0,
    };
    if size > MAX_OUTPUT { Err(too_large()) } else { Ok(()) }
}

fn length(value: &Value) -> usize {
    value.as_str().map_or_else(|| python::str(value).len(), str::len)
}

fn replaced(text: &Value, from: &Value, to: &Value) -> usize {
    let (text, from) = (python::str(text), python::str(from));
    let places = match from.len() {
        0 => text.len() + 1,
        _ => text.matches(from.as_str()).count(),
    };
    text.len().saturating_add(places.saturating_mul(length(to)))
}

fn joined(items: &Value, joiner: Option<&Value>) -> usize {
    let joiner = joiner.and_then(Value::as_str).map_or(0, str::len);
    let Ok(items) = items.try_iter() else { return 0 };
    let mut size = 0_usize;
    for item in items {
        size = size.saturating_add(joiner).saturating_add(length(&item));
        if size > MAX_OUTPUT {
            break; // the list may be endless, too
        }
    }
    size
}

fn indented(text: &Value, rest: &[Value]) -> Result<usize, Error> {
    let (args, kwargs): (&[Value], Kwargs) = from_args(rest)?;
    let width = match args.first() {
        Some(width) => Some(width.clone()),
        None => kwargs.get::<Option<Value>>("width")?,
    };
    let width = width.and_then(|width| width.as_usize()).unwrap_or(4);
    let text = python::str(text);
    let lines = memchr::memchr_iter(b'\n', text.as_bytes()).count() + 1;
    Ok(text.len().saturating_add(lines.saturating_mul(width)))
}

/// At most the text, all arguments, and every number in either as a width.
fn formatted(text: &Value, rest: &[Value]) -> usize {
    let text = python::str(text);
    let widths = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    let widths = widths.map(|digits| digits.parse::<usize>().unwrap_or(usize::MAX));
    let starred = text.contains('*');
    let arguments = rest.iter().map(|value| match value.as_usize() {
        Some(width) if starred => width.max(32),
        _ => length(value),
    });
    widths.chain(arguments).fold(text.len(), usize::saturating_add)
}

fn spelled_out(items: &Value) -> usize {
    let n_items = match items.kind() {
        ValueKind::Seq | ValueKind::Iterable => items.len().unwrap_or(0),
        _ => 0,
    };
    if n_items > MAX_ITEMS { usize::MAX } else { 0 }
}
