//! The input of a forward pass: documents laid one after the other in a flat stream. No pad token exists.

use tch::{Device, Tensor};
use tunesmith_kernels::Prefix;

/// `n` rows, rounded up to what matrix products are made for.
///
/// # Why
/// oneDNN compiles a program for every shape of a product and keeps the last 1,024 of them. Ragged batches have a new
/// number of rows every time: 300 steps of a model of 2 M weights took 1.4 GB instead of 0.2, and 1.2 times as long.
/// At most 63 rows more, of a thousand, are the price.
pub(crate) fn rounded(n: i64) -> i64 {
    let step = if n < 256 { 16 } else { 64 };
    (n + step - 1) / step * step
}

/// `x` with rows of zeros below, `n` in all.
pub(crate) fn with_zeros(x: &Tensor, n: i64) -> Tensor {
    let mut size = x.size();
    size[0] = n - size[0];
    Tensor::cat(&[x, &Tensor::zeros(size, (x.kind(), x.device()))], 0)
}

/// `N` tokens of several documents, on the model's device.
#[derive(Debug)]
pub struct Ragged {
    /// Token ids, (N), i64.
    pub tokens: Tensor,
    /// Position of each token in its document, (N), i64.
    pub positions: Tensor,
    /// Tokens of each document, in order; sums to N.
    pub lens: Vec<i64>,
    /// What each document continues: it sees the first tokens of another one before its own. Empty: none does.
    pub prefixes: Vec<Option<Prefix>>,
    /// The largest token id, known before it went to the device, where a look at it would have to wait.
    pub(crate) max_token: i64,
    /// The largest position.
    pub(crate) max_position: i64,
}

impl Ragged {
    /// Documents one after the other: ids and positions of all, (N), and the length of each.
    pub fn flat(tokens: &[i64], positions: &[i64], lens: Vec<i64>, device: Device) -> Self {
        let max = |values: &[i64]| values.iter().copied().max().unwrap_or(0);
        let to_device = |values: &[i64]| Tensor::from_slice(values).to_device(device);
        Self {
            tokens: to_device(tokens),
            positions: to_device(positions),
            lens,
            prefixes: Vec::new(),
            max_token: max(tokens),
            max_position: max(positions),
        }
    }

    /// The same documents, some of which continue others; their positions must say so.
    #[must_use]
    pub fn continuing(self, prefixes: Vec<Option<Prefix>>) -> Self {
        let continues = prefixes.iter().any(Option::is_some);
        Self { prefixes: if continues { prefixes } else { Vec::new() }, ..self }
    }

    /// Documents given by their ids; positions count from 0 in each.
    pub fn new(docs: &[&[u32]], device: Device) -> Self {
        Self::from_positions(docs, &vec![0; docs.len()], device)
    }

    /// The same with a last document of token 0 that fills up to `n` tokens; nobody reads what becomes of it.
    pub(crate) fn filled(&self, n: i64) -> Self {
        let more = n - self.tokens.size()[0];
        // All of it stands at position 0, which every model has.
        let positions = Tensor::zeros([more], (self.positions.kind(), self.positions.device()));
        let mut lens = self.lens.clone();
        lens.push(more);
        let mut prefixes = self.prefixes.clone();
        prefixes.resize(if prefixes.is_empty() { 0 } else { lens.len() }, None);
        Self {
            tokens: with_zeros(&self.tokens, n),
            positions: Tensor::cat(&[&self.positions, &positions], 0),
            lens,
            prefixes,
            max_token: self.max_token,
            max_position: self.max_position,
        }
    }

    /// The same on another device.
    pub(crate) fn on(&self, device: Device) -> Self {
        Self {
            tokens: self.tokens.to_device(device),
            positions: self.positions.to_device(device),
            lens: self.lens.clone(),
            prefixes: self.prefixes.clone(),
            ..*self
        }
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
        let lens = docs.iter().map(|doc| doc.len() as i64).collect();
        Self::flat(&tokens, &positions, lens, device)
    }
}
