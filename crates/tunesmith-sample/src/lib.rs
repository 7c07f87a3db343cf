#![doc = include_str!("../README.md")]

mod generate;
mod sampler;
mod stop;

pub use generate::{FinishReason, GenerateError, Generation, generate};
pub use sampler::SamplerKnobs;
