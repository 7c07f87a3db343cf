//! The MLP half of a block: gated (SwiGLU, Shazeer 2020) or plain.

mod node;

use crate::{
    Config, Pass,
    config::Activation,
    linear::{Linear, Shape},
    param::Supply,
};
use tch::Tensor;

#[derive(Debug)]
pub(crate) struct Mlp {
    gate: Option<Linear>,
    up: Linear,
    down: Linear,
    activation: Activation,
}

impl Mlp {
    pub(crate) fn build(config: &Config, prefix: &str, supply: &mut Supply) -> Self {
        let names = config.names;
        let (c, i) = (config.hidden_size, config.intermediate_size);
        let mut linear = |name: &str, n_in, n_out| {
            let shape = Shape {
                n_in,
                n_out,
                bias: config.mlp_bias,
                transposed: names.transposed,
                init_std: config.initializer_range,
            };
            Linear::build(&format!("{prefix}{name}"), &shape, supply)
        };
        let gate = config.gated_mlp.then(|| linear(names.gate, c, i));
        let up = linear(names.up, c, i);
        let down = linear(names.down, i, c);
        Self { gate, up, down, activation: config.activation }
    }

    /// Its linear layers, in order.
    pub(crate) fn linears_mut(&mut self) -> impl Iterator<Item = &mut Linear> {
        self.gate.iter_mut().chain([&mut self.up, &mut self.down])
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.gate.iter().chain([&self.up, &self.down])
    }

    /// (N, C) → (N, C).
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let up = self.up.forward(x, pass);
        let inner = match &self.gate {
            Some(gate) => self.activation.apply(&gate.forward(x, pass)) * up,
            None => self.activation.apply(&up),
        };
        self.down.forward(&inner, pass)
    }
}

impl Activation {
    fn apply(self, x: &Tensor) -> Tensor {
        match self {
            Self::Silu => x.silu(),
            Self::Gelu => x.gelu("none"),
            Self::GeluTanh => x.gelu("tanh"),
            Self::Relu => x.relu(),
        }
    }
}
