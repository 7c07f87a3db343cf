//! The lookup as a node: the gradient of the rows that were read goes straight into the table's sum, where autograd
//! would make a table of zeros for it (113 MB for SmolLM2-135M) and add that.

use super::Embedding;
use crate::{Pass, linear::Leaf, node};
use tch::{Kind, Tensor};

impl Embedding {
    /// As [`Embedding::forward`], fused; `None` where there is no fused form.
    pub(super) fn lookup(&self, ids: &Tensor, pass: &Pass) -> Option<Tensor> {
        let table = &self.weight.at(pass).tensor;
        if !node::fits(table, pass) {
            return None;
        }
        let leaf = Leaf::of(self.weight.at(pass));
        let grad = leaf.grad?;
        let x = tch::no_grad(|| Tensor::embedding(table, ids, -1, false, false));
        let ids = ids.shallow_clone();
        node::attach(c"embedding", table, &[], &x, move |dy, _| {
            let dy = dy.to_kind(Kind::Float);
            grad.accumulate_with(|sum| _ = sum.index_add_(0, &ids, &dy));
            None
        });
        Some(x)
    }
}
