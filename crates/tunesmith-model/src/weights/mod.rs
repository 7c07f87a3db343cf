//! Weights on disk: safetensors files, one or sharded, or a GGUF file; read by memory map and written whole.

mod checkpoint;
mod file;
mod load;
mod save;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use file::map_file;
pub use file::{TensorFile, write_tensors, write_tensors_into};
pub use load::{LoadOptions, Trainable};
pub(crate) use save::copy_companions;
