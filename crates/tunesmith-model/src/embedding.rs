//! The token embedding, and what adapters make of it.
//!
//! Shapes: N tokens, V vocabulary, C width.

mod node;

use crate::{Param, Pass, param::Place};
use std::rc::Rc;
use tch::Tensor;

/// A table (V, C), looked up by token id.
#[derive(Debug)]
pub(crate) struct Embedding {
    weight: Place,
}

impl Embedding {
    pub(crate) fn new(weight: Rc<Param>) -> Self {
        Self { weight: Place::new(weight) }
    }

    /// ids (N), i64 → (N, C).
    pub(crate) fn forward(&self, ids: &Tensor, pass: &Pass) -> Tensor {
        self.lookup(ids, pass).unwrap_or_else(|| {
            Tensor::embedding(&self.weight.at(pass).tensor, ids, -1, false, false)
        })
    }

    /// The table of the base.
    pub(crate) fn base(&self) -> &Rc<Param> {
        self.weight.base()
    }
}
