#![doc = include_str!("../README.md")]

mod cache_dir;
mod card;
mod config;
mod error;
mod fault;
mod llama_factory;
mod shape;
mod source;
pub mod suggest;

mod check;
mod clean;
mod dataset;
mod diagnostic;
mod examples;
mod facts;
mod fingerprint;
mod mix;
mod prepared;
mod stats;

mod ledger;
mod order;
mod prefetch;
mod rng;
mod stream;
mod window;

pub use cache_dir::cache_dir;
pub use card::Card;
pub use check::{Alike, CheckReport};
pub use clean::{CleanKnobs, Cleaning, Pair};
pub use config::{DatasetConfig, HubRepo, Patterns};
pub use dataset::{Dataset, Part, RowKnobs};
pub use diagnostic::{Diagnostic, Level};
pub use error::{DataError, ErrorKind};
pub use examples::Examples;
pub use fault::{Fault, Place, RowError};
pub use fingerprint::fingerprint;
pub use ledger::Ledger;
pub use prepared::{Prepared, PreparedKey, Written};
pub use shape::Shape;
pub use source::{FileKnobs, Format, Row, TextRows, expand};
pub use stats::{Histogram, Stats};
pub use stream::{OnBadRow, Packing, Stream, StreamKnobs};

/// The vocabulary of tokens, so that this crate alone takes a file to batches.
pub use tunesmith_tokens as tokens;
