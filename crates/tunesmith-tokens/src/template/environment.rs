//! The Jinja environment that chat templates expect: block trimming, loop controls, and four functions of their own.

use super::{FUEL, MAX_OUTPUT, bounds, clock, generation, json, methods, python, source};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, ValueKind};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, State, UndefinedBehavior, Value};
use std::cell::Cell;
use std::io;
use std::time::{SystemTime, UNIX_EPOCH};

/// What `raise_exception` was called with; it travels as the source of an engine error.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Raised(pub(super) String);

/// An environment with everything but templates.
pub(super) fn new() -> Environment<'static> {
    let mut env = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    env.set_auto_escape_callback(|_| AutoEscape::None);
    env.set_undefined_behavior(UndefinedBehavior::Lenient);
    env.set_fuel(Some(FUEL));
    env.set_formatter(|out, _, value| {
        let written = match value.as_str() {
            Some(text) => count(text.len()).map(|()| out.write_str(text))?,
            None => {
                let text = python::str(value);
                count(text.len()).map(|()| out.write_str(&text))?
            }
        };
        written.map_err(|_| Error::new(ErrorKind::WriteFailure, "cannot write"))
    });
    env.set_unknown_method_callback(methods::call);
    bounds::guard(&mut env);
    env.add_filter("tojson", json::filter);
    env.add_filter("trim", methods::trim_filter);
    env.add_filter("string", |value: &Value| python::str(value));
    // Where the engine is more lenient, or stricter, than Jinja2.
    env.add_filter("length", length);
    env.add_filter("count", length);
    env.add_test("iterable", |value: &Value| match value.kind() {
        ValueKind::None => false,
        ValueKind::String => true,
        _ => value.try_iter().is_ok(),
    });
    env.add_test("sequence", |value: &Value| {
        matches!(
            value.kind(),
            ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map
        )
    });
    env.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    env.add_function(source::EACH, each);
    env.add_function(source::BOUNDED, bounded);
    env.add_function("raise_exception", raise_exception);
    env.add_function(generation::FUNCTION, generation::call);
    let now =
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
    set_clock(&mut env, now);
    env
}

/// Makes `strftime_now` tell this time.
pub(super) fn set_clock(env: &mut Environment<'static>, unix_seconds: i64) {
    env.add_function("strftime_now", move |format: &str| clock::strftime(format, unix_seconds));
}

thread_local! {
    /// What the render on this thread has written, into blocks and macros as well: what they hold does not go through
    /// the output, whose length is limited by itself.
    static WRITTEN: Cell<usize> = const { Cell::new(0) };
}

/// To be called before each render.
pub(super) fn begin() {
    WRITTEN.set(0);
}

fn count(n: usize) -> Result<(), Error> {
    WRITTEN.set(WRITTEN.get().saturating_add(n));
    if WRITTEN.get() > 4 * MAX_OUTPUT { Err(too_large()) } else { Ok(()) }
}

/// What a variable may be: text that could be put out.
fn bounded(value: Value) -> Result<Value, Error> {
    let length = value.as_str().map_or(0, str::len);
    if length > MAX_OUTPUT { Err(too_large()) } else { Ok(value) }
}

pub(super) fn too_large() -> Error {
    Error::new(ErrorKind::InvalidOperation, "too much text")
        .with_source(io::Error::from(io::ErrorKind::FileTooLarge))
}

fn raise_exception(_: &State, message: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    kwargs.assert_all_used()?;
    let message = python::str(message);
    Err(Error::new(ErrorKind::InvalidOperation, "raise_exception").with_source(Raised(message)))
}

/// What loops run over: anything but none, which the engine would take for an empty list.
fn each(value: Value) -> Result<Value, Error> {
    if value.is_none() {
        return Err(Error::new(ErrorKind::InvalidOperation, "none is not iterable"));
    }
    Ok(value)
}

/// Python's `len`, which is 0 for what is undefined.
fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        kind => value.len().ok_or_else(|| {
            Error::new(ErrorKind::InvalidOperation, format!("a value of type {kind} has no length"))
        }),
    }
}
