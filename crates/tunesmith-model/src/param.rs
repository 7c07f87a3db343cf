//! A weight: its checkpoint name, its part, its tensor, its gradient, and how it is made when no checkpoint has it.

use crate::{MainGrad, Pass, linear::Weight};
use std::rc::Rc;
use tch::Tensor;

/// A trainable or frozen tensor under exactly its checkpoint name, with the gradient of the current step.
#[derive(Debug)]
pub struct Param {
    /// Checkpoint name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// Its part in the model.
    pub role: Role,
    /// The value; a leaf of the autograd graph. The optimizer changes it in place.
    pub tensor: Tensor,
    main_grad: MainGrad,
}

/// What a parameter is there for: learning rates and trainability go by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The token embedding, also where it is the head.
    Embedding,
    /// The position embedding.
    Position,
    /// The matrix of a linear layer.
    Projection,
    /// The bias of a linear layer.
    Bias,
    /// Weight or bias of a norm.
    Norm,
    /// The head over the vocabulary, or over labels.
    Head,
    /// LoRA's A: from the input to the rank.
    LoraA,
    /// LoRA's B: from the rank to the output.
    LoraB,
    /// DoRA's magnitudes.
    Magnitude,
}

impl Param {
    /// A parameter that takes part in training iff `trainable`.
    pub fn new(name: String, role: Role, tensor: Tensor, trainable: bool) -> Rc<Self> {
        let main_grad = MainGrad::of(&tensor);
        Rc::new(Self { name, role, tensor: tensor.set_requires_grad(trainable), main_grad })
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

/// A parameter of the base, and what adapters put in its place (`modules_to_save`, trained biases).
#[derive(Debug)]
pub(crate) struct Place {
    base: Rc<Param>,
    instead: Vec<(usize, Rc<Param>)>,
}

impl Place {
    pub(crate) fn new(base: Rc<Param>) -> Self {
        Self { base, instead: Vec::new() }
    }

    /// The same replacements on another base.
    pub(crate) fn on(self, base: Rc<Param>) -> Self {
        Self { base, instead: self.instead }
    }

    /// Whether an adapter put something here.
    pub(crate) fn is_changed_by(&self, adapter: usize) -> bool {
        self.instead.iter().any(|(number, _)| *number == adapter)
    }

    /// The base's own.
    pub(crate) fn base(&self) -> &Rc<Param> {
        &self.base
    }

    /// Lets `param` stand here for one adapter.
    pub(crate) fn replace(&mut self, adapter: usize, param: Rc<Param>) {
        self.instead.push((adapter, param));
    }

    /// Takes away what one adapter put here.
    pub(crate) fn restore(&mut self, adapter: usize) {
        self.instead.retain(|(number, _)| *number != adapter);
    }

    /// Writes what one adapter put here into the base.
    pub(crate) fn merge(&self, adapter: usize) {
        if let Some((_, param)) = self.instead.iter().find(|(number, _)| *number == adapter) {
            self.base.tensor.shallow_clone().copy_(&param.tensor);
        }
    }

    /// What stands here in `pass`.
    pub(crate) fn at(&self, pass: &Pass) -> &Rc<Param> {
        let instead = self.instead.iter().find(|(adapter, _)| Some(*adapter) == pass.adapter);
        instead.map_or(&self.base, |(_, param)| param)
    }
}

/// What a model asks for while it is built.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spec {
    /// Checkpoint name.
    pub name: String,
    /// Its part in the model.
    pub role: Role,
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

/// Gives a model its parameters, one per call. Only a [`Role::Projection`] may come in another storage than dense.
pub(crate) type Supply<'a> = dyn FnMut(Spec) -> Weight + 'a;

/// A parameter that is always dense.
pub(crate) fn dense(supply: &mut Supply, spec: Spec) -> Rc<Param> {
    match supply(spec) {
        Weight::Dense(place) => place.base,
        Weight::Quantised { .. } => unreachable!("only projections are quantised"),
    }
}
