#![doc = include_str!("../README.md")]

mod attention;
mod cache;
pub mod config;
mod error;
pub mod family;
mod head;
mod linear;
mod main_grad;
mod mlp;
mod norm;
mod param;
mod ragged;
mod rope;
mod transformer;
mod weights;

pub use cache::KvCache;
pub use config::Config;
pub use error::ModelError;
pub use head::{Head, TokenScores};
pub use main_grad::MainGrad;
pub use param::Param;
pub use ragged::Ragged;
pub use transformer::Transformer;
pub use weights::{LoadOptions, TensorFile, write_tensors};
