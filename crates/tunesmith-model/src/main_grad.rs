//! The gradient of a parameter over one optimizer step, in fp32: micro-batches of a bf16 model would lose what is small.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// A handle on a parameter's gradient. Clones share it, and a backward closure on another thread may own one.
///
/// Between steps it has no memory: the forward pass keeps its activations there (0.4 of 3.1 GiB for SmolLM2-135M).
#[derive(Debug, Clone)]
pub struct MainGrad(Arc<Slot>);

#[derive(Debug)]
struct Slot {
    shape: Vec<i64>,
    device: Device,
    sum: Mutex<Option<Tensor>>,
}

impl MainGrad {
    /// No gradient yet, for a weight of this shape and place.
    pub(crate) fn of(weight: &Tensor) -> Self {
        let (shape, device) = (weight.size(), weight.device());
        Self(Arc::new(Slot { shape, device, sum: Mutex::default() }))
    }

    /// Adds `grad`, of any dtype. Its storage is not kept: autograd may share it with another gradient.
    pub fn accumulate(&self, grad: &Tensor) {
        self.write(|to, first| match first {
            true => to.copy_(grad),
            false => _ = to.g_add_(grad), // widened on the way
        });
    }

    /// Adds `a` · `b`, both fp32: the product is written where the gradient lies.
    pub fn accumulate_product(&self, a: &Tensor, b: &Tensor) {
        self.write(|to, first| match first {
            true => _ = a.mm_out(to, b),
            false => _ = to.addmm_(a, b),
        });
    }

    /// Lets `add` change the sum in place (zeros, if nothing has arrived).
    ///
    /// `add` must not touch the same gradient through another handle.
    pub fn accumulate_with(&self, add: impl FnOnce(&mut Tensor)) {
        self.write(|to, first| {
            if first {
                let _ = to.zero_();
            }
            add(to);
        });
    }

    /// Takes the sum and leaves nothing; `None` where no gradient arrived.
    pub fn take(&self) -> Option<Tensor> {
        self.lock().take()
    }

    /// Calls `write` with the sum and whether it is new: then its values mean nothing.
    fn write(&self, write: impl FnOnce(&mut Tensor, bool)) {
        let _no_grad = tch::no_grad_guard();
        let Slot { shape, device, .. } = &*self.0;
        match &mut *self.lock() {
            Some(sum) => write(sum, false),
            none => write(none.insert(Tensor::empty(shape, (Kind::Float, *device))), true),
        }
    }

    /// A panic while it was held ends the backward pass with an error; what the sum then is, nobody reads.
    fn lock(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.0.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(grad: &MainGrad) -> Vec<f32> {
        Vec::<f32>::try_from(grad.take().unwrap().flatten(0, -1)).unwrap()
    }

    #[test]
    fn sums_are_fp32_and_share_nothing_with_what_was_added() {
        let grad = MainGrad::of(&Tensor::zeros([2], (Kind::BFloat16, Device::Cpu)));
        assert!(grad.take().is_none());
        let mut first = Tensor::from_slice(&[1.0f32, 2.0]);
        grad.accumulate(&first);
        let _ = first.zero_();
        // 1/512 is lost where 1 stands in bf16.
        let small = Tensor::from_slice(&[1.0f32 / 512.0, 0.0]).to_kind(Kind::BFloat16);
        grad.clone().accumulate(&small);
        grad.accumulate_with(|sum| _ = sum.g_add_scalar_(1.0));
        assert_eq!(values(&grad), [2.0 + 1.0 / 512.0, 3.0]);
        assert!(grad.take().is_none());
    }

    #[test]
    fn products_and_other_sums_are_added_in_place() {
        let grad = MainGrad::of(&Tensor::zeros([1, 2], (Kind::Float, Device::Cpu)));
        let (a, b) = (Tensor::from_slice(&[2.0f32]), Tensor::from_slice(&[1.0f32, 3.0]));
        let (a, b) = (a.view([1, 1]), b.view([1, 2]));
        for n in 1..=2 {
            (0..n).for_each(|_| grad.accumulate_product(&a, &b));
            assert_eq!(values(&grad), [2.0 * n as f32, 6.0 * n as f32]);
        }
        grad.accumulate(&b);
        assert_eq!(values(&grad), [1.0, 3.0]);
        grad.accumulate_with(|sum| _ = sum.g_add_(&b));
        assert_eq!(values(&grad), [1.0, 3.0]);
    }

    #[test]
    fn an_expanded_gradient_can_be_added_to() {
        let grad = MainGrad::of(&Tensor::zeros([2], (Kind::Float, Device::Cpu)));
        let one = Tensor::from_slice(&[1.0f32]);
        grad.accumulate(&one.expand([2], false));
        grad.accumulate(&one.expand([2], false));
        assert_eq!(values(&grad), [2.0, 2.0]);
    }
}
