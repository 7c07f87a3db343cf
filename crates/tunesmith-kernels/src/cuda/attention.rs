//! Attention over ragged documents on the GPU: libtorch's varlen flash attention (FlashAttention-2), bf16 only.

use crate::{AttentionShape, ffi};
use tch::{Device, Kind, Tensor};

/// Document borders (documents + 1) on the device, and the longest document.
fn borders(shape: &AttentionShape, device: Device) -> (Tensor, i64) {
    let mut ends = vec![0_i32];
    for &n in &shape.queries {
        ends.push(ends[ends.len() - 1] + n as i32);
    }
    let longest = shape.queries.iter().copied().max().unwrap_or(0);
    (Tensor::from_slice(&ends).to_device(device), longest)
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
