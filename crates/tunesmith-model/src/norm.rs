//! Normalisation in fp32, whatever the dtype of the stream.

mod op;

pub(crate) use op::NormOp;

use crate::{
    Pass, config,
    param::{Init, Place, Role, Spec, Supply, dense},
};
use tch::{Kind, Tensor};

/// RMSNorm or LayerNorm over the last dimension.
#[derive(Debug)]
pub(crate) struct Norm {
    kind: config::Norm,
    size: i64,
    pub(crate) name: String,
    pub(crate) weight: Place,
    pub(crate) bias: Option<Place>,
}

impl Norm {
    pub(crate) fn build(name: &str, kind: config::Norm, size: i64, supply: &mut Supply) -> Self {
        let mut vector = |name: String, init| {
            Place::new(dense(supply, Spec { name, role: Role::Norm, shape: vec![size], init }))
        };
        let weight = vector(format!("{name}.weight"), Init::Ones);
        let bias = matches!(kind, config::Norm::Layer { .. })
            .then(|| vector(format!("{name}.bias"), Init::Zeros));
        Self { kind, size, name: name.into(), weight, bias }
    }

    /// `[.., size]` → the same shape and dtype.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let weight = &self.weight.at(pass).tensor;
        match self.kind {
            // Rounded to the stream's dtype before the weight, as transformers does: it shows in bf16.
            config::Norm::Rms { eps } => {
                let x32 = x.to_kind(Kind::Float);
                let mean_square = x32.square().mean_dim(-1, true, Kind::Float);
                let normed = x32 * (mean_square + eps).rsqrt();
                normed.to_kind(x.kind()) * weight
            }
            config::Norm::Layer { eps } => x.layer_norm(
                [self.size],
                Some(weight),
                self.bias.as_ref().map(|bias| &bias.at(pass).tensor),
                eps,
                false,
            ),
        }
    }
}
