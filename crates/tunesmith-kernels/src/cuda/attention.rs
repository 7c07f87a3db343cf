//! Attention over ragged documents on the GPU: libtorch's varlen flash attention (FlashAttention-2), bf16 only.
//!
//! cuDNN's is there to be measured beside it.

use crate::{AttentionShape, KernelError, ffi};
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// Document borders (documents + 1) on the device, and the longest document.
struct Borders {
    queries: Vec<i64>,
    tensor: Tensor,
    longest: i64,
}

/// Those of the batch at work, which every layer asks for, forward and backward: each copy from the host would wait for
/// all that is under way.
static LAST: Mutex<Option<Borders>> = Mutex::new(None);

fn borders(shape: &AttentionShape, device: Device) -> (Tensor, i64) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &*last
        && last.queries == shape.queries
        && last.tensor.device() == device
    {
        return (last.tensor.shallow_clone(), last.longest);
    }
    let (ends, longest) = ends(&shape.queries);
    let tensor = Tensor::from_slice(&ends).to_device(device);
    let made = Borders { queries: shape.queries.clone(), tensor: tensor.shallow_clone(), longest };
    *last = Some(made);
    (tensor, longest)
}

/// Where documents begin and end. Empty ones are left out; 2 is the least that is called longest, since with 1 libtorch
/// takes a way that is made for decoding and counts one token per document.
fn ends(queries: &[i64]) -> (Vec<i32>, i64) {
    let mut ends = vec![0_i32];
    for &n in queries.iter().filter(|&&n| n > 0) {
        ends.push(ends[ends.len() - 1] + n as i32);
    }
    (ends, queries.iter().copied().max().unwrap_or(0).max(2))
}

/// `q` (N, H, D), `k` and `v` (N, K, D) → (N, H, D), and what the backward pass wants of the softmaxes.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
) -> (Tensor, Tensor) {
    let (borders, longest) = borders(shape, q.device());
    let made = ffi::flash_attention([q, k, v, &borders], longest, shape.scale, shape.window);
    let [out, lse] = made.unwrap_or_else(|error| panic!("attention: {error}"));
    (out, lse)
}

/// The gradients of q, k and v.
pub(crate) fn attention_backward(
    dout: &Tensor,
    qkv: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape,
) -> [Tensor; 3] {
    let device = dout.device();
    let (borders, longest) = borders(shape, device);
    // Where nothing is dropped, nothing random is read.
    let random = Tensor::zeros([2], (Kind::Int64, device));
    let [q, k, v] = qkv;
    let tensors = [dout, q, k, v, out, lse, &borders, &random];
    let made = ffi::flash_attention_backward(tensors, longest, shape.scale, shape.window);
    made.unwrap_or_else(|error| panic!("attention backward: {error}"))
}

/// What cuDNN's attention over packed documents gave. Nothing but the benchmark asks for it: libtorch itself does not
/// trust it with packed documents.
#[derive(Debug)]
pub struct CudnnAttention {
    /// (N, H, D).
    pub out: Tensor,
    inputs: [Tensor; 4], // q, k, v, borders
    kept: [Tensor; 3],   // statistics of the softmaxes, and two that backward hands back
    longest: i64,
    scale: f64,
}

impl CudnnAttention {
    /// `q` (N, H, D), `k` and `v` (N, K, D), causal within documents.
    ///
    /// # Errors
    /// What libtorch or cuDNN says; a window.
    pub fn forward([q, k, v]: [&Tensor; 3], shape: &AttentionShape) -> Result<Self, KernelError> {
        if shape.window.is_some() {
            return Err(KernelError::Cuda("cuDNN's ragged attention has no window".into()));
        }
        let ((borders, longest), scale) = (borders(shape, q.device()), shape.scale);
        let [out, lse, seed, offset] = ffi::cudnn_attention([q, k, v, &borders], longest, scale)?;
        let inputs = [q, k, v, &borders].map(Tensor::shallow_clone);
        Ok(Self { out, inputs, kept: [lse, seed, offset], longest, scale })
    }

    /// The gradients of q, k and v.
    ///
    /// # Errors
    /// What libtorch or cuDNN says.
    pub fn backward(&self, dout: &Tensor) -> Result<[Tensor; 3], KernelError> {
        let [q, k, v, borders] = &self.inputs;
        let [lse, seed, offset] = &self.kept;
        let tensors = [dout, q, k, v, &self.out, lse, seed, offset, borders];
        ffi::cudnn_attention_backward(tensors, self.longest, self.scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_skip_what_is_empty() {
        for (queries, expected, longest) in
            [(&[3, 0, 2][..], &[0, 3, 5][..], 3), (&[1, 1], &[0, 1, 2], 2), (&[], &[0], 2)]
        {
            assert_eq!(ends(queries), (expected.to_vec(), longest));
        }
    }

    #[test]
    fn borders_are_made_once_per_batch() {
        let shape = |queries| AttentionShape { queries, scale: 1.0, window: None };
        let of = |queries: Vec<i64>| borders(&shape(queries), Device::Cpu).0;
        let first = of(vec![5, 6]);
        assert_eq!(first.data_ptr(), of(vec![5, 6]).data_ptr());
        assert_eq!(Vec::<i32>::try_from(of(vec![5, 7])).unwrap(), [0, 5, 12]);
    }
}
