//! One JSON object, of which only the wanted columns are kept.

use super::Row;
use crate::fault::{Fault, describe};
use serde::de::{
    DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde_json::Value;
use std::borrow::Cow;
use std::fmt;

/// What a row's text is instead of an object.
#[derive(Debug)]
pub(super) struct Problem {
    /// The text stops too early.
    pub(super) is_end: bool,
    offset: usize,
    message: String,
    /// It is JSON, but this and no object.
    other: Option<Value>,
}

impl Problem {
    /// As the fault of a row that starts at byte `start` of its file.
    pub(super) fn fault(self, start: u64) -> Fault {
        match self.other {
            Some(value) => Fault::WrongType {
                expected: "an object with the row's columns",
                found: describe(&value),
            },
            None => Fault::Json { problem: self.message, offset: start + self.offset as u64 },
        }
    }
}

/// Reads the object at the start of `text`. What follows must be white space; in an array also a comma, or the end.
pub(super) fn parse(text: &str, in_array: bool, wanted: Option<&[String]>) -> Result<Row, Problem> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let problem = |error: serde_json::Error| {
        let message = error.to_string();
        let message =
            message.rsplit_once(" at line ").map_or(message.as_str(), |(message, _)| message);
        let offset = offset(text, &error);
        let stands = |number: &&&str| text.get(offset..).is_some_and(|at| at.starts_with(**number));
        let message = match ["NaN", "Infinity"].iter().find(stands) {
            Some(number) => format!("expected a value of JSON, found {number}"),
            None => message.to_owned(),
        };
        Problem { is_end: error.is_eof(), offset, message, other: None }
    };
    let row = Wanted(wanted).deserialize(&mut parser).map_err(|error| {
        let first = serde_json::Deserializer::from_str(text).into_iter::<Value>().next();
        let other = first.and_then(Result::ok).filter(|value| !value.is_object());
        Problem { other, ..problem(error) }
    })?;
    if in_array {
        return Ok(row); // the array's index already saw commas and brackets in their places
    }
    parser.end().map_err(problem)?;
    Ok(row)
}

/// Where in `text` a parser error lies. The parser counts from 1, and takes a line end for column 0
/// of the next line.
fn offset(text: &str, error: &serde_json::Error) -> usize {
    let before = text.split_inclusive('\n').take(error.line().saturating_sub(1)).map(str::len);
    (before.sum::<usize>() + error.column()).saturating_sub(1).min(text.len())
}

struct Wanted<'a>(Option<&'a [String]>);

impl<'de> DeserializeSeed<'de> for Wanted<'_> {
    type Value = Row;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut row = Row::new();
        while let Some(Key(key)) = map.next_key()? {
            if self.0.is_some_and(|wanted| !wanted.iter().any(|name| *name == key)) {
                map.next_value::<IgnoredAny>()?;
            } else if row.contains_key(key.as_ref()) {
                return Err(A::Error::custom(format!(
                    "the column `{key}` stands twice in the row"
                )));
            } else {
                let Unique(value) = map.next_value()?;
                row.insert(key.into_owned(), value);
            }
        }
        Ok(row)
    }
}

/// A JSON value in which no object has a key twice: which of the two was meant, nobody can tell.
struct Unique(Value);

impl<'de> serde::Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueVisitor)
    }
}

struct UniqueVisitor;

impl<'de> Visitor<'de> for UniqueVisitor {
    type Value = Unique;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Unique, E> {
        Ok(Unique(Value::Null))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_string<E>(self, value: String) -> Result<Unique, E> {
        Ok(Unique(value.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Unique, A::Error> {
        let mut list = Vec::new();
        while let Some(Unique(value)) = seq.next_element()? {
            list.push(value);
        }
        Ok(Unique(Value::Array(list)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Unique, A::Error> {
        let mut object = Row::new();
        while let Some(Key(key)) = map.next_key()? {
            if object.contains_key(key.as_ref()) {
                return Err(A::Error::custom(format!("the key `{key}` stands twice in an object")));
            }
            let Unique(value) = map.next_value()?;
            object.insert(key.into_owned(), value);
        }
        Ok(Unique(Value::Object(object)))
    }
}

/// A column's name, borrowed from the text unless it has escapes.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);
