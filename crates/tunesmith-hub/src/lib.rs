#![doc = include_str!("../README.md")]

mod config;
mod error;
mod fetch;
mod hub;
mod layout;
mod listing;
mod names;
mod progress;
mod remote;
mod select;

pub use config::{HubConfig, Token};
pub use error::HubError;
pub use hub::Hub;
