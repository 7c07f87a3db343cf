#![doc = include_str!("../README.md")]

mod adamw;
mod checkpoint;
mod error;
mod evaluate;
mod forward;
mod objective;
mod schedule;
mod trainer;

pub use adamw::{AdamW, AdamWKnobs, Gradients};
pub use checkpoint::{Checkpoint, RunState, commit_dir, free_bytes, is_writable};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use forward::ragged;
pub use objective::{Metric, Objective, Sft, Terms};
pub use schedule::{Decay, Schedule};
pub use trainer::{Event, Outcome, Run, StepRecord, TrainKnobs, train};
