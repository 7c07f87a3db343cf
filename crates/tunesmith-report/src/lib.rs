#![doc = include_str!("../README.md")]

pub mod format;
pub mod html;
pub mod metrics;
pub mod progress;
pub mod share;
pub mod system;
pub mod tensorboard;

pub use html::{Report, Section};
pub use metrics::{MetricsError, MetricsLog, Number, Record};
pub use progress::{Progress, Update};
pub use system::Machine;
pub use tensorboard::EventWriter;
