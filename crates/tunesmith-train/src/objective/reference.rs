//! The reference of a preference loss: what the model said before it was trained.
//!
//! | kind | costs | right for |
//! |---|---|---|
//! | adapter off | a second forward pass | adapters: base and reference are one |
//! | a frozen copy | that, and a second model in memory | full fine-tuning |
//! | a table | nothing per step; one pass over the data before | both, where the data are read more than once |

use super::documents::doc_logps;
use crate::{Reading, TrainError};
use std::collections::HashMap;
use tch::Tensor;
use tunesmith_model::{Pass, Transformer};
use tunesmith_tokens::Batch;

/// A document's row, and its place in its group, counted from 0.
pub type DocKey = (u64, u32);

/// Where reference log-probabilities come from.
#[derive(Debug)]
pub enum Reference {
    /// The model itself, without its adapter.
    AdapterOff,
    /// The model itself, with another of its adapters: where training goes on with one, that one as it was.
    Adapter(usize),
    /// Another model.
    Copy(Box<Transformer>),
    /// ln π_ref of each document's trained tokens, by row and place in its group.
    Table(HashMap<DocKey, f32>),
}

impl Reference {
    /// ln π_ref of each document, (D), fp32, without a gradient.
    ///
    /// # Errors
    /// What the model says; a row that the table does not have.
    pub fn logps(&self, model: &Transformer, batch: &Batch) -> Result<Tensor, TrainError> {
        let _no_grad = tch::no_grad_guard();
        match self {
            Self::AdapterOff => Ok(doc_logps(&Reading::new(model, batch, &mut Pass::base())?)),
            Self::Adapter(number) => {
                let mut pass = Pass { adapter: Some(*number), ..Pass::default() };
                Ok(doc_logps(&Reading::new(model, batch, &mut pass)?))
            }
            Self::Copy(copy) => Ok(doc_logps(&Reading::new(copy, batch, &mut Pass::default())?)),
            Self::Table(table) => {
                let logps = keys(batch).map(|key| {
                    let missing = TrainError::NoReference { row: key.0 };
                    table.get(&key).copied().ok_or(missing)
                });
                let logps = logps.collect::<Result<Vec<f32>, _>>()?;
                Ok(Tensor::from_slice(&logps).to_device(model.device()))
            }
        }
    }

    /// What a table holds of `batch`: the log-probabilities of `model` as it is.
    ///
    /// # Errors
    /// What the model says.
    pub fn tabulate(model: &Transformer, batch: &Batch) -> Result<Vec<(DocKey, f32)>, TrainError> {
        let _no_grad = tch::no_grad_guard();
        let logps = doc_logps(&Reading::new(model, batch, &mut Pass::default())?);
        let logps = Vec::<f32>::try_from(logps)?;
        Ok(keys(batch).zip(logps).collect())
    }
}

/// Row, and place in its group, of each document.
fn keys(batch: &Batch) -> impl Iterator<Item = DocKey> + '_ {
    let mut last = None;
    batch.docs.iter().map(move |doc| {
        let place = match last {
            Some((group, place)) if group == doc.group => place + 1,
            _ => 0,
        };
        last = Some((doc.group, place));
        (doc.row, place)
    })
}
