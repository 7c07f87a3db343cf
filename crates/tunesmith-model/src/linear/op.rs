//! A [`Linear`](super::Linear) as coarse nodes take it: forward and backward by hand.

use crate::{
    MainGrad,
    lora::{LoraOp, LoraSaved},
    param::Param,
    quant::Quantised,
    token_rows::TokenRowsOp,
};
use tch::{Kind, Tensor};
use tunesmith_kernels::{matvec, matvec_all, prefers_matvec};

/// A parameter as a node on another thread sees it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) tensor: Tensor,
    /// Where its gradient goes; `None`: it is frozen.
    pub(crate) grad: Option<MainGrad>,
}

impl Leaf {
    pub(crate) fn of(param: &Param) -> Self {
        let grad = param.trainable().then(|| param.main_grad().clone());
        Self { tensor: param.tensor.shallow_clone(), grad }
    }

    /// Adds aᵀ b to the gradient; a (N, O), b (N, I).
    pub(crate) fn accumulate_product(&self, a: &Tensor, b: &Tensor) {
        let Some(grad) = &self.grad else { return };
        match (a.kind(), b.kind()) {
            (Kind::Float, Kind::Float) => grad.accumulate_product(&a.tr(), b),
            _ => grad.accumulate(&a.tr().matmul(b)),
        }
    }

    /// Adds `part()` to the gradient, if there is one.
    pub(crate) fn accumulate(&self, part: impl FnOnce() -> Tensor) {
        if let Some(grad) = &self.grad {
            grad.accumulate(&part());
        }
    }
}

/// A [`Linear`] of one pass, for coarse nodes: `Send`, without autograd.
#[derive(Debug)]
pub(crate) struct LinearOp {
    pub(super) weight: WeightOp,
    pub(super) transposed: bool,
    pub(super) bias: Option<Leaf>,
    pub(super) lora: Option<LoraOp>,
    pub(super) rows: Option<TokenRowsOp>, // never beside a LoRA
}

/// The matrix of a [`LinearOp`].
#[derive(Debug)]
pub(super) enum WeightOp {
    Dense(Leaf),
    Quantised { codes: Quantised, kind: Kind },
}

/// The gradient of an input that several layers may share.
#[derive(Debug)]
pub(crate) enum Dx {
    /// Nobody asks for it.
    Unwanted,
    /// What has arrived so far.
    Sum(Option<Tensor>),
}

impl Dx {
    pub(crate) fn wanted(wanted: bool) -> Self {
        if wanted { Self::Sum(None) } else { Self::Unwanted }
    }

    /// Adds a · b, in the product itself where something is there already.
    pub(crate) fn add_product(&mut self, a: &Tensor, b: &Tensor) {
        match self {
            Self::Unwanted => {}
            Self::Sum(Some(sum)) => _ = sum.addmm_(a, b),
            Self::Sum(none) => *none = Some(a.matmul(b)),
        }
    }

    pub(crate) fn add(&mut self, part: Tensor) {
        match self {
            Self::Unwanted => {}
            Self::Sum(Some(sum)) => *sum += part,
            Self::Sum(none) => *none = Some(part),
        }
    }

    /// The sum; `None` where it is unwanted or nothing arrived.
    pub(crate) fn take(self) -> Option<Tensor> {
        match self {
            Self::Unwanted => None,
            Self::Sum(sum) => sum,
        }
    }
}

/// What [`LinearOp::forward`] keeps for its backward, beside the input.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    lora: Option<LoraSaved>,
}

impl LinearOp {
    /// x (N, I) → y (N, O). The caller keeps x.
    pub(crate) fn forward(&self, x: &Tensor) -> (Tensor, Saved) {
        let _no_grad = tch::no_grad_guard();
        let (w, bias) = (self.matrix(), self.bias.as_ref().map(|bias| &bias.tensor));
        let (mut y, saved) = match &self.lora {
            None if prefers_matvec(x, &w) => (matvec(x, &w, bias), Saved::default()),
            None => (x.linear(&w, bias), Saved::default()),
            Some(lora) => {
                let (y, saved) = lora.forward(&w, bias, x);
                (y, Saved { lora: Some(saved) })
            }
        };
        if let Some(rows) = &self.rows {
            rows.put_columns_(&w, x, &mut y);
        }
        (y, saved)
    }

    /// What [`forward`](Self::forward) of `x()` kept, without the product: bit for bit the same.
    pub(crate) fn save(&self, x: impl FnOnce() -> Tensor) -> Saved {
        let _no_grad = tch::no_grad_guard();
        Saved { lora: self.lora.as_ref().map(|lora| lora.save(|| self.matrix(), &x())) }
    }

    /// Several layers of one input; a few rows pass all of them at once.
    pub(crate) fn forward_all<const L: usize>(
        layers: [&Self; L],
        x: &Tensor,
    ) -> [(Tensor, Saved); L] {
        let _no_grad = tch::no_grad_guard();
        let few = |op: &&Self| op.lora.is_none() && prefers_matvec(x, &op.matrix());
        if !layers.iter().all(few) {
            return layers.map(|op| op.forward(x));
        }
        let matrices = layers.map(Self::matrix);
        let with_bias = std::array::from_fn(|i| {
            (&matrices[i], layers[i].bias.as_ref().map(|bias| &bias.tensor))
        });
        matvec_all(x, with_bias).map(|y| (y, Saved::default()))
    }

    /// Adds this layer's parts of the gradient to its parameters', and to dx (N, I) if that is wanted.
    pub(crate) fn backward(&self, saved: Saved, x: &Tensor, dy: &Tensor, dx: &mut Dx) {
        let _no_grad = tch::no_grad_guard();
        match (&self.weight, self.transposed) {
            (WeightOp::Dense(weight), true) => weight.accumulate_product(x, dy),
            (WeightOp::Dense(weight), false) => weight.accumulate_product(dy, x),
            (WeightOp::Quantised { .. }, _) => {} // frozen
        }
        if let Some(bias) = &self.bias {
            bias.accumulate(|| dy.sum_dim_intlist(0, false, Kind::Float));
        }
        if let Some(rows) = &self.rows {
            rows.backward(&self.matrix(), x, dy, dx);
        }
        match (&self.lora, saved.lora) {
            (Some(lora), Some(saved)) => lora.backward(&self.matrix(), saved, x, dy, dx),
            _ if matches!(dx, Dx::Unwanted) => {}
            _ => dx.add_product(dy, &self.matrix()),
        }
    }

    /// The trainable tensors, which a node lists among its inputs, returning no gradient for them: so it runs even where
    /// its input needs none.
    pub(crate) fn leaves(&self) -> Vec<&Tensor> {
        let weight = match &self.weight {
            WeightOp::Dense(weight) => Some(weight),
            WeightOp::Quantised { .. } => None,
        };
        let own = [weight, self.bias.as_ref()].into_iter().flatten();
        let lora = self.lora.iter().flat_map(LoraOp::leaves);
        let rows = self.rows.iter().map(|rows| &rows.rows);
        own.chain(lora)
            .chain(rows)
            .filter(|leaf| leaf.grad.is_some())
            .map(|leaf| &leaf.tensor)
            .collect()
    }

    fn matrix(&self) -> Tensor {
        let weight = match &self.weight {
            WeightOp::Dense(weight) => weight.tensor.detach(),
            WeightOp::Quantised { codes, kind } => codes.dequantise(*kind),
        };
        if self.transposed { weight.tr() } else { weight }
    }
}
