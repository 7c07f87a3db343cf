#![doc = include_str!("../README.md")]

mod adamw;
mod checkpoint;
mod error;
mod evaluate;
mod forward;
mod objective;
mod schedule;
mod spike;
mod step;
mod trainer;

pub use adamw::{AdamW, AdamWKnobs, Gradients, Master, MomentKind};
pub use checkpoint::{
    Best, Checkpoint, Disk, Keep, Op, RunState, Snapshot, Verdict, check_space, commit_dir,
    free_bytes, is_writable,
};
pub use error::TrainError;
pub use evaluate::{Evaluation, Judged, evaluate};
pub use forward::{Reading, ragged};
pub use objective::{
    Classify, Confusion, DocKey, Kto, LossKnobs, Metric, Objective, PAIR_LOSSES, PairLoss, Pairs,
    PerUnit, Preference, Reference, Reward, Sft, Term, Terms, Unit,
};
pub use schedule::{Decay, Schedule};
pub use spike::{OnSpike, Recent, Spike};
pub use step::{Measured, StepOutcome, measure, step};
pub use trainer::{Event, Outcome, Run, StepRecord, TrainKnobs, train};
