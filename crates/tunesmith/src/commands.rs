//! One file per command.

pub(crate) mod chat;
pub(crate) mod check;
pub(crate) mod data;
pub(crate) mod doctor;
pub(crate) mod export;
pub(crate) mod finetune;
pub(crate) mod generate;
pub(crate) mod merge;
pub(crate) mod score;
