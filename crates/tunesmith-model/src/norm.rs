//! Normalisation in fp32, whatever the dtype of the stream.

use crate::{
    config,
    param::{Init, Param, Spec, Supply},
};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// RMSNorm or LayerNorm over the last dimension.
#[derive(Debug)]
pub(crate) struct Norm {
    kind: config::Norm,
    size: i64,
    weight: Rc<Param>,
    bias: Option<Rc<Param>>,
}

impl Norm {
    pub(crate) fn build(name: &str, kind: config::Norm, size: i64, supply: &mut Supply) -> Self {
        let weight =
            supply(Spec { name: format!("{name}.weight"), shape: vec![size], init: Init::Ones });
        let bias = matches!(kind, config::Norm::Layer { .. }).then(|| {
            supply(Spec { name: format!("{name}.bias"), shape: vec![size], init: Init::Zeros })
        });
        Self { kind, size, weight, bias }
    }

    /// `[.., size]` → the same shape and dtype.
    pub(crate) fn forward(&self, x: &Tensor) -> Tensor {
        match self.kind {
            // Rounded to the stream's dtype before the weight, as transformers does: it shows in bf16.
            config::Norm::Rms { eps } => {
                let x32 = x.to_kind(Kind::Float);
                let mean_square = x32.square().mean_dim(-1, true, Kind::Float);
                let normed = x32 * (mean_square + eps).rsqrt();
                normed.to_kind(x.kind()) * &self.weight.tensor
            }
            config::Norm::Layer { eps } => x.layer_norm(
                [self.size],
                Some(&self.weight.tensor),
                self.bias.as_ref().map(|b| &b.tensor),
                eps,
                false,
            ),
        }
    }
}
