//! Rows of a vocabulary that an adapter trains on their own (PEFT's `trainable_token_indices`): a few tokens get other
//! rows of the embedding or of the head, and the table itself stays as it is, without a gradient.
//!
//! Shapes: N tokens, V vocabulary, C width, T trained tokens.

use crate::{
    Param,
    linear::{Dx, Leaf},
};
use std::rc::Rc;
use tch::{Device, Tensor};

/// The rows that stand in a table's place for one adapter.
#[derive(Debug)]
pub(crate) struct TokenRows {
    pub(crate) rows: Rc<Param>, // (T, C), fp32
    ids: Tensor,                // (T): the tokens
    slots: Tensor,              // (V): where a token is among them, or −1
}

impl TokenRows {
    /// `rows` for the tokens `ids`, each below `vocab_size` and none twice.
    pub(crate) fn new(rows: Rc<Param>, ids: &[i64], vocab_size: i64, device: Device) -> Self {
        let mut slots = vec![-1i64; vocab_size as usize];
        for (slot, id) in (0i64..).zip(ids) {
            slots[*id as usize] = slot;
        }
        let [ids, slots] = [ids, &slots].map(|x| Tensor::from_slice(x).to_device(device));
        Self { rows, ids, slots }
    }

    /// `looked_up` (N, C) of the tokens `ids` (N), with the trained rows where they belong.
    pub(crate) fn put_rows(&self, ids: &Tensor, looked_up: &Tensor) -> Tensor {
        let slots = self.slots.index_select(0, ids); // (N)
        let rows = Tensor::embedding(&self.rows.tensor, &slots.clamp_min(0), -1, false, false);
        rows.to_kind(looked_up.kind()).where_self(&slots.ge(0).unsqueeze(1), looked_up)
    }

    /// Scores `y` (N, V) of hidden states `x` (N, C) by the table `w` (V, C), with those of the trained rows in their
    /// columns.
    pub(crate) fn put_columns(&self, w: &Tensor, x: &Tensor, y: &Tensor) -> Tensor {
        let change = self.rows.tensor.to_kind(x.kind()) - w.index_select(0, &self.ids); // (T, C)
        y.index_add(1, &self.ids, &x.matmul(&change.tr()))
    }

    /// Writes the rows into a table (V, C).
    pub(crate) fn merge(&self, table: &Tensor) {
        let rows = self.rows.tensor.detach().to_kind(table.kind());
        let _ = table.shallow_clone().index_copy_(0, &self.ids, &rows);
    }

    pub(crate) fn op(&self) -> TokenRowsOp {
        TokenRowsOp { rows: Leaf::of(&self.rows), ids: self.ids.shallow_clone() }
    }
}

/// [`TokenRows`] of a head in one pass, for coarse nodes: `Send`, without autograd.
#[derive(Debug)]
pub(crate) struct TokenRowsOp {
    pub(crate) rows: Leaf,
    ids: Tensor,
}

impl TokenRowsOp {
    /// As [`TokenRows::put_columns`], in place.
    pub(crate) fn put_columns_(&self, w: &Tensor, x: &Tensor, y: &mut Tensor) {
        let _ = y.index_add_(1, &self.ids, &x.matmul(&self.change(w).tr()));
    }

    /// Adds to the rows' gradient, and to `dx` what they change beside `w` (V, C), which adds its own part.
    pub(crate) fn backward(&self, w: &Tensor, x: &Tensor, dy: &Tensor, dx: &mut Dx) {
        let dy = dy.index_select(1, &self.ids); // (N, T)
        self.rows.accumulate_product(&dy, x);
        if matches!(dx, Dx::Sum(_)) {
            dx.add_product(&dy, &self.change(w));
        }
    }

    /// What the rows are more than those of the table, (T, C). Of a fresh adapter it is zero, and its scores are the
    /// base's to the bit, which a product of these rows alone need not give.
    fn change(&self, w: &Tensor) -> Tensor {
        self.rows.tensor.detach().to_kind(w.kind()) - w.index_select(0, &self.ids)
    }
}
