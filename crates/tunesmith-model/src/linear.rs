//! A linear layer: y = x Wᵀ + b, and what adapters add to it. Adapters and the storage of W are properties of this type;
//! nothing around it knows of them.
//!
//! Shapes: N tokens, I inputs, O outputs, R rank of an adapter.
//!
//! [`Linear::forward`] is the plain twin, in ordinary autograd. A coarse node takes a [`LinearOp`] instead: forward and
//! backward by hand, gradients straight into the parameters' [`MainGrad`]s.

use crate::{
    MainGrad, Pass,
    lora::{Lora, LoraOp, LoraSaved},
    node,
    param::{Init, Param, Place, Role, Spec, Supply, dense},
    quant::Quantised,
};
use std::rc::Rc;
use tch::{Kind, Tensor};
use tunesmith_kernels::{matvec, matvec_all, prefers_matvec};

/// A projection, stored `[O, I]`, or `[I, O]` where the checkpoint has it so (GPT-2's Conv1D).
#[derive(Debug)]
pub(crate) struct Linear {
    /// The module's name: its weight's, without `.weight`.
    pub(crate) name: String,
    pub(crate) weight: Weight,
    bias: Option<Place>,
    pub(crate) transposed: bool,
    pub(crate) n_in: i64,
    pub(crate) n_out: i64,
    loras: Vec<(usize, Lora)>, // by the adapter's number
}

/// How the matrix lies in memory. Under an adapter it is frozen.
#[derive(Debug)]
pub(crate) enum Weight {
    /// As it is, in the model's dtype.
    Dense(Place),
    /// In few bits, frozen; products see it in the stream's dtype.
    Quantised { codes: Quantised, kind: Kind },
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
            role: Role::Projection,
            shape: size,
            init: Init::Normal { std: init_std },
        });
        let bias = bias.then(|| {
            let spec = Spec {
                name: format!("{name}.bias"),
                role: Role::Bias,
                shape: vec![n_out],
                init: Init::Zeros,
            };
            Place::new(dense(supply, spec))
        });
        Self { name: name.into(), weight, bias, transposed, n_in, n_out, loras: Vec::new() }
    }

    /// A layer without bias around a weight `[O, I]` that is there already.
    pub(crate) fn around(name: &str, weight: Rc<Param>) -> Self {
        let size = weight.tensor.size();
        let (n_in, n_out) = (size.last().copied().unwrap_or(0), size.first().copied().unwrap_or(0));
        let (name, weight) = (name.to_owned(), Weight::Dense(Place::new(weight)));
        Self { name, weight, bias: None, transposed: false, n_in, n_out, loras: Vec::new() }
    }

    /// Gives the adapter of this number its part.
    pub(crate) fn attach(&mut self, adapter: usize, lora: Lora) {
        self.loras.push((adapter, lora));
    }

    /// Takes the part of an adapter away.
    pub(crate) fn detach(&mut self, adapter: usize) {
        self.loras.retain(|(number, _)| *number != adapter);
        if let Weight::Dense(weight) = &mut self.weight {
            weight.restore(adapter);
        }
        self.bias.iter_mut().for_each(|bias| bias.restore(adapter));
    }

    /// Writes an adapter's part into the base's weights, which are dense.
    pub(crate) fn merge(&mut self, adapter: usize) {
        let merged = self.lora_of(adapter).map(|lora| lora.merged(&self.base_matrix()));
        if let Weight::Dense(weight) = &mut self.weight {
            if let Some(merged) = merged {
                let merged = if self.transposed { merged.tr() } else { merged };
                weight.base().tensor.shallow_clone().copy_(&merged);
            }
            weight.merge(adapter);
        }
        self.bias.iter_mut().for_each(|bias| bias.merge(adapter));
    }

    pub(crate) fn is_changed_by(&self, adapter: usize) -> bool {
        let replaced =
            matches!(&self.weight, Weight::Dense(weight) if weight.is_changed_by(adapter));
        self.lora_of(adapter).is_some() || replaced
    }

    /// How many weights are quantised; `None` where they are dense.
    pub(crate) fn n_quantised(&self) -> Option<usize> {
        match &self.weight {
            Weight::Dense(_) => None,
            Weight::Quantised { codes, .. } => Some(codes.numel()),
        }
    }

    /// Makes a quantised matrix dense; the new parameter, or `None` where it was dense already.
    pub(crate) fn dequantise(&mut self) -> Option<Rc<Param>> {
        let Weight::Quantised { codes, kind } = &self.weight else { return None };
        let name = format!("{}.weight", self.name);
        let param = Param::new(name, Role::Projection, codes.dequantise(*kind), false);
        self.weight = Weight::Dense(Place::new(param.clone()));
        Some(param)
    }

    pub(crate) fn lora_of(&self, adapter: usize) -> Option<&Lora> {
        self.loras.iter().find(|(number, _)| *number == adapter).map(|(_, lora)| lora)
    }

    pub(crate) fn bias(&self) -> Option<&Place> {
        self.bias.as_ref()
    }

    pub(crate) fn bias_mut(&mut self) -> Option<&mut Place> {
        self.bias.as_mut()
    }

    /// W of the base as (O, I), without a gradient.
    pub(crate) fn base_matrix(&self) -> Tensor {
        self.matrix(&Pass::base()).detach()
    }

    /// `[N, I]` → `[N, O]`, in ordinary autograd.
    pub(crate) fn forward(&self, x: &Tensor, pass: &Pass) -> Tensor {
        if let Weight::Quantised { .. } = &self.weight {
            return self.node(x, pass);
        }
        let bias = self.bias.as_ref().map(|bias| &bias.at(pass).tensor);
        let w = self.matrix(pass);
        let Some(lora) = self.lora(pass) else { return x.linear(&w, bias) };
        lora.forward(&w, bias, x, self.dropout_stream(pass))
    }

    /// The layer as one node: autograd would keep every dequantised matrix until the backward pass.
    fn node(&self, x: &Tensor, pass: &Pass) -> Tensor {
        let (op, input) = (self.op(pass), x.detach());
        let (y, saved) = op.forward(&input);
        let leaves: Vec<Tensor> = op.leaves().into_iter().map(Tensor::shallow_clone).collect();
        node::attach(c"linear", x, &leaves, &y, move |dy, want_dx| {
            let mut dx = Dx::wanted(want_dx);
            op.backward(saved, &input, dy, &mut dx);
            dx.take()
        });
        y
    }

    /// Bytes that a node keeps of this layer per token, beside its input: what its adapter leaves.
    pub(crate) fn kept_per_token(&self, bytes: u64) -> u64 {
        self.loras.iter().map(|(_, lora)| lora.kept_per_token(bytes)).max().unwrap_or(0)
    }

    /// A handle for a coarse node, which may go to another thread.
    pub(crate) fn op(&self, pass: &Pass) -> LinearOp {
        LinearOp {
            weight: match &self.weight {
                Weight::Dense(weight) => WeightOp::Dense(Leaf::of(weight.at(pass))),
                Weight::Quantised { codes, kind } => {
                    WeightOp::Quantised { codes: codes.shallow_clone(), kind: *kind }
                }
            },
            transposed: self.transposed,
            bias: self.bias.as_ref().map(|bias| Leaf::of(bias.at(pass))),
            lora: self.lora(pass).map(|lora| lora.op(self.dropout_stream(pass))),
        }
    }

    /// W as (O, I).
    fn matrix(&self, pass: &Pass) -> Tensor {
        let weight = match &self.weight {
            Weight::Dense(weight) => weight.at(pass).tensor.shallow_clone(),
            Weight::Quantised { codes, kind } => codes.dequantise(*kind),
        };
        if self.transposed { weight.tr() } else { weight }
    }

    fn lora(&self, pass: &Pass) -> Option<&Lora> {
        self.lora_of(pass.adapter?)
    }

    /// What names this layer's dropout mask in `pass`.
    fn dropout_stream(&self, pass: &Pass) -> Option<u64> {
        pass.dropout.map(|key| key.stream(&self.name))
    }
}

/// A parameter as a node on another thread sees it.
#[derive(Debug)]
pub(crate) struct Leaf {
    pub(crate) tensor: Tensor,
    /// Where its gradient goes; `None`: it is frozen.
    pub(crate) grad: Option<MainGrad>,
}

impl Leaf {
    pub(crate) fn of(param: &Param) -> Self {
        let grad = param.trainable().then(|| param.main_grad().clone());
        Self { tensor: param.tensor.shallow_clone(), grad }
    }

    /// Adds aᵀ b to the gradient; a (N, O), b (N, I).
    pub(crate) fn accumulate_product(&self, a: &Tensor, b: &Tensor) {
        let Some(grad) = &self.grad else { return };
        match (a.kind(), b.kind()) {
            (Kind::Float, Kind::Float) => grad.accumulate_product(&a.tr(), b),
            _ => grad.accumulate(&a.tr().matmul(b)),
        }
    }

    /// Adds `part()` to the gradient, if there is one.
    pub(crate) fn accumulate(&self, part: impl FnOnce() -> Tensor) {
        if let Some(grad) = &self.grad {
            grad.accumulate(&part());
        }
    }
}

/// A [`Linear`] of one pass, for coarse nodes: `Send`, without autograd.
#[derive(Debug)]
pub(crate) struct LinearOp {
    weight: WeightOp,
    transposed: bool,
    bias: Option<Leaf>,
    lora: Option<LoraOp>,
}

/// The matrix of a [`LinearOp`].
#[derive(Debug)]
enum WeightOp {
    Dense(Leaf),
    Quantised { codes: Quantised, kind: Kind },
}

/// The gradient of an input that several layers may share.
#[derive(Debug)]
pub(crate) enum Dx {
    /// Nobody asks for it.
    Unwanted,
    /// What has arrived so far.
    Sum(Option<Tensor>),
}

impl Dx {
    pub(crate) fn wanted(wanted: bool) -> Self {
        if wanted { Self::Sum(None) } else { Self::Unwanted }
    }

    /// Adds a · b, in the product itself where something is there already.
    pub(crate) fn add_product(&mut self, a: &Tensor, b: &Tensor) {
        match self {
            Self::Unwanted => {}
            Self::Sum(Some(sum)) => _ = sum.addmm_(a, b),
            Self::Sum(none) => *none = Some(a.matmul(b)),
        }
    }

    pub(crate) fn add(&mut self, part: Tensor) {
        match self {
            Self::Unwanted => {}
            Self::Sum(Some(sum)) => *sum += part,
            Self::Sum(none) => *none = Some(part),
        }
    }

    /// The sum; `None` where it is unwanted or nothing arrived.
    pub(crate) fn take(self) -> Option<Tensor> {
        match self {
            Self::Unwanted => None,
            Self::Sum(sum) => sum,
        }
    }
}

/// What [`LinearOp::forward`] keeps for its backward, beside the input.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    lora: Option<LoraSaved>,
}

impl LinearOp {
    /// x (N, I) → y (N, O). The caller keeps x.
    pub(crate) fn forward(&self, x: &Tensor) -> (Tensor, Saved) {
        let _no_grad = tch::no_grad_guard();
        let (w, bias) = (self.matrix(), self.bias.as_ref().map(|bias| &bias.tensor));
        match &self.lora {
            None if prefers_matvec(x, &w) => (matvec(x, &w, bias), Saved::default()),
            None => (x.linear(&w, bias), Saved::default()),
            Some(lora) => {
                let (y, saved) = lora.forward(&w, bias, x);
                (y, Saved { lora: Some(saved) })
            }
        }
    }

    /// What [`forward`](Self::forward) of `x()` kept, without the product: bit for bit the same.
    pub(crate) fn save(&self, x: impl FnOnce() -> Tensor) -> Saved {
        let _no_grad = tch::no_grad_guard();
        Saved { lora: self.lora.as_ref().map(|lora| lora.save(|| self.matrix(), &x())) }
    }

    /// Several layers of one input; a few rows pass all of them at once.
    pub(crate) fn forward_all<const L: usize>(
        layers: [&Self; L],
        x: &Tensor,
    ) -> [(Tensor, Saved); L] {
        let _no_grad = tch::no_grad_guard();
        let few = |op: &&Self| op.lora.is_none() && prefers_matvec(x, &op.matrix());
        if !layers.iter().all(few) {
            return layers.map(|op| op.forward(x));
        }
        let matrices = layers.map(Self::matrix);
        let with_bias = std::array::from_fn(|i| {
            (&matrices[i], layers[i].bias.as_ref().map(|bias| &bias.tensor))
        });
        matvec_all(x, with_bias).map(|y| (y, Saved::default()))
    }

    /// Adds this layer's parts of the gradient to its parameters', and to dx (N, I) if that is wanted.
    pub(crate) fn backward(&self, saved: Saved, x: &Tensor, dy: &Tensor, dx: &mut Dx) {
        let _no_grad = tch::no_grad_guard();
        match (&self.weight, self.transposed) {
            (WeightOp::Dense(weight), true) => weight.accumulate_product(x, dy),
            (WeightOp::Dense(weight), false) => weight.accumulate_product(dy, x),
            (WeightOp::Quantised { .. }, _) => {} // frozen
        }
        if let Some(bias) = &self.bias {
            bias.accumulate(|| dy.sum_dim_intlist(0, false, Kind::Float));
        }
        match (&self.lora, saved.lora) {
            (Some(lora), Some(saved)) => lora.backward(&self.matrix(), saved, x, dy, dx),
            _ if matches!(dx, Dx::Unwanted) => {}
            _ => dx.add_product(dy, &self.matrix()),
        }
    }

    /// The trainable tensors, which a node lists among its inputs, returning no gradient for them: so it runs even where
    /// its input needs none.
    pub(crate) fn leaves(&self) -> Vec<&Tensor> {
        let weight = match &self.weight {
            WeightOp::Dense(weight) => Some(weight),
            WeightOp::Quantised { .. } => None,
        };
        let own = [weight, self.bias.as_ref()].into_iter().flatten();
        let lora = self.lora.iter().flat_map(LoraOp::leaves);
        own.chain(lora).filter(|leaf| leaf.grad.is_some()).map(|leaf| &leaf.tensor).collect()
    }

    fn matrix(&self) -> Tensor {
        let weight = match &self.weight {
            WeightOp::Dense(weight) => weight.tensor.detach(),
            WeightOp::Quantised { codes, kind } => codes.dequantise(*kind),
        };
        if self.transposed { weight.tr() } else { weight }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DropoutKey;
    use tch::Device;

    fn randn(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn param(name: &str, role: Role, shape: &[i64]) -> Rc<Param> {
        Param::new(name.into(), role, randn(shape), true)
    }

    /// Every form of a layer: 3 inputs, 4 outputs, rank 2.
    fn layer(transposed: bool, bias: bool, lora: bool, dora: bool, dropout: f64) -> Linear {
        let size = if transposed { [3, 4] } else { [4, 3] };
        // Under an adapter the matrix is frozen.
        let w = Param::new("w.weight".into(), Role::Projection, randn(&size), !lora);
        let mut linear = Linear::around("w", w);
        linear.transposed = transposed;
        linear.bias = bias.then(|| Place::new(param("w.bias", Role::Bias, &[4])));
        if lora {
            let a = param("a", Role::LoraA, &[2, 3]);
            let b = param("b", Role::LoraB, &[4, 2]);
            let magnitude = dora.then(|| param("m", Role::Magnitude, &[4]));
            let initial = dropout.gt(&0.0).then(|| (randn(&[2, 3]), randn(&[4, 2])));
            linear.attach(0, Lora { a, b, magnitude, scale: 1.5, dropout, initial });
        }
        linear
    }

    fn close(what: &str, a: &Tensor, b: &Tensor) {
        let error = ((a - b).abs().max() / b.abs().max()).double_value(&[]);
        assert!(error <= 1e-5, "{what}: relative difference {error:e}");
    }

    /// The handle that nodes take computes what autograd makes of the plain twin: output and every gradient.
    #[test]
    fn an_op_is_its_twin() {
        tch::manual_seed(3);
        let forms = [
            (false, false, false, false, 0.0),
            (true, true, false, false, 0.0),
            (false, true, true, false, 0.0),
            (true, false, true, false, 0.3),
            (false, true, true, true, 0.0),
            (true, true, true, true, 0.3),
        ];
        for (transposed, bias, lora, dora, dropout) in forms {
            let what = format!("{transposed} {bias} {lora} {dora} {dropout}");
            let linear = layer(transposed, bias, lora, dora, dropout);
            let key = DropoutKey { seed: 1, step: 2, micro_batch: 3 };
            let pass = Pass { dropout: Some(key), ..Pass::default() };
            let (x, dy) = (randn(&[5, 3]).set_requires_grad(true), randn(&[5, 4]));

            let y = linear.forward(&x, &pass);
            let Weight::Dense(weight) = &linear.weight else { panic!("dense") };
            let mut params: Vec<&Rc<Param>> = linear.bias.iter().map(Place::base).collect();
            params.extend((!lora).then_some(weight.base()));
            if let Some((_, lora)) = linear.loras.first() {
                params.extend([&lora.a, &lora.b].into_iter().chain(&lora.magnitude));
            }
            let mut leaves: Vec<&Tensor> = params.iter().map(|param| &param.tensor).collect();
            leaves.push(&x);
            let expected =
                Tensor::run_backward(&[(&y * &dy).sum(Kind::Float)], &leaves, false, false);

            let op = linear.op(&pass);
            assert_eq!(op.leaves().len(), params.len(), "{what}");
            let input = x.detach();
            let (found, saved) = op.forward(&input);
            close(&what, &found, &y.detach());
            let mut dx = Dx::wanted(true);
            op.backward(saved, &input, &dy, &mut dx);
            let dx = dx.take().unwrap();
            close(&what, &dx, &expected[params.len()]);
            for (param, expected) in params.iter().zip(&expected) {
                let found = param.main_grad().take().unwrap();
                close(&format!("{what}: {}", param.name), &found, expected);
            }
        }
    }

    #[test]
    fn dropout_is_named_and_an_adapter_can_be_switched_off() {
        tch::manual_seed(4);
        let (linear, x) = (layer(false, true, true, false, 0.5), randn(&[50, 3]));
        let with = |adapter, step: Option<u64>| {
            let dropout = step.map(|step| DropoutKey { seed: 1, step, micro_batch: 0 });
            let pass = Pass { adapter, dropout, ..Pass::default() };
            tch::no_grad(|| linear.forward(&x, &pass))
        };
        assert_eq!(with(Some(0), Some(1)), with(Some(0), Some(1)));
        assert_ne!(with(Some(0), Some(1)), with(Some(0), Some(2)));
        assert_ne!(with(Some(0), None), with(Some(0), Some(2)));
        let Weight::Dense(weight) = &linear.weight else { panic!("dense") };
        let bias = linear.bias.as_ref().map(|bias| &bias.base().tensor);
        let base = tch::no_grad(|| x.linear(&weight.base().tensor, bias));
        assert_eq!(with(None, None), base);
        assert_eq!(with(Some(1), None), base, "no such adapter");
    }
}
