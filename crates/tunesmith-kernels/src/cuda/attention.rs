//! Attention over ragged documents on the GPU: libtorch's varlen flash attention (FlashAttention-2), bf16 only.
//!
//! Where documents continue others, the keys of those are copied in front of their own. cuDNN's attention is there to be
//! measured beside it.

use crate::{AttentionShape, KernelError, Prefix, ffi};
use std::sync::{Mutex, PoisonError};
use tch::{Device, Kind, Tensor};

/// Borders of the documents' queries and of their keys (documents + 1) on the device, and the most keys of a document.
struct Borders {
    queries: Vec<i64>,
    prefixes: Vec<Option<Prefix>>,
    tensors: [Tensor; 2],
    longest: i64,
}

/// Those of the batch at work, which every layer asks for, forward and backward: each copy from the host would wait for
/// all that is under way.
static LAST: Mutex<Option<Borders>> = Mutex::new(None);

fn borders(shape: &AttentionShape, device: Device) -> ([Tensor; 2], i64) {
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(last) = &*last
        && (&last.queries, &last.prefixes) == (&shape.queries, &shape.prefixes)
        && last.tensors[0].device() == device
    {
        return (last.tensors.each_ref().map(Tensor::shallow_clone), last.longest);
    }
    let (ends, longest) = ends(shape);
    let tensors = ends.map(|ends| Tensor::from_slice(&ends).to_device(device));
    let result = (tensors.each_ref().map(Tensor::shallow_clone), longest);
    let (queries, prefixes) = (shape.queries.clone(), shape.prefixes.clone());
    *last = Some(Borders { queries, prefixes, tensors, longest });
    result
}

/// Where documents begin and end, counted in queries and in keys. Empty ones are left out; 2 is the least that is called
/// longest, since with 1 libtorch takes a way that is made for decoding and counts one token per document.
fn ends(shape: &AttentionShape) -> ([Vec<i32>; 2], i64) {
    let (mut ends, mut longest) = ([vec![0_i32], vec![0_i32]], 2);
    for doc in 0..shape.queries.len() {
        let Some((before, own)) = pieces(shape, doc) else { continue };
        for (ends, n) in ends.iter_mut().zip([own.1, before.1 + own.1]) {
            ends.push(ends[ends.len() - 1] + n as i32);
        }
        longest = longest.max(before.1 + own.1);
    }
    (ends, longest)
}

/// First token and count of what stands before a document, and of its own; `None` where it is empty.
fn pieces(shape: &AttentionShape, doc: usize) -> Option<((i64, i64), (i64, i64))> {
    let start = |doc: usize| shape.queries[..doc].iter().sum();
    let before = shape.prefix(doc).map_or((0, 0), |p| (start(p.doc), p.n));
    (shape.queries[doc] > 0).then(|| (before, (start(doc), shape.queries[doc])))
}

/// Keys or values (N, K, D), each document's behind those that it continues.
fn repeated(x: &Tensor, shape: &AttentionShape) -> Tensor {
    if shape.prefixes.is_empty() {
        return x.shallow_clone();
    }
    let pieces = (0..shape.queries.len()).filter_map(|doc| pieces(shape, doc));
    let pieces = pieces.flat_map(|(before, own)| [before, own]).filter(|&(_, n)| n > 0);
    Tensor::cat(&pieces.map(|(start, n)| x.narrow(0, start, n)).collect::<Vec<_>>(), 0)
}

/// The gradient of what [`repeated`] took, given that of what it made: always in the same order.
fn gathered(grad: Tensor, shape: &AttentionShape) -> Tensor {
    if shape.prefixes.is_empty() {
        return grad;
    }
    let (mut at, mut own, mut more) = (0, Vec::new(), Vec::new());
    for ((start, n_before), (_, n)) in (0..shape.queries.len()).filter_map(|doc| pieces(shape, doc))
    {
        if n_before > 0 {
            more.push((start, grad.narrow(0, at, n_before)));
        }
        own.push(grad.narrow(0, at + n_before, n));
        at += n_before + n;
    }
    let sum = Tensor::cat(&own, 0);
    for (start, more) in more {
        let _ = sum.narrow(0, start, more.size()[0]).g_add_(&more);
    }
    sum
}

/// `q` (N, H, D), `k` and `v` (N, K, D) → (N, H, D), and what the backward pass wants of the softmaxes.
pub(crate) fn attention(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    shape: &AttentionShape,
) -> (Tensor, Tensor) {
    let ([queries, keys], longest) = borders(shape, q.device());
    let [k, v] = [k, v].map(|x| repeated(x, shape));
    let tensors = [q, &k, &v, &queries, &keys];
    let made = ffi::flash_attention(tensors, longest, shape.scale, shape.window);
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
    let ([queries, keys], longest) = borders(shape, device);
    // Where nothing is dropped, nothing random is read.
    let random = Tensor::zeros([2], (Kind::Int64, device));
    let [q, k, v] = qkv;
    let [k, v] = [k, v].map(|x| repeated(x, shape));
    let tensors = [dout, q, &k, &v, out, lse, &queries, &keys, &random];
    let made = ffi::flash_attention_backward(tensors, longest, shape.scale, shape.window);
    let [dq, dk, dv] = made.unwrap_or_else(|error| panic!("attention backward: {error}"));
    [dq, gathered(dk, shape), gathered(dv, shape)]
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
    /// What libtorch or cuDNN says; a window, or documents that continue others.
    pub fn forward([q, k, v]: [&Tensor; 3], shape: &AttentionShape) -> Result<Self, KernelError> {
        if shape.window.is_some() || !shape.prefixes.is_empty() {
            let text = "cuDNN's ragged attention has no window here and no shared tokens";
            return Err(KernelError::Cuda(text.into()));
        }
        let (([borders, _], longest), scale) = (borders(shape, q.device()), shape.scale);
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
            let shape = AttentionShape::new(queries.to_vec(), 1.0);
            assert_eq!(ends(&shape), ([expected.to_vec(), expected.to_vec()], longest));
        }
    }

    #[test]
    fn what_is_continued_is_repeated_and_its_gradient_added() {
        let prefix = |doc, n| Some(Prefix { doc, n });
        let shape = AttentionShape {
            prefixes: vec![None, None, prefix(1, 2), prefix(1, 3), prefix(1, 1)],
            ..AttentionShape::new(vec![1, 3, 2, 0, 1], 1.0)
        };
        assert_eq!(ends(&shape), ([vec![0, 1, 4, 6, 7], vec![0, 1, 4, 8, 10]], 4));
        let x = Tensor::from_slice(&[10_f32, 20., 21., 22., 30., 31., 50.]).view([7, 1, 1]);
        let found = repeated(&x, &shape);
        let found = Vec::<f32>::try_from(found.view(-1)).unwrap();
        assert_eq!(found, [10., 20., 21., 22., 20., 21., 30., 31., 20., 50.]);
        let grad =
            Tensor::from_slice(&[1_f32, 2., 3., 4., 5., 6., 7., 8., 9., 10.]).view([10, 1, 1]);
        let sum = Vec::<f32>::try_from(gathered(grad, &shape).view(-1)).unwrap();
        assert_eq!(sum, [1., 2. + 5. + 9., 3. + 6., 4., 7., 8., 10.]);
    }

    #[test]
    fn borders_are_made_once_per_batch() {
        let of = |queries: Vec<i64>| {
            let [borders, _] = borders(&AttentionShape::new(queries, 1.0), Device::Cpu).0;
            borders
        };
        let first = of(vec![5, 6]);
        assert_eq!(first.data_ptr(), of(vec![5, 6]).data_ptr());
        assert_eq!(Vec::<i32>::try_from(of(vec![5, 7])).unwrap(), [0, 5, 12]);
    }
}
