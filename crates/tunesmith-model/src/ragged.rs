//! The input of a forward pass: documents laid one after the other in a flat stream. No pad token exists.

use tch::{Device, Tensor};

/// `N` tokens of several documents, on the model's device.
#[derive(Debug)]
pub struct Ragged {
    /// Token ids, (N), i64.
    pub tokens: Tensor,
    /// Position of each token in its document, (N), i64.
    pub positions: Tensor,
    /// Tokens of each document, in order; sums to N.
    pub lens: Vec<i64>,
}

impl Ragged {
    /// Documents given by their ids; positions count from 0 in each.
    pub fn new(docs: &[&[u32]], device: Device) -> Self {
        Self::from_positions(docs, &vec![0; docs.len()], device)
    }

    /// Documents whose first token stands at `starts[i]`: continuations of what a [`KvCache`](crate::KvCache) holds.
    pub fn from_positions(docs: &[&[u32]], starts: &[i64], device: Device) -> Self {
        let tokens: Vec<i64> =
            docs.iter().flat_map(|doc| doc.iter().map(|&id| i64::from(id))).collect();
        let positions: Vec<i64> = docs
            .iter()
            .zip(starts)
            .flat_map(|(doc, &start)| start..start + doc.len() as i64)
            .collect();
        Self {
            tokens: Tensor::from_slice(&tokens).to_device(device),
            positions: Tensor::from_slice(&positions).to_device(device),
            lens: docs.iter().map(|doc| doc.len() as i64).collect(),
        }
    }
}
