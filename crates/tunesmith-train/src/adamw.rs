//! AdamW (Loshchilov & Hutter 2019, algorithm 2). What it keeps of a parameter is a choice: the exact weight of a bf16 model
//! in fp32, or none; moments in fp32, or in 8 bits. The kernels say what each costs and loses.

use crate::TrainError;
use serde::{Deserialize, Serialize};
use std::{path::Path, rc::Rc};
use tch::{Kind, Tensor};
use tunesmith_kernels::{
    self as kernels, AdamWParam, AdamWStep, Blockwise, Moments, Weight, random,
};
use tunesmith_model::{Param, Role, TensorFile};

/// Parameters with fewer elements keep their moments in fp32, as in the paper: norms and biases, which weigh nothing.
const SMALLEST_IN_8_BITS: usize = 4096;

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
    /// What stands behind the weights of a bf16 model: `fp32`, or `none`, and they are rounded by chance.
    pub master: Master,
    /// How means of past gradients are kept: `fp32`, or `8bit`.
    pub moments: MomentKind,
}

/// What stands behind weights in bf16, whose steps are too wide for small updates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Master {
    /// A copy in fp32: exact, 4 bytes per weight.
    #[default]
    Fp32,
    /// Nothing: updates are rounded by chance, and arrive on the average.
    None,
}

/// How the moments are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum MomentKind {
    /// 8 bytes per weight.
    #[default]
    #[serde(rename = "fp32")]
    Fp32,
    /// In blocks of 256 that share a scale, 2.03 bytes per weight; tensors of fewer than 4096 elements stay in fp32.
    #[serde(rename = "8bit")]
    Bits8,
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
            master: Master::default(),
            moments: MomentKind::default(),
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
    moments: Moments,
    lr_scale: f64,
    master: Option<Tensor>, // fp32 copy of a parameter that is not
    stream: u64,            // names the random bits of a parameter without
}

impl Slot {
    fn new(param: &Rc<Param>, knobs: &AdamWKnobs) -> Self {
        let (tensor, kind) = (&param.tensor, param.tensor.kind());
        let alone = kind == Kind::Float || (kind == Kind::BFloat16 && knobs.master == Master::None);
        let small = tensor.numel() < SMALLEST_IN_8_BITS;
        let moments = match knobs.moments {
            MomentKind::Bits8 if !small && kernels::supports(tensor) => {
                Moments::Blockwise([(); 2].map(|()| Blockwise::zeros_like(tensor)))
            }
            _ => {
                let zeros = || Tensor::zeros(tensor.size(), (Kind::Float, tensor.device()));
                Moments::Fp32([zeros(), zeros()])
            }
        };
        Self {
            param: param.clone(),
            moments,
            lr_scale: if param.role == Role::LoraB { knobs.lora_plus_ratio } else { 1.0 },
            master: (!alone).then(|| tensor.detach().to_kind(Kind::Float)),
            stream: random::stream(0, &param.name),
        }
    }

    /// What the kernel updates, where there is one for the place and dtype.
    fn for_kernel<'a>(&'a self, grad: &'a Tensor, lr: f64, t: i32) -> Option<AdamWParam<'a>> {
        let weight = &self.param.tensor;
        let weight = match &self.master {
            _ if !kernels::supports(weight) => return None,
            Some(master) => Weight::Master(master, weight),
            None if weight.kind() == Kind::Float => Weight::Fp32(weight),
            None => Weight::Bf16(weight, random::mix(self.stream ^ t as u64)),
        };
        Some(AdamWParam { weight, grad, moments: &self.moments, lr })
    }

    /// The twin of the kernel, for what it does not know: a master, if there is one, and moments in fp32.
    fn update_plain(&self, grad: &Tensor, lr: f64, step: &AdamWStep) {
        let AdamWStep { beta1, beta2, eps, weight_decay, clip, t } = *step;
        let Self { param, moments: Moments::Fp32(moments), master, .. } = self else {
            panic!("{}: moments in 8 bits where no kernel knows them", self.param.name);
        };
        let [mut exp_avg, mut exp_avg_sq] = moments.each_ref().map(Tensor::shallow_clone);
        let mut weight = master.as_ref().unwrap_or(&param.tensor).shallow_clone();
        let grad = grad * clip;
        let _ = exp_avg.lerp_(&grad, 1.0 - beta1);
        let _ = exp_avg_sq.g_mul_scalar_(beta2);
        exp_avg_sq += grad.square() * (1.0 - beta2);
        let denominator = exp_avg_sq.sqrt() / (1.0 - beta2.powi(t)).sqrt() + eps;
        if weight_decay != 0.0 {
            let _ = weight.g_mul_scalar_(1.0 - lr * weight_decay);
        }
        weight -= (&exp_avg / denominator) * (lr / (1.0 - beta1.powi(t)));
        if let Some(master) = master {
            param.tensor.shallow_clone().copy_(master);
        }
    }

    /// Moments and master under the names they have in a checkpoint.
    fn state(&self) -> Vec<(String, Tensor)> {
        let mut state = Vec::new();
        let mut put = |what: &str, tensor: &Tensor| {
            state.push((format!("{what}.{}", self.param.name), tensor.shallow_clone()));
        };
        match &self.moments {
            Moments::Fp32([exp_avg, exp_avg_sq]) => {
                put("exp_avg", exp_avg);
                put("exp_avg_sq", exp_avg_sq);
            }
            Moments::Blockwise([exp_avg, exp_avg_sq]) => {
                put("exp_avg", &exp_avg.codes);
                put("exp_avg_scale", &exp_avg.scales);
                put("exp_avg_sq", &exp_avg_sq.codes);
                put("exp_avg_sq_scale", &exp_avg_sq.scales);
            }
        }
        self.master.iter().for_each(|master| put("master", master));
        state
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
        let trained = params.iter().filter(|p| p.trainable());
        let slots = tch::no_grad(|| trained.map(|param| Slot::new(param, &knobs)).collect());
        Self { knobs, slots, step: 0 }
    }

    /// The same whose random bits, where weights are rounded by chance, are those of `seed`. Without it they are of seed 0.
    #[must_use]
    pub fn seeded(mut self, seed: u64) -> Self {
        for slot in &mut self.slots {
            slot.stream = random::stream(seed, &slot.param.name);
        }
        self
    }

    /// Whether weights are rounded by chance: a small update then moves few of them, by a whole step each.
    pub fn rounds_by_chance(&self) -> bool {
        let alone = |slot: &Slot| slot.master.is_none() && slot.param.tensor.kind() != Kind::Float;
        self.slots.iter().any(alone)
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
        let step = AdamWStep { beta1, beta2, eps, weight_decay, clip, t };
        let _no_grad = tch::no_grad_guard();
        let mut params = Vec::new();
        for (slot, grad) in self.slots.iter().zip(&gradients.grads) {
            let (Some(grad), lr) = (grad, lr * slot.lr_scale) else { continue };
            match slot.for_kernel(grad, lr, t) {
                Some(param) => params.push(param),
                None => slot.update_plain(grad, lr, &step),
            }
        }
        kernels::adamw_(&params, &step);
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
        self.slots.iter().flat_map(Slot::state).collect()
    }

    /// Puts back what [`state`](Self::state) gave after `step` updates. `path`: where `file` lies, for errors.
    ///
    /// # Errors
    /// A tensor that is missing or has another shape or dtype: the file belongs to another model, or to another choice of
    /// what is kept.
    pub fn restore(&mut self, file: &TensorFile, path: &Path, step: u64) -> Result<(), TrainError> {
        let _no_grad = tch::no_grad_guard();
        let state = self.state();
        let described = |shape: Option<Vec<i64>>, kind: Option<Kind>| match (shape, kind) {
            (Some(shape), Some(kind)) => format!("{kind:?} {shape:?}"),
            _ => "none".to_owned(),
        };
        for (name, target) in &state {
            let expected = described(Some(target.size()), Some(target.kind()));
            let found = described(file.shape(name), file.kind(name));
            if found != expected {
                let reason = format!(
                    "{name}: expected {expected}, found {found}\n\
                     help: optimizer.master and optimizer.moments must be those of the checkpoint"
                );
                return Err(TrainError::BadCheckpoint { path: path.into(), reason });
            }
        }
        if let Some(other) =
            file.names().into_iter().find(|name| state.iter().all(|(n, _)| n != name))
        {
            let reason = format!(
                "{other}: expected no such tensor\n\
                 help: optimizer.master and optimizer.moments must be those of the checkpoint"
            );
            return Err(TrainError::BadCheckpoint { path: path.into(), reason });
        }
        for (name, mut target) in state {
            target.copy_(&file.stored(&name)?);
        }
        self.step = step;
        Ok(())
    }
}
