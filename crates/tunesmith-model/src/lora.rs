//! LoRA (Hu et al. 2021) and DoRA (Liu et al. 2024) on one linear layer: y = W x + b + s·B A x, s = α/r or α/√r (rsLoRA,
//! Kalajdzievski 2023).
//!
//! Shapes: N tokens, I inputs, O outputs, R rank.
//!
//! DoRA scales each row of V = W + s·BA to the learned length m: y = b + W x + (g − 1) ⊙ W x' + g ⊙ s·B A x', where
//! g = m / ‖V‖, whose norm counts as a constant (section 4.3), and x' is x after dropout.
//! A and B are kept in fp32 and rounded to the stream's dtype where they meet it.

use crate::{
    Param,
    linear::{Dx, Leaf},
};
use std::rc::Rc;
use tch::{Kind, Tensor};

/// The adapter of one layer.
#[derive(Debug)]
pub(crate) struct Lora {
    pub(crate) a: Rc<Param>,                 // (R, I)
    pub(crate) b: Rc<Param>,                 // (O, R)
    pub(crate) magnitude: Option<Rc<Param>>, // (O): DoRA
    pub(crate) scale: f64,
    pub(crate) dropout: f64,
    /// A₀ and B₀ of PiSSA: the change is s (BA − B₀A₀). Frozen.
    pub(crate) initial: Option<(Tensor, Tensor)>,
}

impl Lora {
    /// y (N, O) for `w` (O, I), in ordinary autograd. `stream` names the dropout mask.
    pub(crate) fn forward(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        x: &Tensor,
        stream: Option<u64>,
    ) -> Tensor {
        let kind = x.kind();
        let dropped = self.drop(x, stream);
        let inner = dropped.as_ref().unwrap_or(x);
        let product = |a: &Tensor, b: &Tensor| {
            inner.matmul(&a.to_kind(kind).tr()).matmul(&b.to_kind(kind).tr()) * self.scale
        };
        let mut delta = product(&self.a.tensor, &self.b.tensor);
        if let Some((a, b)) = &self.initial {
            delta -= product(a, b);
        }
        let base = x.linear(w, bias);
        let Some(magnitude) = &self.magnitude else { return base + delta };
        let gain = (&magnitude.tensor / self.norm(w)).to_kind(kind); // (O)
        let plain = inner.matmul(&w.tr());
        base + (&gain - 1.0) * plain + gain * delta
    }

    pub(crate) fn op(&self, stream: Option<u64>) -> LoraOp {
        LoraOp {
            a: Leaf::of(&self.a),
            b: Leaf::of(&self.b),
            magnitude: self.magnitude.as_deref().map(Leaf::of),
            scale: self.scale,
            dropout: self.dropout,
            initial: self.initial.as_ref().map(|(a, b)| (a.shallow_clone(), b.shallow_clone())),
            stream,
        }
    }

    fn drop(&self, x: &Tensor, stream: Option<u64>) -> Option<Tensor> {
        let mask = mask(x, self.dropout, stream)?;
        Some(x * mask)
    }

    /// Bytes of a [`LoraSaved`] per token.
    pub(crate) fn kept_per_token(&self, bytes: u64) -> u64 {
        let size = |param: &Param| param.tensor.size().first().map_or(0, |&n| n as u64);
        (size(&self.a) + self.magnitude.as_deref().map_or(0, size)) * bytes
    }

    /// ‖W + s·BA‖ of each row, (O), fp32, without a gradient.
    pub(crate) fn norm(&self, w: &Tensor) -> Tensor {
        tch::no_grad(|| {
            row_norm(&changed(w, &self.a.tensor, &self.b.tensor, self.initial.as_ref(), self.scale))
        })
    }

    /// W with the adapter in it, (O, I), fp32.
    pub(crate) fn merged(&self, w: &Tensor) -> Tensor {
        let v = changed(w, &self.a.tensor, &self.b.tensor, self.initial.as_ref(), self.scale);
        match &self.magnitude {
            Some(magnitude) => (&magnitude.tensor / row_norm(&v)).unsqueeze(1) * v,
            None => v,
        }
    }
}

/// W + s (BA − B₀A₀), (O, I), fp32.
fn changed(
    w: &Tensor,
    a: &Tensor,
    b: &Tensor,
    initial: Option<&(Tensor, Tensor)>,
    scale: f64,
) -> Tensor {
    let v = w.to_kind(Kind::Float) + b.matmul(a) * scale;
    match initial {
        Some((a, b)) => v - b.matmul(a) * scale,
        None => v,
    }
}

fn row_norm(v: &Tensor) -> Tensor {
    v.norm_scalaropt_dim(2, [1i64].as_slice(), false)
}

/// The dropout mask of x, already divided by the share that is kept; `None` where nothing is dropped.
fn mask(x: &Tensor, dropout: f64, stream: Option<u64>) -> Option<Tensor> {
    let stream = stream.filter(|_| dropout > 0.0)?;
    let kept = crate::random::uniform(stream, &x.size(), x.device()).ge(dropout);
    Some(kept.to_kind(x.kind()) / (1.0 - dropout))
}

/// A [`Lora`] of one pass, for coarse nodes: `Send`, without autograd.
#[derive(Debug)]
pub(crate) struct LoraOp {
    a: Leaf,
    b: Leaf,
    magnitude: Option<Leaf>,
    scale: f64,
    dropout: f64,
    initial: Option<(Tensor, Tensor)>,
    stream: Option<u64>,
}

/// What the forward keeps for the backward.
#[derive(Debug)]
pub(crate) struct LoraSaved {
    low: Tensor, // A x', (N, R)
    dora: Option<DoraSaved>,
}

#[derive(Debug)]
struct DoraSaved {
    inner: Tensor, // W x' + s·B A x', (N, O)
    gain: Tensor,  // m / ‖V‖, (O)
    norm: Tensor,  // ‖V‖, (O), fp32
}

impl LoraOp {
    /// y (N, O), and what [`backward`](Self::backward) needs beside x.
    pub(crate) fn forward(
        &self,
        w: &Tensor,
        bias: Option<&Tensor>,
        x: &Tensor,
    ) -> (Tensor, LoraSaved) {
        let kind = x.kind();
        let dropped = self.mask(x).map(|mask| x * mask);
        let input = dropped.as_ref().unwrap_or(x);
        let low = self.low(input);
        let b = self.b.tensor.detach().to_kind(kind);
        let mut y = x.linear(w, bias);
        let Some(magnitude) = &self.magnitude else {
            match self.initial_delta(input) {
                // Of two equal products the difference is exactly zero: a fresh PiSSA adapter changes nothing.
                Some(initial) => y += low.matmul(&b.tr()) * self.scale - initial,
                None => _ = y.addmm_(&(&low * self.scale), &b.tr()),
            }
            return (y, LoraSaved { low, dora: None });
        };
        let (a, initial) = (&self.a.tensor, self.initial.as_ref());
        let norm = row_norm(&changed(w, a, &self.b.tensor, initial, self.scale));
        let gain = (magnitude.tensor.detach() / &norm).to_kind(kind);
        let plain = input.matmul(&w.tr());
        let mut delta = low.matmul(&b.tr()) * self.scale;
        if let Some(initial) = self.initial_delta(input) {
            delta -= initial;
        }
        y += (&gain - 1.0) * &plain + &gain * &delta;
        (y, LoraSaved { low, dora: Some(DoraSaved { inner: plain + delta, gain, norm }) })
    }

    /// What [`forward`](Self::forward) keeps, with as few products as that takes.
    pub(crate) fn save(&self, w: impl FnOnce() -> Tensor, x: &Tensor) -> LoraSaved {
        if self.magnitude.is_some() {
            return self.forward(&w(), None, x).1;
        }
        let dropped = self.mask(x).map(|mask| x * mask);
        LoraSaved { low: self.low(dropped.as_ref().unwrap_or(x)), dora: None }
    }

    /// A x', (N, R).
    fn low(&self, x: &Tensor) -> Tensor {
        x.matmul(&self.a.tensor.detach().to_kind(x.kind()).tr())
    }

    /// Adds to the gradients of A, B and m, and to dx, W's part included, if that is wanted.
    pub(crate) fn backward(
        &self,
        w: &Tensor,
        saved: LoraSaved,
        x: &Tensor,
        dy: &Tensor,
        dx: &mut Dx,
    ) {
        let kind = x.kind();
        let LoraSaved { low, dora } = saved;
        let mask = self.mask(x);
        // What reaches s·B A x' : dy, or g ⊙ dy.
        let d_delta = match (&dora, &self.magnitude) {
            (Some(dora), Some(magnitude)) => {
                magnitude.accumulate(|| {
                    (dy * &dora.inner).sum_dim_intlist(0, false, Kind::Float) / &dora.norm
                });
                dy * &dora.gain
            }
            _ => dy.shallow_clone(),
        };
        // s meets (N, R), not (N, O).
        self.b.accumulate_product(&d_delta, &(low * self.scale));
        let d_low = d_delta.matmul(&self.b.tensor.detach().to_kind(kind)) * self.scale; // (N, R)
        match &mask {
            Some(mask) => self.a.accumulate_product(&d_low, &(x * mask)),
            None => self.a.accumulate_product(&d_low, x),
        }
        if matches!(dx, Dx::Unwanted) {
            return;
        }
        let a = self.a.tensor.detach().to_kind(kind);
        let of_initial = self.initial.as_ref().map(|(a, b)| {
            let d_low = d_delta.matmul(&b.to_kind(kind)) * -self.scale;
            (d_low, a.to_kind(kind))
        });
        let Some(mask) = mask else {
            dx.add_product(&d_delta, w); // g ⊙ dy carries W's part too
            dx.add_product(&d_low, &a);
            of_initial.iter().for_each(|(d_low, a)| dx.add_product(d_low, a));
            return;
        };
        let mut dropped = d_low.matmul(&a); // (N, I)
        if let Some((d_low, a)) = &of_initial {
            let _ = dropped.addmm_(d_low, a);
        }
        if dora.is_some() {
            let _ = dropped.addmm_(&(d_delta - dy), w);
        }
        dx.add_product(dy, w);
        dx.add(dropped * mask);
    }

    pub(crate) fn leaves(&self) -> impl Iterator<Item = &Leaf> {
        [Some(&self.a), Some(&self.b), self.magnitude.as_ref()].into_iter().flatten()
    }

    fn mask(&self, x: &Tensor) -> Option<Tensor> {
        mask(x, self.dropout, self.stream)
    }

    /// s·B₀A₀ x.
    fn initial_delta(&self, x: &Tensor) -> Option<Tensor> {
        let (a, b) = self.initial.as_ref()?;
        let kind = x.kind();
        Some(x.matmul(&a.to_kind(kind).tr()).matmul(&b.to_kind(kind).tr()) * self.scale)
    }
}
