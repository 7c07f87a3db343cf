//! The attention half of a block as one node: x + o(attention(rotate(qkv(norm(x))))), forward and backward by hand.
//!
//! Shapes: N tokens, H query heads, K key/value heads, D head size, C width.
//!
//! Kept for the backward pass, per token: q, k, v, the attended values, lse; the norm is made again. Under
//! [`Recompute::Blocks`] nothing is kept but x. The twin is [`Attention::forward`] between a norm and an addition.

use super::Attention;
use crate::{
    KvCache, Pass, Ragged, Recompute,
    linear::{Dx, LinearOp, Saved},
    node,
    norm::{Norm, NormOp},
    recompute::RSTD,
    rope::Rotation,
};
use tch::{Device, Tensor};
use tunesmith_kernels::{self as kernels, AttentionShape};

struct Half {
    norm: NormOp,
    qkv: [LinearOp; 3],
    qk_norm: Option<[NormOp; 2]>,
    rotation: Option<Rotation>,
    o: LinearOp,
    heads: [i64; 3],
    head_dim: i64,
    shape: AttentionShape,
}

struct Projected {
    qkv: [Tensor; 3],
    /// q and k before their norms, with 1/rms.
    raw: Option<[(Tensor, Tensor); 2]>,
    saved_qkv: [Saved; 3],
}

/// What the backward pass reads.
struct Kept {
    rstd: Tensor,
    qkv: [Tensor; 3],
    raw: Option<[(Tensor, Tensor); 2]>, // as in `Projected`
    out: Tensor,                        // (N, H, D)
    lse: Tensor,
    saved_qkv: [Saved; 3],
    saved_o: Saved,
}

impl Attention {
    /// x (N, C) → x + attention(norm(x)); `None` where there is no fused form.
    pub(crate) fn half(
        &self,
        x: &Tensor,
        norm: &Norm,
        ragged: &Ragged,
        rotation: Option<&Rotation>,
        recompute: Recompute,
        pass: &Pass,
    ) -> Option<Tensor> {
        // On the GPU, a prompt that goes into a cache is read by the twin; single tokens have their own way.
        let fits = match &pass.cache {
            Some(cache) => x.device() == Device::Cpu || cache.seen.is_some(),
            None => kernels::attends(x, self.head_dim),
        };
        if !node::fits(x, pass) || !fits {
            return None;
        }
        let half = self.op(norm, ragged, rotation, pass)?;
        if let Some(cache) = &pass.cache {
            let positions = &ragged.positions;
            let y = tch::no_grad(|| half.continued(&x.contiguous(), cache, self.layer, positions));
            return Some(y);
        }
        let input = x.detach().contiguous();
        let (y, kept) = tch::no_grad(|| half.forward(&input));
        let leaves = half.leaves();
        let leaves: Vec<Tensor> = leaves.iter().map(|leaf| leaf.shallow_clone()).collect();
        let kept = (recompute < Recompute::Blocks).then_some(kept);
        node::attach(c"attention", x, &leaves, &y, move |dy, want_dx| {
            let kept = kept.unwrap_or_else(|| tch::no_grad(|| half.again(&input)));
            half.backward(&input, kept, dy, want_dx)
        });
        Some(y)
    }

    /// Bytes that [`half`](Self::half) keeps per token, in a stream of `bytes` per element; `None` where it does not apply.
    pub(crate) fn kept_per_token(&self, bytes: u64, recompute: Recompute) -> Option<u64> {
        let [q, _, _] = &self.qkv[..] else { return None };
        let x = q.n_in as u64 * bytes;
        if recompute == Recompute::Blocks {
            return Some(x);
        }
        let [n_q, n_k, n_v] = self.heads.map(|n| n as u64);
        let width = |n_heads: u64| n_heads * self.head_dim as u64 * bytes;
        let (qkv, out, lse) = (width(n_q + n_k + n_v), width(n_q), n_q * 4);
        let raw = match self.qk_norm {
            Some(_) => width(n_q + n_k) + (n_q + n_k) * RSTD,
            None => 0,
        };
        let saved = self.linears().map(|linear| linear.kept_per_token(bytes)).sum::<u64>();
        Some(x + RSTD + qkv + out + lse + raw + saved)
    }

    fn op(
        &self,
        norm: &Norm,
        ragged: &Ragged,
        rotation: Option<&Rotation>,
        pass: &Pass,
    ) -> Option<Half> {
        let [q, k, v] = &self.qkv[..] else { return None };
        let qk_norm = match &self.qk_norm {
            Some([q, k]) => Some([q.op(pass)?, k.op(pass)?]),
            None => None,
        };
        Some(Half {
            norm: norm.op(pass)?,
            qkv: [q, k, v].map(|linear| linear.op(pass)),
            qk_norm,
            rotation: rotation.map(Rotation::shallow_clone),
            o: self.o.op(pass),
            heads: self.heads,
            head_dim: self.head_dim,
            shape: AttentionShape {
                queries: ragged.lens.clone(),
                prefixes: ragged.prefixes.clone(),
                scale: self.scale,
                window: self.sliding_window,
            },
        })
    }
}

impl Attention {
    /// Whether this half has a fused form, in any pass.
    pub(crate) fn is_fused(&self, norm: &Norm) -> bool {
        let mut norms = [norm].into_iter().chain(self.qk_norm.iter().flatten());
        self.qkv.len() == 3 && norms.all(Norm::is_rms)
    }
}

impl Half {
    fn leaves(&self) -> Vec<&Tensor> {
        let norms = [Some(&self.norm)].into_iter().flatten().chain(self.qk_norm.iter().flatten());
        let linears = self.qkv.iter().chain([&self.o]);
        norms.filter_map(NormOp::leaf).chain(linears.flat_map(LinearOp::leaves)).collect()
    }

    /// q (N, H, D), k and v (N, K, D), normalised and rotated.
    fn project(&self, normed: &Tensor) -> Projected {
        let mut saved_qkv = [(); 3].map(|()| Saved::default());
        let mut heads = 0..;
        let mut qkv = LinearOp::forward_all(self.qkv.each_ref(), normed).map(|(y, saved)| {
            let i = heads.next().unwrap_or_default();
            saved_qkv[i] = saved;
            y.view([-1, self.heads[i], self.head_dim]) // (N, heads, D)
        });
        let raw = self.qk_norm.as_ref().map(|norms| {
            [0, 1].map(|i| {
                let (y, rstd) = norms[i].forward(&qkv[i]);
                (std::mem::replace(&mut qkv[i], y), rstd)
            })
        });
        if let Some(rotation) = &self.rotation {
            qkv[..2].iter().for_each(|x| rotation.rotate_(x, true));
        }
        Projected { qkv, raw, saved_qkv }
    }

    fn forward(&self, x: &Tensor) -> (Tensor, Kept) {
        let mut kept = self.attended(x);
        let (mut y, saved_o) = self.o.forward(&self.flat(&kept.out));
        kept.saved_o = saved_o;
        y += x;
        (y, kept)
    }

    /// All that the forward pass kept, without its output: the last product is not made.
    fn again(&self, x: &Tensor) -> Kept {
        let mut kept = self.attended(x);
        kept.saved_o = self.o.save(|| self.flat(&kept.out));
        kept
    }

    fn attended(&self, x: &Tensor) -> Kept {
        let (normed, rstd) = self.norm.forward(x);
        let Projected { qkv, raw, saved_qkv } = self.project(&normed);
        let [q, k, v] = &qkv;
        let (out, lse) = kernels::attention(q, k, v, &self.shape);
        Kept { rstd, qkv, raw, out, lse, saved_qkv, saved_o: Saved::default() }
    }

    /// The forward pass of sequences that continue what `cache` holds.
    fn continued(&self, x: &Tensor, cache: &KvCache, layer: usize, positions: &Tensor) -> Tensor {
        let (normed, _) = self.norm.forward(x);
        let Projected { qkv: [q, k, v], .. } = self.project(&normed);
        let out = match &cache.seen {
            Some(seen) => {
                let kv = cache.put(layer, positions, [&k, &v], seen.size()[3]);
                self.attend_one_each(&q, &kv, seen)
            }
            None => {
                let (caches, lens) = (cache.layer(layer), cache.lens());
                kernels::attention_cached(&q, &k, &v, caches, lens, &self.shape)
            }
        };
        let (mut y, _) = self.o.forward(&self.flat(&out));
        y += x;
        y
    }

    /// One query per sequence, (S, H, D), against keys and values (S, K, visible, D). The H / K heads of a group stand
    /// like so many queries against the group's keys, which are read where they lie.
    fn attend_one_each(&self, q: &Tensor, [k, v]: &[Tensor; 2], seen: &Tensor) -> Tensor {
        let [n_head, n_kv, _] = self.heads;
        let grouped = q.view([-1, n_kv, n_head / n_kv, self.head_dim]);
        let (mask, scale) = (Some(seen), self.shape.scale);
        Tensor::scaled_dot_product_attention(&grouped, k, v, mask, 0.0, false, scale, false)
            .reshape([-1, n_head, self.head_dim])
    }

    /// (N, H, D) → (N, H·D)
    fn flat(&self, heads: &Tensor) -> Tensor {
        heads.view([heads.size()[0], -1])
    }

    fn backward(&self, x: &Tensor, kept: Kept, dy: &Tensor, want_dx: bool) -> Option<Tensor> {
        let Kept { rstd, qkv: [q, k, v], raw, out, lse, saved_qkv, saved_o } = kept;
        let mut dout = Dx::wanted(true);
        self.o.backward(saved_o, &self.flat(&out), dy, &mut dout);
        let dout = dout.take()?.view_as(&out);
        let mut grads = kernels::attention_backward(&dout, &q, &k, &v, &out, &lse, &self.shape);
        drop((q, k, v, out, lse, dout));
        if let Some(rotation) = &self.rotation {
            grads[..2].iter().for_each(|x| rotation.rotate_(x, false));
        }
        if let (Some(norms), Some(raw)) = (&self.qk_norm, raw) {
            for (i, (x, rstd)) in raw.into_iter().enumerate() {
                let dx = x.zeros_like();
                norms[i].backward(&grads[i], &x, &rstd, &dx);
                grads[i] = dx;
            }
        }
        let (normed, _) = self.norm.forward(x);
        let mut dnormed = Dx::wanted(want_dx || self.norm.leaf().is_some());
        for ((linear, saved), grad) in self.qkv.iter().zip(saved_qkv).zip(&grads) {
            linear.backward(saved, &normed, &self.flat(grad), &mut dnormed);
        }
        let dx = dy.copy(); // what flows past this half
        self.norm.backward(&dnormed.take()?, x, &rstd, &dx);
        want_dx.then_some(dx)
    }
}
