//! A weight: its checkpoint name, its tensor, and how it is made when no checkpoint has it.

use std::sync::Arc;
use tch::{Kind, Tensor};

/// A trainable or frozen tensor under exactly its checkpoint name.
#[derive(Debug)]
pub struct Param {
    /// Checkpoint name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The value; a leaf of the autograd graph. The optimizer changes it in place.
    pub tensor: Tensor,
}

impl Param {
    /// A parameter that takes part in training iff `trainable`.
    pub fn new(name: String, tensor: Tensor, trainable: bool) -> Arc<Self> {
        Arc::new(Self { name, tensor: tensor.set_requires_grad(trainable) })
    }

    /// Whether gradients are computed for it.
    pub fn trainable(&self) -> bool {
        self.tensor.requires_grad()
    }

    /// Takes the gradient that backward passes left since the last call, in fp32; `None` where none arrived.
    pub fn take_grad(&self) -> Option<Tensor> {
        let mut grad = self.tensor.grad();
        if !grad.defined() {
            return None;
        }
        let taken = grad.to_kind(Kind::Float).detach().copy();
        let _ = grad.zero_();
        Some(taken)
    }
}

/// What a model asks for while it is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Spec {
    /// Checkpoint name.
    pub name: String,
    /// Shape as stored.
    pub shape: Vec<i64>,
    /// Its value in a model made from scratch.
    pub init: Init,
}

/// Fresh values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Init {
    /// N(0, std²).
    Normal {
        /// Standard deviation.
        std: f64,
    },
    /// Zeros.
    Zeros,
    /// Ones.
    Ones,
}

/// Gives a model its parameters, one per call.
pub(crate) type Supply<'a> = dyn FnMut(Spec) -> Arc<Param> + 'a;
