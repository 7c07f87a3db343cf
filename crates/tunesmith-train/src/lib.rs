#![doc = include_str!("../README.md")]

mod adamw;
mod checkpoint;
mod error;
mod evaluate;
mod forward;
mod objective;
mod schedule;
mod step;
mod trainer;

pub use adamw::{AdamW, AdamWKnobs, Gradients};
pub use checkpoint::{Checkpoint, RunState, commit_dir, free_bytes, is_writable};
pub use error::TrainError;
pub use evaluate::{Evaluation, evaluate};
pub use forward::{Reading, ragged};
pub use objective::{Metric, Objective, Sft, Term, Terms, Unit};
pub use schedule::{Decay, Schedule};
pub use step::{StepOutcome, step};
pub use trainer::{Event, Outcome, Run, StepRecord, TrainKnobs, train};
