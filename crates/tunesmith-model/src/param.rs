//! A weight: its checkpoint name, its tensor, its gradient, and how it is made when no checkpoint has it.

use crate::MainGrad;
use std::rc::Rc;
use tch::Tensor;

/// A trainable or frozen tensor under exactly its checkpoint name, with the gradient of the current step.
#[derive(Debug)]
pub struct Param {
    /// Checkpoint name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The value; a leaf of the autograd graph. The optimizer changes it in place.
    pub tensor: Tensor,
    main_grad: MainGrad,
}

impl Param {
    /// A parameter that takes part in training iff `trainable`.
    pub fn new(name: String, tensor: Tensor, trainable: bool) -> Rc<Self> {
        let main_grad = MainGrad::of(&tensor);
        Rc::new(Self { name, tensor: tensor.set_requires_grad(trainable), main_grad })
    }

    /// Whether gradients are computed for it.
    pub fn trainable(&self) -> bool {
        self.tensor.requires_grad()
    }

    /// This step's gradient: where every backward pass, autograd's or a node's own, adds its part.
    pub fn main_grad(&self) -> &MainGrad {
        &self.main_grad
    }
}

/// What a model asks for while it is built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// Checkpoint name.
    pub name: String,
    /// Shape as stored.
    pub shape: Vec<i64>,
    /// Its value in a model made from scratch.
    pub init: Init,
}

/// Fresh values.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Init {
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
pub(crate) type Supply<'a> = dyn FnMut(Spec) -> Rc<Param> + 'a;
