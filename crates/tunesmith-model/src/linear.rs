//! A linear layer: y = x Wᵀ + b. Adapters and quantised storage will be properties of this type.

use crate::param::{Init, Param, Spec, Supply};
use std::rc::Rc;
use tch::Tensor;

/// A projection, stored `[out, in]`, or `[in, out]` where the checkpoint has it so (GPT-2's Conv1D).
#[derive(Debug)]
pub(crate) struct Linear {
    weight: Rc<Param>,
    bias: Option<Rc<Param>>,
    transposed: bool,
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
            shape: size,
            init: Init::Normal { std: init_std },
        });
        let bias = bias.then(|| {
            supply(Spec { name: format!("{name}.bias"), shape: vec![n_out], init: Init::Zeros })
        });
        Self { weight, bias, transposed }
    }

    /// `[.., in]` → `[.., out]`.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        let bias = self.bias.as_ref().map(|b| &b.tensor);
        if self.transposed {
            x.linear(&self.weight.tensor.tr(), bias)
        } else {
            x.linear(&self.weight.tensor, bias)
        }
    }
}
