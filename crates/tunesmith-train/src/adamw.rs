//! AdamW (Loshchilov & Hutter 2019, algorithm 2), with fp32 master weights where the model is not fp32.

use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::{path::Path, rc::Rc};
use tch::{Kind, Tensor};
use tunesmith_kernels::{self as kernels, AdamWStep};
use tunesmith_model::{Param, Role, TensorFile};

/// Knobs of the optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AdamWKnobs {
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the denominator.
    pub eps: f64,
    /// Decoupled weight decay, applied to every trained parameter.
    pub weight_decay: f64,
    /// Learning rate of LoRA's B over that of A (LoRA+, Hayou et al. 2024, who recommend 16); 1: the same.
    pub lora_plus_ratio: f64,
    /// Largest gradient norm; longer gradients are scaled down. 0 switches clipping off.
    pub max_grad_norm: f64,
}

impl Default for AdamWKnobs {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            lora_plus_ratio: 1.0,
            max_grad_norm: 1.0,
        }
    }
}

/// The optimizer and its state, one slot per trained parameter.
pub struct AdamW {
    knobs: AdamWKnobs,
    slots: Vec<Slot>,
    step: u64,
}

struct Slot {
    param: Rc<Param>,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    lr_scale: f64,
    master: Option<Tensor>, // fp32 copy of a parameter that is not
}

impl Slot {
    /// By the kernel where there is one for the place and dtype.
    fn update(&mut self, grad: &Tensor, step: &AdamWStep) {
        let weight = self.master.as_ref().unwrap_or(&self.param.tensor);
        let plain = match self.param.tensor.kind() {
            Kind::Float | Kind::BFloat16 => !kernels::supports(weight),
            _ => true,
        };
        if plain {
            return self.update_plain(grad, step);
        }
        let rounded = self.master.is_some().then_some(&self.param.tensor);
        kernels::adamw_(weight, rounded, grad, [&self.exp_avg, &self.exp_avg_sq], step);
    }

    /// The twin of the kernel.
    fn update_plain(&mut self, grad: &Tensor, step: &AdamWStep) {
        let AdamWStep { lr, beta1, beta2, eps, weight_decay, clip, t } = *step;
        let Self { param, exp_avg, exp_avg_sq, master, .. } = self;
        let mut weight = master.as_ref().unwrap_or(&param.tensor).shallow_clone();
        let grad = grad * clip;
        let _ = exp_avg.lerp_(&grad, 1.0 - beta1);
        let _ = exp_avg_sq.g_mul_scalar_(beta2);
        *exp_avg_sq += grad.square() * (1.0 - beta2);
        let denominator = exp_avg_sq.sqrt() / (1.0 - beta2.powi(t)).sqrt() + eps;
        if weight_decay != 0.0 {
            let _ = weight.g_mul_scalar_(1.0 - lr * weight_decay);
        }
        weight -= (&*exp_avg / denominator) * (lr / (1.0 - beta1.powi(t)));
        if let Some(master) = master {
            param.tensor.shallow_clone().copy_(master);
        }
    }
}

/// The gradients of one step, taken from the parameters, in the order of the optimizer's slots.
pub struct Gradients {
    grads: Vec<Option<Tensor>>,
    /// L2 norm over all of them, before clipping.
    pub norm: f64,
}

impl Gradients {
    /// Those that there are, in the order of the optimizer's parameters.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.grads.iter().flatten()
    }
}

impl AdamW {
    /// Zero moments for every trainable parameter of `params`.
    pub fn new(knobs: AdamWKnobs, params: &[Rc<Param>]) -> Self {
        let slot = |param: &Rc<Param>| {
            let zeros = || param.tensor.zeros_like().to_kind(Kind::Float).detach();
            let master = (param.tensor.kind() != Kind::Float)
                .then(|| param.tensor.detach().to_kind(Kind::Float));
            let lr_scale = if param.role == Role::LoraB { knobs.lora_plus_ratio } else { 1.0 };
            Slot { param: param.clone(), exp_avg: zeros(), exp_avg_sq: zeros(), lr_scale, master }
        };
        let slots = tch::no_grad(|| params.iter().filter(|p| p.trainable()).map(slot).collect());
        Self { knobs, slots, step: 0 }
    }

    /// Takes what the backward passes of this step left in the parameters, and measures it.
    pub fn take_gradients(&self) -> Gradients {
        let grads: Vec<Option<Tensor>> =
            self.slots.iter().map(|slot| slot.param.main_grad().take()).collect();
        let all: Vec<&Tensor> = grads.iter().flatten().collect();
        let square = match all.iter().all(|g| kernels::supports(g)) {
            true => kernels::square_sum(&all),
            false => {
                let square = |g: &&Tensor| g.square().sum(Kind::Double).double_value(&[]);
                tch::no_grad(|| all.iter().map(square).sum())
            }
        };
        let norm = square.sqrt();
        Gradients { grads, norm }
    }

    /// One update at learning rate `lr`. A parameter without a gradient stays as it is.
    pub fn step(&mut self, gradients: Gradients, lr: f64) {
        self.step += 1;
        let AdamWKnobs { beta1, beta2, eps, weight_decay, max_grad_norm, .. } = self.knobs;
        let clip = if max_grad_norm > 0.0 {
            (max_grad_norm / (gradients.norm + 1e-6)).min(1.0)
        } else {
            1.0
        };
        let t = self.step as i32;
        let update = AdamWStep { lr, beta1, beta2, eps, weight_decay, clip, t };
        let _no_grad = tch::no_grad_guard();
        for (slot, grad) in self.slots.iter_mut().zip(gradients.grads) {
            let Some(grad) = grad else { continue };
            let lr = lr * slot.lr_scale;
            // and the gradient's memory is free
            slot.update(&grad, &AdamWStep { lr, ..update });
        }
    }

    /// What a step with `gradients` changes, each beside its gradient: the fp32 masters where there are any.
    pub fn touched<'a>(
        &'a self,
        gradients: &'a Gradients,
    ) -> impl Iterator<Item = (&'a Tensor, &'a Tensor)> {
        let pairs = self.slots.iter().zip(&gradients.grads);
        pairs.filter_map(|(slot, grad)| {
            Some((slot.master.as_ref().unwrap_or(&slot.param.tensor), grad.as_ref()?))
        })
    }

    /// The gradients that there are, by the names of their parameters, in the order of the model.
    pub(crate) fn named<'a>(
        &'a self,
        gradients: &'a Gradients,
    ) -> impl Iterator<Item = (&'a str, &'a Tensor)> {
        let pairs = self.slots.iter().zip(&gradients.grads);
        pairs.filter_map(|(slot, grad)| Some((slot.param.name.as_str(), grad.as_ref()?)))
    }

    /// Updates made so far.
    pub fn n_steps(&self) -> u64 {
        self.step
    }

    /// Moments and master weights, each under the name it has in a checkpoint.
    pub fn state(&self) -> Vec<(String, Tensor)> {
        let of = |slot: &Slot| {
            let named = |kind: &str, tensor: &Tensor| {
                (format!("{kind}.{}", slot.param.name), tensor.shallow_clone())
            };
            let master = slot.master.as_ref().map(|master| named("master", master));
            [named("exp_avg", &slot.exp_avg), named("exp_avg_sq", &slot.exp_avg_sq)]
                .into_iter()
                .chain(master)
        };
        self.slots.iter().flat_map(of).collect()
    }

    /// Puts back what [`state`](Self::state) gave after `step` updates. `path`: where `file` lies, for errors.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape: the file belongs to another model.
    pub fn restore(&mut self, file: &TensorFile, path: &Path, step: u64) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        for (name, mut target) in self.state() {
            let (found, expected) = (file.shape(&name), target.size());
            if found.as_ref() != Some(&expected) {
                let reason = format!("{name}: expected shape {expected:?}, found {found:?}");
                return Err(TrainError::BadCheckpoint { path: path.into(), reason });
            }
            target.copy_(&file.tensor(&name)?);
        }
        self.step = step;
        Ok(())
    }
}
