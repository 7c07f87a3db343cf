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
//! A document may continue another one: the first tokens of that stand before its own, and are there once for all that
//! continue it. They are copied in front of its own keys where keys are widened anyway; what the backward pass finds for
//! the copies is added to the originals, continuations in their order.
//!
//! All sums are fp32. What is multiplied is fp32, too, or, of bf16 tensors where the CPU multiplies pairs of bf16, that:
//! p and ds are rounded to it once (1,024 tokens of SmolLM2-135M, forward and backward: 15.0 ms of both cores before, 9.0
//! with pairs).

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
    /// What stands before each document's own tokens, by document; empty: nothing before any.
    pub prefixes: Vec<Option<Prefix>>,
    /// Multiplies q · k.
    pub scale: f64,
    /// A token sees this many tokens, itself included; `None`: all before it.
    pub window: Option<i64>,
}

/// The first tokens of another document, which itself continues none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// The number of that document.
    pub doc: usize,
    /// How many of its tokens.
    pub n: i64,
}

impl AttentionShape {
    /// The documents of these lengths, each on its own, every token seeing all before it.
    pub fn new(queries: Vec<i64>, scale: f64) -> Self {
        Self { queries, prefixes: Vec::new(), scale, window: None }
    }

    /// What document `doc` continues.
    pub(crate) fn prefix(&self, doc: usize) -> Option<Prefix> {
        let prefix = self.prefixes.get(doc).copied().flatten()?;
        let whole = self.queries[prefix.doc];
        let root = self.prefixes[prefix.doc].is_none();
        assert!(
            root && prefix.n <= whole,
            "document {doc} cannot continue {prefix:?} of {whole} tokens"
        );
        Some(prefix)
    }

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
                let whole = |x: &[Tensor]| match shape.prefix(doc) {
                    Some(Prefix { doc: before, n }) => {
                        Tensor::cat(&[&x[before].narrow(0, 0, n), &x[doc]], 0)
                    }
                    None => x[doc].shallow_clone(),
                };
                let [q, k, v] = [docs[0][doc].shallow_clone(), whole(&docs[1]), whole(&docs[2])]
                    .map(|x| x.to_kind(Kind::Float).transpose(0, 1)); // (heads, T or S, D)
                let [k, v] = [k, v].map(|x| x.repeat_interleave_self_int(group, Some(0), None));
                let (t, s) = (q.size()[1], k.size()[1]);
                let query = Tensor::arange_start(s - t, s, (Kind::Int64, Device::Cpu)).unsqueeze(1);
                let key = Tensor::arange(s, (Kind::Int64, Device::Cpu)).unsqueeze(0);
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
            let shape = |queries: &[i64]| AttentionShape {
                window,
                ..AttentionShape::new(queries.into(), scale)
            };
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

    /// Two documents that begin alike give what one of them and a continuation give.
    #[test]
    fn what_is_shared_reads_as_if_it_were_repeated() {
        tch::manual_seed(5);
        let [q, k, v] = [4, 2, 2].map(|heads| randn(&[210, heads, 20], Kind::Float));
        // Tokens 0..70 and 100..170 are to be the same.
        let twice = [&q, &k, &v].map(|x| {
            let first = x.narrow(0, 0, 70);
            Tensor::cat(&[&x.narrow(0, 0, 100), &first, &x.narrow(0, 170, 40)], 0)
        });
        let once =
            [&q, &k, &v].map(|x| Tensor::cat(&[x.narrow(0, 0, 100), x.narrow(0, 170, 40)], 0));
        let apart = AttentionShape::new(vec![100, 110], 0.3);
        let shared = AttentionShape {
            prefixes: vec![None, Some(Prefix { doc: 0, n: 70 })],
            ..AttentionShape::new(vec![100, 40], 0.3)
        };
        let [a, b] = [(&twice, &apart), (&once, &shared)].map(|([q, k, v], shape)| {
            let (out, lse) = attention(q, k, v, shape);
            // The repeated tokens' own outputs have no gradient.
            let dout = Tensor::cat(
                &[
                    out.narrow(0, 0, 100),
                    out.zeros_like().narrow(0, 0, out.size()[0] - 140),
                    out.narrow(0, out.size()[0] - 40, 40),
                ],
                0,
            );
            let grads = attention_backward(&dout, q, k, v, &out, &lse, shape);
            (out, grads)
        });
        let gather = |x: &Tensor| Tensor::cat(&[x.narrow(0, 0, 100), x.narrow(0, 170, 40)], 0);
        assert_close("out", &b.0, &gather(&a.0));
        for (found, twice) in b.1.iter().zip(&a.1) {
            let expected = gather(twice);
            _ = expected.narrow(0, 0, 70).g_add_(&twice.narrow(0, 100, 70));
            assert_close("gradient", found, &expected);
        }
    }

    #[test]
    #[should_panic(expected = "document 1 cannot continue")]
    fn what_is_longer_than_its_document_is_no_prefix() {
        let shape = AttentionShape {
            prefixes: vec![None, Some(Prefix { doc: 0, n: 3 })],
            ..AttentionShape::new(vec![2, 2], 1.0)
        };
        let x = randn(&[4, 1, 8], Kind::Float);
        let _ = attention(&x, &x, &x, &shape);
    }

    #[test]
    fn agrees_with_its_twin() {
        tch::manual_seed(3);
        let cases = [
            (&[1i64, 130, 0, 67][..], &[][..], 6, 2, 64, None),
            (&[300, 5][..], &[], 4, 1, 20, None),
            (&[517][..], &[], 3, 3, 16, Some(33)),
            (&[9, 260][..], &[], 2, 1, 128, Some(2)),
            (&[400][..], &[], 2, 2, 8, Some(150)),
            // (continuation, what it continues, how many tokens of that)
            (&[400, 90][..], &[(1, 0, 300)], 2, 2, 8, None),
            (&[7, 130, 1, 0, 67, 300][..], &[(2, 1, 65), (3, 1, 9), (4, 1, 130)], 6, 2, 64, None),
            (&[70, 330, 40][..], &[(0, 1, 257), (2, 1, 330)], 4, 1, 20, Some(33)),
            (&[270, 300][..], &[(1, 0, 269)], 2, 1, 128, Some(400)),
        ];
        for kind in [Kind::Float, Kind::BFloat16] {
            for (lens, tied, h, n_kv, d, window) in cases {
                let n: i64 = lens.iter().sum();
                let scale = 1.0 / (d as f64).sqrt();
                let mut shape =
                    AttentionShape { window, ..AttentionShape::new(lens.to_vec(), scale) };
                if !tied.is_empty() {
                    shape.prefixes = vec![None; lens.len()];
                }
                for &(doc, before, n) in tied {
                    shape.prefixes[doc] = Some(Prefix { doc: before, n });
                }
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
                // With one thread, every bit is the same.
                let threads = tch::get_num_threads();
                tch::set_num_threads(if threads == 1 { 3 } else { 1 });
                let again = tch::no_grad(|| {
                    let (out, lse) = attention(&q, &k, &v, &shape);
                    let [dq, dk, dv] = attention_backward(&dout, &q, &k, &v, &out, &lse, &shape);
                    [out, lse, dq, dk, dv]
                });
                tch::set_num_threads(threads);
                for (again, found) in again.iter().zip([&out, &lse, &dq, &dk, &dv]) {
                    assert!(again.equal(found), "{lens:?} {kind:?}");
                }
            }
        }
    }
}
