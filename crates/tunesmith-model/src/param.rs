//! A weight: its checkpoint name, its tensor, and how it is made when no checkpoint has it.

use std::{cell::RefCell, rc::Rc};
use tch::{Kind, Tensor};

/// A trainable or frozen tensor under exactly its checkpoint name, with the gradient of the current step.
#[derive(Debug)]
pub struct Param {
    /// Checkpoint name, such as `model.layers.0.self_attn.q_proj.weight`.
    pub name: String,
    /// The value; a leaf of the autograd graph. The optimizer changes it in place.
    pub tensor: Tensor,
    main_grad: RefCell<Option<Tensor>>,
}

impl Param {
    /// A parameter that takes part in training iff `trainable`.
    pub fn new(name: String, tensor: Tensor, trainable: bool) -> Rc<Self> {
        Rc::new(Self {
            name,
            tensor: tensor.set_requires_grad(trainable),
            main_grad: RefCell::new(None),
        })
    }

    /// Whether gradients are computed for it.
    pub fn trainable(&self) -> bool {
        self.tensor.requires_grad()
    }

    /// Adds `grad` to this step's gradient, in fp32: micro-batches of a bf16 model would lose what is small.
    pub fn accumulate(&self, grad: &Tensor) {
        match &mut *self.main_grad.borrow_mut() {
            Some(sum) => _ = sum.g_add_(&grad.to_kind(Kind::Float)),
            none => *none = Some(grad.to_kind(Kind::Float)),
        }
    }

    /// Takes this step's gradient; `None` where none arrived.
    pub fn take_grad(&self) -> Option<Tensor> {
        self.main_grad.take()
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
