#![doc = include_str!("../README.md")]

mod batch;
mod encode;
mod example;
mod mask;
mod message;
mod neutral;
mod outline;
pub mod pack;
mod source;
mod template;
mod tokenizer;

pub use batch::{Batch, Doc, IGNORE};
pub use encode::{
    Certificate, CertificateError, EncodeError, EncodeKnobs, Encoder, Finding, TrainOn, Truncate,
};
pub use example::Example;
pub use message::{Conversation, Message, Sample};
pub use source::{BatchSource, Cursor, SourceError};
pub use template::{MAX_OUTPUT, Rendered, Template, TemplateError, special_tokens};
pub use tokenizer::{DecodeStream, Tokenizer, TokenizerError, Tokens};
