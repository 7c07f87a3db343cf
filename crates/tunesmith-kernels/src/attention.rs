//! Causal grouped-query attention over ragged documents, without a matrix of scores in memory (FlashAttention:
//! Dao et al. 2022, with the scheduling of FlashAttention-2, Dao 2023), on one core's caches at a time.
//!
//! Shapes: N tokens, T queries of one document, S keys it sees (S ≥ T: its queries are the last T of S tokens),
//! H query heads, K key/value heads, D head size; query head h reads key head h · K / H.
//!
//! ```text
//! s = scale · q kᵀ, −∞ where key > query, or key ≤ query − window     p = exp(s − lse)     out = p v
//! dv = pᵀ dout      dp = dout vᵀ      ds = p (dp − Σ dout · out)      dq = scale · ds k     dk = scale · dsᵀ q
//! ```
//! Whatever the dtype of the tensors, a block is widened to fp32 when it is packed, and all sums are fp32.

mod backward;
mod block;
mod decode;
mod forward;

pub use backward::attention_backward;
pub use decode::attention_cached;
pub use forward::attention;

/// What attention needs to know besides its tensors.
#[derive(Debug, Clone)]
pub struct AttentionShape {
    /// Queries of each document, in order.
    pub queries: Vec<i64>,
    /// Multiplies q · k.
    pub scale: f64,
    /// A token sees this many tokens, itself included; `None`: all before it.
    pub window: Option<i64>,
}

impl AttentionShape {
    /// The first query and the count of each document.
    fn docs(&self) -> Vec<(usize, usize)> {
        let mut start = 0;
        self.queries
            .iter()
            .map(|&n| {
                let doc = (start, n as usize);
                start += n as usize;
                doc
            })
            .collect()
    }

    /// The window as a number that may be subtracted from any position.
    fn reach(&self) -> usize {
        self.window.map_or(usize::MAX, |window| window as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::twin::{assert_close, assert_within, leaf, randn};
    use tch::{Device, Kind, Tensor};

    /// The definition, one document after the other, in tensor operations.
    fn twin(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> Tensor {
        let group = q.size()[1] / k.size()[1];
        let docs = [q, k, v].map(|x| x.split_with_sizes(&shape.queries[..], 0));
        let outs: Vec<Tensor> = (0..shape.queries.len())
            .map(|doc| {
                let [q, k, v] = [&docs[0][doc], &docs[1][doc], &docs[2][doc]]
                    .map(|x| x.to_kind(Kind::Float).transpose(0, 1)); // (heads, T, D)
                let [k, v] = [k, v].map(|x| x.repeat_interleave_self_int(group, Some(0), None));
                let t = q.size()[1];
                let query = Tensor::arange(t, (Kind::Int64, Device::Cpu)).unsqueeze(1);
                let key = Tensor::arange(t, (Kind::Int64, Device::Cpu)).unsqueeze(0);
                let mut hidden = key.gt_tensor(&query);
                if let Some(window) = shape.window {
                    hidden = hidden.logical_or(&key.le_tensor(&(query - window)));
                }
                let scores = q.matmul(&k.transpose(1, 2)) * shape.scale;
                let p = scores.masked_fill(&hidden, f64::NEG_INFINITY).softmax(-1, Kind::Float);
                p.matmul(&v).transpose(0, 1)
            })
            .collect();
        Tensor::cat(&outs, 0).to_kind(q.kind())
    }

    #[test]
    fn reading_piecewise_into_a_cache_changes_nothing() {
        tch::manual_seed(4);
        for (kind, window) in [(Kind::Float, None), (Kind::Float, Some(9)), (Kind::BFloat16, None)]
        {
            let (lens, h, n_kv, d) = ([130i64, 40], 4, 2, 20);
            let scale = 1.0 / (d as f64).sqrt();
            let shape = |queries: &[i64]| AttentionShape { queries: queries.into(), scale, window };
            let [q, k, v] = [h, n_kv, n_kv].map(|heads| randn(&[170, heads, d], kind));
            let (expected, _) = attention(&q, &k, &v, &shape(&lens));
            let caches = [(); 2].map(|()| Tensor::zeros([2, n_kv, 130, d], (kind, Device::Cpu)));
            // A prompt each, a few tokens, one token beside a rest, one rests.
            let mut held = [0i64; 2];
            for new in [[100, 7], [4, 20], [1, 13], [25, 0]] {
                let rows = |x: &Tensor| {
                    let first = x.narrow(0, held[0], new[0]);
                    Tensor::cat(&[first, x.narrow(0, 130 + held[1], new[1])], 0)
                };
                let [of_q, of_k, of_v] = [&q, &k, &v].map(rows);
                let caches = [&caches[0], &caches[1]];
                let out = attention_cached(&of_q, &of_k, &of_v, caches, &held, &shape(&new));
                assert_close("out", &out, &rows(&expected));
                held = [held[0] + new[0], held[1] + new[1]];
            }
            assert_eq!(held, lens);
        }
    }

    #[test]
    fn agrees_with_its_twin() {
        tch::manual_seed(3);
        let cases = [
            (&[1i64, 130, 0, 67][..], 6, 2, 64, None),
            (&[300, 5][..], 4, 1, 20, None),
            (&[517][..], 3, 3, 16, Some(33)),
            (&[9, 260][..], 2, 1, 128, Some(2)),
            (&[400][..], 2, 2, 8, Some(150)),
        ];
        for kind in [Kind::Float, Kind::BFloat16] {
            for (lens, h, n_kv, d, window) in cases {
                let n: i64 = lens.iter().sum();
                let shape = AttentionShape {
                    queries: lens.to_vec(),
                    scale: 1.0 / (d as f64).sqrt(),
                    window,
                };
                let [q, k, v] = [h, n_kv, n_kv].map(|heads| leaf(&randn(&[n, heads, d], kind)));
                let expected = twin(&q, &k, &v, &shape);
                let (out, lse) = tch::no_grad(|| attention(&q, &k, &v, &shape));
                assert_close("out", &out, &expected);
                let dout = randn(&[n, h, d], kind);
                let loss = (&expected * &dout).sum(Kind::Float);
                let grads = Tensor::run_backward(&[loss], &[&q, &k, &v], false, false);
                let [dq, dk, dv] =
                    tch::no_grad(|| attention_backward(&dout, &q, &k, &v, &out, &lse, &shape));
                let bound = if kind == Kind::Float { 1e-5 } else { 1.5e-2 };
                for (what, found, expected) in
                    [("dq", &dq, &grads[0]), ("dk", &dk, &grads[1]), ("dv", &dv, &grads[2])]
                {
                    assert_within(&format!("{what} {lens:?} {kind:?}"), found, expected, bound);
                }
            }
        }
    }
}
