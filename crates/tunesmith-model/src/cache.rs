//! Keys and values of what has been read, so that each token is computed once.
//!
//! Shapes: S sequences, K key/value heads, D head size, capacity in tokens.

use crate::{Config, decode::Recorded};
use tch::{Device, Kind, Tensor};

/// Static buffers for `S` sequences of at most `capacity` tokens each.
#[derive(Debug)]
pub struct KvCache {
    layers: Vec<[Tensor; 2]>, // k and v: (S, K, capacity, D)
    lens: Vec<i64>,
    capacity: i64,
    /// While each sequence reads one token whose place only the device knows: which keys each sees, (S, 1, 1, visible).
    pub(crate) seen: Option<Tensor>,
    /// How such a step was made the last time.
    pub(crate) recorded: Option<Recorded>,
}

impl KvCache {
    /// An empty cache for `n_seq` sequences.
    pub fn new(config: &Config, n_seq: usize, capacity: usize, kind: Kind, device: Device) -> Self {
        let size = [n_seq as i64, config.n_kv_head, capacity as i64, config.head_dim];
        // On a GPU a step may look beyond what is held, under a mask: 0 · NaN would still be NaN.
        let buffer = || match device.is_cuda() {
            true => Tensor::zeros(size, (kind, device)),
            false => Tensor::empty(size, (kind, device)),
        };
        Self {
            layers: (0..config.n_layer).map(|_| [buffer(), buffer()]).collect(),
            lens: vec![0; n_seq],
            capacity: capacity as i64,
            seen: None,
            recorded: None,
        }
    }

    /// Tokens held of each sequence.
    pub fn lens(&self) -> &[i64] {
        &self.lens
    }

    /// Tokens that fit per sequence.
    pub fn capacity(&self) -> usize {
        self.capacity as usize
    }

    /// Forgets sequence `seq`, so that another can take its place.
    pub fn clear(&mut self, seq: usize) {
        self.lens[seq] = 0;
    }

    /// Appends `k` and `v` (T, K, D) of sequence `seq` in `layer`; returns all its keys and values (1, K, len + T, D).
    /// The length grows only with [`advance`](Self::advance), after the last layer.
    pub(crate) fn append(
        &mut self,
        layer: usize,
        seq: usize,
        k: &Tensor,
        v: &Tensor,
    ) -> [Tensor; 2] {
        let (old, new) = (self.lens[seq], k.size()[0]);
        let write = |buffer: &Tensor, x: &Tensor| {
            let buffer = buffer.narrow(0, seq as i64, 1);
            buffer.narrow(2, old, new).copy_(&x.transpose(0, 1).unsqueeze(0));
            buffer.narrow(2, 0, old + new)
        };
        let [k_buffer, v_buffer] = &self.layers[layer];
        [write(k_buffer, k), write(v_buffer, v)]
    }

    /// Writes one token's `k` and `v` (S, K, D) of every sequence at `positions` (S), which only the device knows; returns
    /// the first `visible` keys and values of each, (S, K, visible, D).
    pub(crate) fn put(
        &self,
        layer: usize,
        positions: &Tensor,
        [k, v]: [&Tensor; 2],
        visible: i64,
    ) -> [Tensor; 2] {
        let [n_seq, n_kv, d] = [0, 1, 2].map(|i| k.size()[i]);
        let at = positions.view([n_seq, 1, 1, 1]).expand([n_seq, n_kv, 1, d], false);
        let [k_buffer, v_buffer] = &self.layers[layer];
        [(k_buffer, k), (v_buffer, v)].map(|(buffer, x)| {
            let _ = buffer.shallow_clone().scatter_(2, &at, &x.unsqueeze(2));
            buffer.narrow(2, 0, visible)
        })
    }

    /// Keys and values of `layer`, (S, K, capacity, D) each.
    pub(crate) fn layer(&self, layer: usize) -> [&Tensor; 2] {
        let [k, v] = &self.layers[layer];
        [k, v]
    }

    /// Counts the tokens of a finished forward pass.
    pub(crate) fn advance(&mut self, new: &[i64]) {
        for (len, new) in self.lens.iter_mut().zip(new) {
            *len += new;
        }
    }
}
