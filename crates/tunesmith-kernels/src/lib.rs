#![doc = include_str!("../README.md")]

mod context;
mod error;
mod ffi;
mod node;

pub use context::use_fast_fp32_matmul;
pub use error::KernelError;
pub use node::attach_node;
