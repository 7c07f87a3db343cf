#![doc = include_str!("../README.md")]

mod adapter;
mod attention;
mod cache;
pub mod config;
mod decode;
mod embedding;
mod error;
pub mod family;
pub mod gguf;
mod head;
mod linear;
mod lora;
mod main_grad;
mod mlp;
mod node;
mod norm;
mod param;
mod pass;
mod quant;
mod ragged;
mod random;
mod recompute;
mod rope;
mod token_rows;
mod transformer;
mod weights;

pub use adapter::{
    Adapter, Bias, LoraConfig, LoraInit, Modules, Pattern, TokenIndices, adapter_labels,
    adapter_storage, adapter_vocab_size, base_hash,
};
pub use cache::KvCache;
pub use config::Config;
pub use error::ModelError;
pub use head::{Head, TokenScores};
pub use main_grad::MainGrad;
pub use param::{Param, Role};
pub use pass::{DropoutKey, Pass};
pub use quant::Storage;
pub use ragged::Ragged;
pub use recompute::Recompute;
pub use transformer::Transformer;
pub use tunesmith_kernels::Prefix;
pub use weights::{LoadOptions, TensorFile, Trainable, write_tensors, write_tensors_into};
