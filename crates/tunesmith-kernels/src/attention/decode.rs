//! Attention over a cache: what is read is appended, a few new queries meet all keys where they lie.
//!
//! Shapes: S sequences, N new tokens of all of them, H query heads, K key/value heads, D head size.
//!
//! A sequence with more than [`FEW`] new tokens (a prompt) goes the way of the forward pass, blocks and all. One with
//! few is limited by reading the cache: its keys and values pass through once per query, unpacked.

use super::{
    AttentionShape,
    block::{Keys, Layout, Rows, seen, with_scratch},
    forward::blocks,
};
use crate::{
    element::{Element, by_kind, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd, prefetch},
};
use tch::Tensor;

/// New tokens of a sequence up to which keys are not worth packing.
const FEW: usize = 4;

/// Appends `k` and `v` (N, K, D) to the caches (S, K, capacity, D), which hold `lens` tokens of each sequence, and
/// attends with `q` (N, H, D) → (N, H, D). `shape.queries` says how many new tokens each sequence has, 0 included.
///
/// # Panics
/// A sequence that outgrows the capacity, or continues another one.
pub fn attention_cached(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    caches: [&Tensor; 2],
    lens: &[i64],
    shape: &AttentionShape,
) -> Tensor {
    assert!(shape.prefixes.is_empty(), "sequences of a cache share no tokens");
    let out = q.empty_like();
    let [n_head, capacity, d] = [1, 2, 3].map(|i| caches[0].size()[i] as usize);
    let (mut few, mut many) = (Vec::new(), Vec::new());
    for (seq, (&(start, t), &len)) in shape.docs().iter().zip(lens).enumerate() {
        let n = len as usize + t;
        assert!(n <= capacity, "sequence {seq} has {n} tokens, its cache holds {capacity}");
        let offset = seq * n_head * capacity * d;
        let keys = Keys { offset, n, before: (0, 0) };
        if t > 0 {
            if t > FEW { &mut many } else { &mut few }.push(((start, t), keys));
        }
    }
    let all: Vec<_> = few.iter().chain(&many).copied().collect();
    let layout = |docs: &[((usize, usize), Keys)]| Layout {
        docs: docs.iter().map(|doc| doc.1).collect(),
        n_head,
        d,
        row: d,
        head: capacity * d,
    };
    by_kind!(q.kind(), E => {
        append::<E>([k, v], caches, &all, &layout(&all));
        attend::<E>(q, caches, &out, &few, &layout(&few), shape);
    });
    if !many.is_empty() {
        let docs: Vec<(usize, usize)> = many.iter().map(|doc| doc.0).collect();
        blocks(q, caches, &out, None, shape, &docs, &layout(&many));
    }
    out
}

/// Copies the new rows behind those that each sequence has.
fn append<E: Element>(
    new: [&Tensor; 2],
    caches: [&Tensor; 2],
    docs: &[((usize, usize), Keys)],
    layout: &Layout,
) {
    let Layout { n_head, d, head: stride, .. } = *layout;
    for (new, cache) in new.into_iter().zip(caches) {
        let (new, cache) = (memory::<E>(new), memory::<E>(cache));
        for &((start, t), keys) in docs {
            for head in 0..n_head {
                for i in 0..t {
                    let from = ((start + i) * n_head + head) * d;
                    let to = keys.offset + head * stride + (keys.n - t + i) * d;
                    // SAFETY: row start + i of new rows, row n − t + i < capacity of this sequence and head.
                    unsafe { std::ptr::copy_nonoverlapping(new.add(from), cache.add(to), d) };
                }
            }
        }
    }
}

fn attend<E: Element>(
    q: &Tensor,
    [k, v]: [&Tensor; 2],
    out: &Tensor,
    docs: &[((usize, usize), Keys)],
    layout: &Layout,
    shape: &AttentionShape,
) {
    let [h, d] = [1, 2].map(|i| q.size()[i] as usize);
    let group = h / layout.n_head;
    let [q, k, v, out] = [q, k, v, out].map(|x| Shared(memory::<E>(x)));
    let width = d.next_multiple_of(LANES);
    for_each(docs.len() * h, |task| {
        let ((start, t), keys) = docs[task / h];
        let head = task % h;
        with_scratch([keys.n + LANES, width, width], |scratch| {
            for i in 0..t {
                let (low, high) = seen(keys.n - t + i, shape.reach());
                let query = ((start + i) * h + head) * d;
                let first = keys.offset + head / group * layout.head + low * d;
                // SAFETY: a query and its output, and the rows low..high of its sequence and head.
                unsafe {
                    simd::run(Query {
                        q: q.get().add(query),
                        k: Rows { at: k.get().add(first), row: d },
                        v: Rows { at: v.get().add(first), row: d },
                        out: out.get().add(query),
                        n: high - low,
                        d,
                        scale: shape.scale as f32,
                        scratch,
                    });
                }
            }
        });
    });
}

/// One query against `n` keys.
struct Query<E> {
    q: *const E,
    k: Rows<E>,
    v: Rows<E>,
    out: *mut E,
    n: usize,
    d: usize,
    scale: f32,
    scratch: [*mut f32; 3],
}

impl<E: Element> Kernel for Query<E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { q, k, v, out, n, d, scale, scratch: [scores, query, acc] } = self;
        // SAFETY: the caller's rows; scratch has room for n and for d rounded up.
        unsafe {
            for i in (0..d).step_by(LANES) {
                let x = E::load_some::<S>(q.add(i), d - i);
                S::store(query.add(i), S::mul(x, S::splat(scale)));
            }
            let mut max = f32::NEG_INFINITY;
            for first in (0..n).step_by(LANES) {
                // Sixteen keys at once; where fewer are left, the last one again.
                let mut dots = [S::splat(0.0); LANES];
                for (key, dot) in dots.iter_mut().enumerate() {
                    let row = k.at.add((first + key).min(n - 1) * k.row).cast_const();
                    let value = v.at.add((first + key).min(n - 1) * v.row).cast_const();
                    for i in (0..d).step_by(LANES) {
                        // What comes next; the weights have driven it from the caches.
                        prefetch(row.wrapping_add(LANES * k.row + i));
                        prefetch(value.wrapping_add(i));
                        let x = E::load_some::<S>(row.add(i), d - i);
                        *dot = S::fma(x, S::load(query.add(i)), *dot);
                    }
                }
                let dots = S::sums(&dots);
                S::store(scores.add(first), dots);
                let best = S::largest(dots);
                max = if best > max { best } else { max };
            }
            for i in 0..LANES {
                *scores.add(n + i) = f32::NEG_INFINITY;
            }
            let mut total = S::splat(0.0);
            for i in (0..n).step_by(LANES) {
                let p = S::exp(S::sub(S::load(scores.add(i)), S::splat(max)));
                S::store(scores.add(i), p);
                total = S::add(total, p);
            }
            let mut from = 0;
            while from < d {
                // Four vectors of sums in registers.
                let n_vectors = (d - from).div_ceil(LANES).min(4);
                match n_vectors {
                    4 => gather::<S, E, 4>(v, [from, d], n, scores, acc),
                    3 => gather::<S, E, 3>(v, [from, d], n, scores, acc),
                    2 => gather::<S, E, 2>(v, [from, d], n, scores, acc),
                    _ => gather::<S, E, 1>(v, [from, d], n, scores, acc),
                }
                from += n_vectors * LANES;
            }
            let factor = S::splat(1.0 / S::sum(total));
            for i in (0..d).step_by(LANES) {
                E::store_some::<S>(out.add(i), S::mul(S::load(acc.add(i)), factor), d - i);
            }
        }
    }
}

/// Columns `from` on, N vectors of them, of Σ pᵢ vᵢ over `n` keys → `to`.
///
/// # Safety
/// The rows, n weights and room for d rounded up.
#[inline(always)]
unsafe fn gather<S: Simd, E: Element, const N: usize>(
    v: Rows<E>,
    [from, d]: [usize; 2],
    n: usize,
    weights: *const f32,
    to: *mut f32,
) {
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [S::splat(0.0); N];
        for key in 0..n {
            let row = v.at.add(key * v.row + from).cast_const();
            let p = S::splat(*weights.add(key));
            for (j, sum) in sums.iter_mut().enumerate() {
                let left = d - from - j * LANES;
                *sum = S::fma(p, E::load_some::<S>(row.add(j * LANES), left), *sum);
            }
        }
        for (j, sum) in sums.into_iter().enumerate() {
            S::store(to.add(from + j * LANES), sum);
        }
    }
}
