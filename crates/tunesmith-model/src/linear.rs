//! A linear layer: y = x Wᵀ + b, and what adapters add to it. Adapters and the storage of W are properties of this type;
//! nothing around it knows of them.
//!
//! Shapes: N tokens, I inputs, O outputs, R rank of an adapter.
//!
//! [`Linear::forward`] is the plain twin, in ordinary autograd. A coarse node takes a [`LinearOp`] instead: forward and
//! backward by hand, gradients straight into the parameters' [`MainGrad`](crate::MainGrad)s.

mod op;

use crate::{
    Pass,
    lora::Lora,
    node,
    param::{Init, Param, Place, Role, Spec, Supply, dense},
    quant::Quantised,
    token_rows::TokenRows,
};
use op::WeightOp;
pub(crate) use op::{Dx, Leaf, LinearOp, Saved};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// A projection, stored `[O, I]`, or `[I, O]` where the checkpoint has it so (GPT-2's Conv1D).
#[derive(Debug)]
pub(crate) struct Linear {
    /// The module's name: its weight's, without `.weight`.
    pub(crate) name: String,
    pub(crate) weight: Weight,
    bias: Option<Place>,
    pub(crate) transposed: bool,
    pub(crate) n_in: i64,
    pub(crate) n_out: i64,
    loras: Vec<(usize, Lora)>,     // by the adapter's number
    rows: Vec<(usize, TokenRows)>, // likewise; of a head
}

/// How the matrix lies in memory. Under an adapter it is frozen.
#[derive(Debug)]
pub(crate) enum Weight {
    /// As it is, in the model's dtype.
    Dense(Place),
    /// In few bits, frozen; products see it in the stream's dtype.
    Quantised { codes: Quantised, kind: Kind },
}

/// The shape of a [`Linear`], for building it.
pub(crate) struct Shape {
    pub(crate) n_in: i64,
    pub(crate) n_out: i64,
    pub(crate) bias: bool,
    pub(crate) transposed: bool,
    pub(crate) init_std: f64,
}

impl Linear {
    pub(crate) fn build(name: &str, shape: &Shape, supply: &mut Supply) -> Self {
        let Shape { n_in, n_out, bias, transposed, init_std } = *shape;
        let size = if transposed { vec![n_in, n_out] } else { vec![n_out, n_in] };
        let weight = supply(Spec {
            name: format!("{name}.weight"),
            role: Role::Projection,
            shape: size,
            init: Init::Normal { std: init_std },
        });
        let bias = bias.then(|| {
            let spec = Spec {
                name: format!("{name}.bias"),
                role: Role::Bias,
                shape: vec![n_out],
                init: Init::Zeros,
            };
            Place::new(dense(supply, spec))
        });
        Self {
            name: name.into(),
            weight,
            bias,
            transposed,
            n_in,
            n_out,
            loras: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// A layer without bias around a weight `[O, I]` that is there already.
    pub(crate) fn around(name: &str, weight: Rc<Param>) -> Self {
        let size = weight.tensor.size();
        let (n_in, n_out) = (size.last().copied().unwrap_or(0), size.first().copied().unwrap_or(0));
        let (name, weight) = (name.to_owned(), Weight::Dense(Place::new(weight)));
        Self {
            name,
            weight,
            bias: None,
            transposed: false,
            n_in,
            n_out,
            loras: Vec::new(),
            rows: Vec::new(),
        }
    }

    /// Gives the adapter of this number its part.
    pub(crate) fn attach(&mut self, adapter: usize, lora: Lora) {
        self.loras.push((adapter, lora));
    }

    /// Lets the adapter of this number have rows of its own.
    pub(crate) fn attach_rows(&mut self, adapter: usize, rows: TokenRows) {
        self.rows.push((adapter, rows));
    }

    /// Takes the part of an adapter away.
    pub(crate) fn detach(&mut self, adapter: usize) {
        self.loras.retain(|(number, _)| *number != adapter);
        self.rows.retain(|(number, _)| *number != adapter);
        if let Weight::Dense(weight) = &mut self.weight {
            weight.restore(adapter);
        }
        self.bias.iter_mut().for_each(|bias| bias.restore(adapter));
    }

    /// Writes an adapter's part into the base's weights, which are dense.
    pub(crate) fn merge(&mut self, adapter: usize) {
        let merged = self.lora_of(adapter).map(|lora| lora.merged(&self.base_matrix()));
        if let Weight::Dense(weight) = &self.weight {
            if let Some(merged) = merged {
                let merged = if self.transposed { merged.tr() } else { merged };
                weight.base().tensor.shallow_clone().copy_(&merged);
            }
            weight.merge(adapter);
            if let Some(rows) = self.rows_of(Some(adapter)) {
                rows.merge(&weight.base().tensor);
            }
        }
        self.bias.iter_mut().for_each(|bias| bias.merge(adapter));
    }

    pub(crate) fn is_changed_by(&self, adapter: usize) -> bool {
        let replaced =
            matches!(&self.weight, Weight::Dense(weight) if weight.is_changed_by(adapter));
        self.lora_of(adapter).is_some() || self.rows_of(Some(adapter)).is_some() || replaced
    }

    /// How many weights are quantised; `None` where they are dense.
    pub(crate) fn n_quantised(&self) -> Option<usize> {
        match &self.weight {
            Weight::Dense(_) => None,
            Weight::Quantised { codes, .. } => Some(codes.numel()),
        }
    }

    /// Makes a quantised matrix dense; the new parameter, or `None` where it was dense already.
    pub(crate) fn dequantise(&mut self) -> Option<Rc<Param>> {
        let Weight::Quantised { codes, kind } = &self.weight else { return None };
        let name = format!("{}.weight", self.name);
        let param = Param::new(name, Role::Projection, codes.dequantise(*kind), false);
        self.weight = Weight::Dense(Place::new(param.clone()));
        Some(param)
    }

    pub(crate) fn lora_of(&self, adapter: usize) -> Option<&Lora> {
        self.loras.iter().find(|(number, _)| *number == adapter).map(|(_, lora)| lora)
    }

    /// The rows that an adapter has of its own.
    pub(crate) fn rows_of(&self, adapter: Option<usize>) -> Option<&TokenRows> {
        self.rows.iter().find(|(number, _)| Some(*number) == adapter).map(|(_, rows)| rows)
    }

    pub(crate) fn bias(&self) -> Option<&Place> {
        self.bias.as_ref()
    }

    pub(crate) fn bias_mut(&mut self) -> Option<&mut Place> {
        self.bias.as_mut()
    }

    /// W of the base as (O, I), without a gradient.
    pub(crate) fn base_matrix(&self) -> Tensor {
        self.matrix(&Pass::base()).detach()
    }

    /// `[N, I]` → `[N, O]`, in ordinary autograd.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if let Weight::Quantised { .. } = &self.weight {
            return self.node(x, pass);
        }
        let bias = self.bias.as_ref().map(|bias| &bias.at(pass).tensor);
        let w = self.matrix(pass);
        if let Some(lora) = self.lora(pass) {
            return lora.forward(&w, bias, x, self.dropout_stream(pass));
        }
        let y = x.linear(&w, bias);
        self.rows_of(pass.adapter).map(|rows| rows.put_columns(&w, x, &y)).unwrap_or(y)
    }

    /// The layer as one node: autograd would keep every dequantised matrix until the backward pass.
    fn node(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let (op, input) = (self.op(pass), x.detach());
        let (y, saved) = op.forward(&input);
        let leaves: Vec<Tensor> = op.leaves().into_iter().map(Tensor::shallow_clone).collect();
        node::attach(c"linear", x, &leaves, &y, move |dy, want_dx| {
            let mut dx = Dx::wanted(want_dx);
            op.backward(saved, &input, dy, &mut dx);
            dx.take()
        });
        y
    }

    /// Bytes that a node keeps of this layer per token, beside its input: what its adapter leaves.
    pub(crate) fn kept_per_token(&self, bytes: u64) -> u64 {
        self.loras.iter().map(|(_, lora)| lora.kept_per_token(bytes)).max().unwrap_or(0)
    }

    /// A handle for a coarse node, which may go to another thread.
    pub(crate) fn op(&self, pass: &Pass) -> LinearOp {
        LinearOp {
            weight: match &self.weight {
                Weight::Dense(weight) => WeightOp::Dense(Leaf::of(weight.at(pass))),
                Weight::Quantised { codes, kind } => {
                    WeightOp::Quantised { codes: codes.shallow_clone(), kind: *kind }
                }
            },
            transposed: self.transposed,
            bias: self.bias.as_ref().map(|bias| Leaf::of(bias.at(pass))),
            lora: self.lora(pass).map(|lora| lora.op(self.dropout_stream(pass))),
            rows: self.rows_of(pass.adapter).map(TokenRows::op),
        }
    }

    /// W as (O, I).
    fn matrix(&self, pass: &Pass) -> Tensor {
        let weight = match &self.weight {
            Weight::Dense(weight) => weight.at(pass).tensor.shallow_clone(),
            Weight::Quantised { codes, kind } => codes.dequantise(*kind),
        };
        if self.transposed { weight.tr() } else { weight }
    }

    fn lora(&self, pass: &Pass) -> Option<&Lora> {
        self.lora_of(pass.adapter?)
    }

    /// What names this layer's dropout mask in `pass`.
    fn dropout_stream(&self, pass: &Pass) -> Option<u64> {
        pass.dropout.map(|key| key.stream(&self.name))
    }
}

#[cfg(test)]
mod tests;
