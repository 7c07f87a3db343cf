#![doc = include_str!("../README.md")]

mod config;
mod error;
mod fault;
mod shape;
mod source;
mod suggest;

mod check;
mod dataset;
mod examples;
mod fingerprint;

mod ledger;
mod order;
mod prefetch;
mod rng;
mod stream;
mod window;

pub use check::CheckReport;
pub use config::{DatasetConfig, HubRepo, Patterns};
pub use dataset::{Dataset, RowKnobs};
pub use error::{DataError, ErrorKind};
pub use examples::Examples;
pub use fault::{Fault, Place, RowError};
pub use fingerprint::fingerprint;
pub use ledger::Ledger;
pub use shape::Shape;
pub use source::{Row, expand};
pub use stream::{OnBadRow, Packing, Stream, StreamKnobs};

/// The vocabulary of tokens, so that this crate alone takes a file to batches.
pub use tunesmith_tokens as tokens;
