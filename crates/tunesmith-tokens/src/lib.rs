#![doc = include_str!("../README.md")]

mod batch;
mod example;
mod message;
mod source;

pub use batch::{Batch, Doc, IGNORE};
pub use example::Example;
pub use message::{Conversation, Message, Sample};
pub use source::{BatchSource, Cursor, SourceError};
