//! Weights on disk: safetensors files, one or sharded, read by memory map and written whole.

mod checkpoint;
mod file;
mod load;
mod save;

pub use file::{TensorFile, write_tensors};
pub use load::{LoadOptions, Trainable};
