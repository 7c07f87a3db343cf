#![doc = include_str!("../README.md")]

mod adamw;
mod attention;
mod blockwise;
mod codebook;
mod context;
mod cross_entropy;
pub mod cuda;
mod element;
mod error;
mod ffi;
mod gemm;
mod matvec;
mod node;
mod parallel;
pub mod random;
mod rms_norm;
mod rotary;
mod simd;
mod square_sum;
mod stochastic;
mod swiglu;
#[cfg(test)]
mod twin;

pub use adamw::{AdamWParam, AdamWStep, Moments, Weight, adamw_};
pub use attention::{AttentionShape, Prefix, attention, attention_backward, attention_cached};
pub use blockwise::{Blockwise, dynamic_codebook};
pub use codebook::{dequantise_blocks, quantise_blocks};
pub use context::use_fast_fp32_matmul;
pub use cross_entropy::{LabelScores, label_scores, label_scores_backward_};
pub use element::{attends, supports};
pub use error::KernelError;
pub use matvec::{matvec, matvec_all, prefers_matvec};
pub use node::attach_node;
pub use rms_norm::{rms_norm, rms_norm_backward};
pub use rotary::rotate_;
pub use square_sum::square_sum;
pub use swiglu::{swiglu, swiglu_backward_};
