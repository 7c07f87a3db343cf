//! The token embedding, and what adapters make of it.
//!
//! Shapes: N tokens, V vocabulary, C width, R rank.
//!
//! LoRA on a table E (V, C): the row of a token grows by s·(B A)ᵀ, A (R, V), B (C, R). DoRA scales each of the C columns of
//! Eᵀ + s·BA to a learned length. An adapter that trains a few tokens ([`TokenRows`]) has their rows instead.

mod node;

use crate::{Param, Pass, param::Place, token_rows::TokenRows};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A table (V, C), looked up by token id.
#[derive(Debug)]
pub(crate) struct Embedding {
    pub(crate) name: String,
    pub(crate) weight: Place,
    loras: Vec<(usize, EmbeddingLora)>, // by the adapter's number
    rows: Vec<(usize, TokenRows)>,      // likewise; never beside a LoRA
}

/// The adapter of the embedding.
#[derive(Debug)]
pub(crate) struct EmbeddingLora {
    pub(crate) a: Rc<Param>,                 // (R, V)
    pub(crate) b: Rc<Param>,                 // (C, R)
    pub(crate) magnitude: Option<Rc<Param>>, // (C): DoRA
    pub(crate) scale: f64,
}

impl Embedding {
    pub(crate) fn new(name: &str, weight: Rc<Param>) -> Self {
        Self { name: name.into(), weight: Place::new(weight), loras: Vec::new(), rows: Vec::new() }
    }

    /// ids (N), i64 → (N, C).
    pub(crate) fn forward(&self, ids: &Tensor, pass: &Pass) -> Tensor {
        let table = &self.weight.at(pass).tensor;
        let rows = self.lookup(ids, pass).unwrap_or_else(|| look_up(table, ids));
        if let Some(trained) = self.rows_of(pass.adapter) {
            return trained.put_rows(ids, &rows);
        }
        let Some(lora) = self.lora(pass.adapter) else { return rows };
        let kind = rows.kind();
        let low = look_up(&lora.a.tensor.tr(), ids).to_kind(kind); // (N, R)
        let delta = low.matmul(&lora.b.tensor.to_kind(kind).tr()) * lora.scale;
        let Some(magnitude) = &lora.magnitude else { return rows + delta };
        let gain = (&magnitude.tensor / lora.norm(table)).to_kind(kind); // (C)
        &gain * rows + &gain * delta
    }

    /// The table of the base.
    pub(crate) fn base(&self) -> &Rc<Param> {
        self.weight.base()
    }

    /// V and C.
    pub(crate) fn size(&self) -> [i64; 2] {
        let size = self.base().tensor.size();
        [size.first().copied().unwrap_or(0), size.last().copied().unwrap_or(0)]
    }

    /// Gives the adapter of this number its part.
    pub(crate) fn attach(&mut self, adapter: usize, lora: EmbeddingLora) {
        self.loras.push((adapter, lora));
    }

    /// Lets the adapter of this number have rows of its own.
    pub(crate) fn attach_rows(&mut self, adapter: usize, rows: TokenRows) {
        self.rows.push((adapter, rows));
    }

    /// Takes the part of an adapter away.
    pub(crate) fn detach(&mut self, adapter: usize) {
        self.rows.retain(|(number, _)| *number != adapter);
        self.loras.retain(|(number, _)| *number != adapter);
        self.weight.restore(adapter);
    }

    /// Writes an adapter's part into the base's table.
    pub(crate) fn merge(&mut self, adapter: usize) {
        let table = &self.base().tensor;
        if let Some(lora) = self.lora(Some(adapter)) {
            let mut merged = lora.changed(table);
            if let Some(magnitude) = &lora.magnitude {
                merged *= (&magnitude.tensor / lora.norm(table)).unsqueeze(1);
            }
            table.shallow_clone().copy_(&merged.tr());
        }
        self.weight.merge(adapter);
        if let Some(rows) = self.rows_of(Some(adapter)) {
            rows.merge(&self.base().tensor);
        }
    }

    pub(crate) fn is_changed_by(&self, adapter: usize) -> bool {
        self.lora(Some(adapter)).is_some()
            || self.rows_of(Some(adapter)).is_some()
            || self.weight.is_changed_by(adapter)
    }

    /// The rows that an adapter has of its own.
    pub(crate) fn rows_of(&self, adapter: Option<usize>) -> Option<&TokenRows> {
        self.rows.iter().find(|(number, _)| Some(*number) == adapter).map(|(_, rows)| rows)
    }

    fn lora(&self, adapter: Option<usize>) -> Option<&EmbeddingLora> {
        self.loras.iter().find(|(number, _)| Some(*number) == adapter).map(|(_, lora)| lora)
    }
}

impl EmbeddingLora {
    /// Eᵀ + s·BA, (C, V), fp32.
    fn changed(&self, table: &Tensor) -> Tensor {
        table.to_kind(Kind::Float).tr() + self.b.tensor.matmul(&self.a.tensor) * self.scale
    }

    /// Lengths over the vocabulary, (C), fp32, without a gradient.
    pub(crate) fn norm(&self, table: &Tensor) -> Tensor {
        tch::no_grad(|| self.changed(table).norm_scalaropt_dim(2, [1i64].as_slice(), false))
    }
}

fn look_up(table: &Tensor, ids: &Tensor) -> Tensor {
    Tensor::embedding(table, ids, -1, false, false)
}
