//! Grouped-query attention over ragged documents (Ainslie et al. 2023), block-diagonal: no token sees another document,
//! but for the tokens that its own one continues.
//!
//! Shapes: N tokens, T tokens of one document, S keys it sees, H query heads, K key/value heads, D head size, C width.

mod node;

use crate::{
    Config, KvCache, Pass,
    linear::{Linear, Shape},
    norm::Norm,
    param::Supply,
    ragged::Ragged,
    rope::Rotation,
};
use tch::{Device, Kind, Tensor};

#[derive(Debug)]
pub(crate) struct Attention {
    qkv: Vec<Linear>, // q, k, v, or one fused
    qk_norm: Option<[Norm; 2]>,
    o: Linear,
    heads: [i64; 3], // H, K, K
    head_dim: i64,
    scale: f64,
    sliding_window: Option<i64>,
    layer: usize,
}

impl Attention {
    pub(crate) fn build(config: &Config, layer: usize, prefix: &str, supply: &mut Supply) -> Self {
        let names = config.names;
        let heads = [config.n_head, config.n_kv_head, config.n_kv_head];
        let widths = heads.map(|n| n * config.head_dim);
        let shape = |n_in, n_out, bias| Shape {
            n_in,
            n_out,
            bias,
            transposed: names.transposed,
            init_std: config.initializer_range,
        };
        let outputs =
            if names.qkv.len() == 1 { vec![widths.iter().sum()] } else { widths.to_vec() };
        let qkv = names.qkv.iter().zip(outputs).map(|(name, n_out)| {
            Linear::build(
                &format!("{prefix}{name}"),
                &shape(config.hidden_size, n_out, config.qkv_bias),
                supply,
            )
        });
        let qkv = qkv.collect();
        let qk_norm = config.qk_norm.then(|| {
            names.qk_norm.map(|name| {
                Norm::build(&format!("{prefix}{name}"), config.norm, config.head_dim, supply)
            })
        });
        let o = Linear::build(
            &format!("{prefix}{}", names.o),
            &shape(widths[0], config.hidden_size, config.o_bias),
            supply,
        );
        let scale = config.attention_scale();
        let sliding_window = config.sliding_window;
        Self { qkv, qk_norm, o, heads, head_dim: config.head_dim, scale, sliding_window, layer }
    }

    /// Its linear layers in order, and its norms.
    pub(crate) fn parts_mut(&mut self) -> (impl Iterator<Item = &mut Linear>, &mut [Norm]) {
        let norms = self.qk_norm.as_mut().map_or(&mut [][..], |norms| norms.as_mut_slice());
        (self.qkv.iter_mut().chain([&mut self.o]), norms)
    }

    pub(crate) fn linears(&self) -> impl Iterator<Item = &Linear> {
        self.qkv.iter().chain([&self.o])
    }

    /// `x` (N, C), normalised → (N, C), to be added to the stream.
    pub(crate) fn forward(
        &self,
        x: &Tensor,
        ragged: &Ragged,
        rotation: Option<&Rotation>,
        pass: &mut Pass,
    ) -> Tensor {
        let [q, k, v] = self.project(x, rotation, pass);
        let cache = pass.cache.as_deref_mut();
        let attended = self.attend(&q, &k, &v, ragged, cache); // (N, H·D)
        self.o.forward(&attended, pass)
    }

    /// q (N, H, D), k and v (N, K, D), normalised and rotated.
    fn project(&self, x: &Tensor, rotation: Option<&Rotation>, pass: &Pass) -> [Tensor; 3] {
        let widths = self.heads.map(|n| n * self.head_dim);
        let flat: Vec<Tensor> = match &self.qkv[..] {
            [fused] => fused.forward(x, pass).split_with_sizes(widths, -1),
            separate => separate.iter().map(|linear| linear.forward(x, pass)).collect(),
        };
        let heads = |i: usize| flat[i].reshape([-1, self.heads[i], self.head_dim]);
        let (mut q, mut k, v) = (heads(0), heads(1), heads(2));
        if let Some([q_norm, k_norm]) = &self.qk_norm {
            (q, k) = (q_norm.forward(&q, pass), k_norm.forward(&k, pass));
        }
        if let Some(rotation) = rotation {
            (q, k) = (rotation.apply(&q), rotation.apply(&k));
        }
        [q, k, v]
    }

    /// Softmax attention of each document on its own; q (N, H, D), k and v (N, K, D) → (N, H·D).
    fn attend(
        &self,
        q: &Tensor,
        k: &Tensor,
        v: &Tensor,
        ragged: &Ragged,
        mut cache: Option<&mut KvCache>,
    ) -> Tensor {
        let docs = [q, k, v].map(|x| x.split_with_sizes(&ragged.lens[..], 0));
        let [qs, ks, vs] = &docs;
        let whole = |x: &[Tensor], doc: usize| match ragged.prefixes.get(doc).copied().flatten() {
            Some(prefix) => Tensor::cat(&[&x[prefix.doc].narrow(0, 0, prefix.n), &x[doc]], 0),
            None => x[doc].shallow_clone(),
        };
        let per_doc: Vec<Tensor> = (0..ragged.lens.len())
            .filter(|&doc| ragged.lens[doc] > 0) // a cached sequence may rest
            .map(|doc| {
                let q = qs[doc].transpose(0, 1).unsqueeze(0); // (1, H, T, D)
                let [k, v] = match &mut cache {
                    Some(cache) => cache.append(self.layer, doc, &ks[doc], &vs[doc]),
                    None => [ks, vs].map(|x| whole(x, doc).transpose(0, 1).unsqueeze(0)),
                }; // (1, K, S, D)
                let (t, s) = (q.size()[2], k.size()[2]);
                let mask = self.mask(t, s, q.device());
                let causal = mask.is_none() && t > 1;
                let gqa = self.heads[0] != self.heads[1];
                Tensor::scaled_dot_product_attention(
                    &q,
                    &k,
                    &v,
                    mask.as_ref(),
                    0.0,
                    causal,
                    self.scale,
                    gqa,
                )
                .squeeze_dim(0)
                .transpose(0, 1) // (T, H, D)
            })
            .collect();
        let attended = match &per_doc[..] {
            [one] => one.shallow_clone(),
            several => Tensor::cat(several, 0),
        };
        attended.reshape([-1, self.heads[0] * self.head_dim])
    }

    /// Which of S keys each of the last T tokens sees, (T, S); `None` where plain causality says it all.
    fn mask(&self, t: i64, s: i64, device: Device) -> Option<Tensor> {
        let window = self.sliding_window.filter(|&w| w < s);
        let square_or_single = t == s || t == 1;
        if window.is_none() && square_or_single {
            return None;
        }
        let query = Tensor::arange_start(s - t, s, (Kind::Int64, device)).unsqueeze(1); // (T, 1)
        let key = Tensor::arange(s, (Kind::Int64, device)).unsqueeze(0); // (1, S)
        let causal = key.le_tensor(&query);
        Some(match window {
            Some(w) => causal.logical_and(&key.gt_tensor(&(query - w))),
            None => causal,
        })
    }
}
