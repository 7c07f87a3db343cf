#![doc = include_str!("../README.md")]

mod answer;
mod engine;
mod generate;
mod sampler;
mod stop;

pub use engine::Engine;
pub use generate::{FinishReason, GenerateError, Generation, Request, generate, generate_by};
pub use sampler::SamplerKnobs;
