//! The gradient of a parameter over one optimizer step, in fp32: micro-batches of a bf16 model would lose what is small.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Kind, Tensor};

/// A handle on a parameter's gradient. Clones share it, and a backward closure on another thread may own one.
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
        Self(Arc::new(Slot { shape, device, sum: Mutex::new(None) }))
    }

    /// Adds `grad`, of any dtype. Its storage is not kept: autograd may share it with another gradient.
    pub fn accumulate(&self, grad: &Tensor) {
        let _no_grad = tch::no_grad_guard();
        match &mut *self.lock() {
            Some(sum) => _ = sum.g_add_(&grad.to_kind(Kind::Float)),
            none => *none = Some(grad.detach().to_dtype(Kind::Float, false, true)), // a copy in any case
        }
    }

    /// Lets `add` change the sum in place (zeros, if nothing has arrived): `addmm_` needs no tensor of its own then.
    ///
    /// `add` must not touch the same gradient through another handle.
    pub fn accumulate_with(&self, add: impl FnOnce(&mut Tensor)) {
        let _no_grad = tch::no_grad_guard();
        let Slot { shape, device, .. } = &*self.0;
        add(self.lock().get_or_insert_with(|| Tensor::zeros(shape, (Kind::Float, *device))));
    }

    /// Takes the sum and leaves nothing; `None` where no gradient arrived.
    pub fn take(&self) -> Option<Tensor> {
        self.lock().take()
    }

    /// A panic while it was held ends the backward pass with an error; what the sum then is, nobody reads.
    fn lock(&self) -> MutexGuard<'_, Option<Tensor>> {
        self.0.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let sum = grad.take().unwrap();
        assert_eq!(Vec::<f32>::try_from(sum).unwrap(), [2.0 + 1.0 / 512.0, 3.0]);
        assert!(grad.take().is_none());
    }

    #[test]
    fn an_expanded_gradient_can_be_added_to() {
        let grad = MainGrad::of(&Tensor::zeros([2], (Kind::Float, Device::Cpu)));
        let one = Tensor::from_slice(&[1.0f32]);
        grad.accumulate(&one.expand([2], false));
        grad.accumulate(&one.expand([2], false));
        assert_eq!(Vec::<f32>::try_from(grad.take().unwrap()).unwrap(), [2.0, 2.0]);
    }
}
