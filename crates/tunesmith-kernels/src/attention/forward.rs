//! The forward pass: keys and values are copied once, as products want them, then a task is a block of queries of one
//! head. Its scores live in L2, the softmax is kept online.

use super::{
    AttentionShape,
    block::{KEYS, Layout, Padded, QUERIES, Rows, TILE, pack, seen, unpack, with_scratch},
};
use crate::{
    cuda,
    element::{Element, by_factor, memory},
    gemm::{self, Gemm},
    parallel::{Shared, for_each},
    simd::{Kernel, LANES, Simd},
};
use tch::{Device, Kind, Tensor};

/// `q` (N, H, D), `k` and `v` (N, K, D) → (N, H, D), and the log of each softmax's denominator (H, N), fp32.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, shape: &AttentionShape) -> (Tensor, Tensor) {
    if q.device().is_cuda() {
        return cuda::attention(q, k, v, shape);
    }
    let docs = shape.docs();
    let layout = Layout::packed(k, &docs, shape);
    let (n, h) = (q.size()[0], q.size()[1]);
    let (out, lse) = (q.empty_like(), Tensor::empty([h, n], (Kind::Float, Device::Cpu)));
    blocks(q, [k, v], &out, Some(&lse), shape, &docs, &layout);
    (out, lse)
}

/// Attends with the queries of `docs` (first row and count), whose keys lie as `layout` says.
pub(super) fn blocks(
    q: &Tensor,
    [k, v]: [&Tensor; 2],
    out: &Tensor,
    lse: Option<&Tensor>,
    shape: &AttentionShape,
    docs: &[(usize, usize)],
    layout: &Layout,
) {
    by_factor!(q.kind(), E, C => attend::<E, C>(q, [k, v], out, lse, shape, docs, layout));
}

fn attend<E: Element, C: Element>(
    q: &Tensor,
    [k, v]: [&Tensor; 2],
    out: &Tensor,
    lse: Option<&Tensor>,
    shape: &AttentionShape,
    docs: &[(usize, usize)],
    layout: &Layout,
) {
    let keys = Padded::<C>::new(k, layout, false, true);
    let values = Padded::<C>::new(v, layout, true, false);
    let [n, h, d] = [0, 1, 2].map(|i| q.size()[i] as usize);
    let group = h / layout.n_head;
    let mut tasks: Vec<(usize, usize, usize)> = docs
        .iter()
        .enumerate()
        .flat_map(|(doc, &(_, t))| {
            (0..t).step_by(QUERIES).flat_map(move |at| (0..h).map(move |head| (doc, head, at)))
        })
        .collect();
    // Late queries see many keys: the long tasks first, so that no thread is left with one at the end.
    let first = |doc: usize| layout.docs[doc].n - docs[doc].1;
    tasks.sort_by_key(|&(doc, _, at)| std::cmp::Reverse(first(doc) + at));
    let [q, out] = [q, out].map(|x| Shared(memory::<E>(x)));
    let lse = lse.map(|lse| Shared(memory::<f32>(lse)));
    let width = d.next_multiple_of(LANES);
    let sizes = [QUERIES * width, QUERIES * KEYS, QUERIES * width, QUERIES, QUERIES];
    for_each(tasks.len(), |task| {
        let (doc, head, at) = tasks[task];
        let (start, t) = docs[doc];
        with_scratch(sizes, |scratch| {
            // SAFETY: rows of this document and head; each block of queries belongs to one task.
            unsafe {
                let rows =
                    |x: Shared<E>| Rows { at: x.get().add(head * d), row: h * d }.skip(start + at);
                C::run(Block {
                    q: rows(q),
                    keys: keys.tiles(head / group, doc),
                    values: values.rows(head / group, doc),
                    out: rows(out),
                    lse: lse.map(|lse| lse.get().add(head * n + start + at)),
                    n_queries: QUERIES.min(t - at),
                    first: first(doc) + at,
                    d,
                    scale: shape.scale as f32,
                    reach: shape.reach(),
                    scratch,
                });
            }
        });
    });
}

/// A block of queries of one head against all keys they see.
struct Block<E, C> {
    q: Rows<E>,
    keys: *const C,
    values: *const C,
    out: Rows<E>,
    lse: Option<*mut f32>,
    n_queries: usize,
    /// Position of the first query among the keys.
    first: usize,
    d: usize,
    scale: f32,
    reach: usize,
    scratch: [*mut f32; 5],
}

impl<E: Element, C: Element> Kernel for Block<E, C> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { q, keys, values, out, lse, n_queries, first, d, scale, reach, scratch } = self;
        let [query, scores, acc, max, sum] = scratch;
        let query = query.cast::<C>();
        let width = d.next_multiple_of(LANES);
        let m = n_queries.next_multiple_of(gemm::ROWS);
        // SAFETY: scratch has the sizes that `attend` asked for; keys and values are padded to whole tiles.
        unsafe {
            pack::<S, E, C>(q, [n_queries, d], m, query);
            for row in 0..m {
                *max.add(row) = f32::NEG_INFINITY;
                *sum.add(row) = 0.0;
            }
            std::ptr::write_bytes(acc, 0, m * width);
            let end = first + n_queries;
            let mut from = seen(first, reach).0 / TILE * TILE;
            while from < end {
                let n = KEYS.min(end - from).next_multiple_of(LANES);
                for tile in (0..n).step_by(TILE) {
                    C::gemm::<S>(&Gemm {
                        m,
                        n: TILE.min(n - tile),
                        steps: width / C::STEP,
                        a: query,
                        a_row: width,
                        a_step: C::STEP,
                        b: keys.add((from + tile) * width),
                        b_step: TILE * C::STEP,
                        c: scores.add(tile),
                        c_row: KEYS,
                        add: false,
                    });
                }
                for row in 0..n_queries {
                    let (low, high) = seen(first + row, reach);
                    let low = low.saturating_sub(from).min(n);
                    let high = high.saturating_sub(from).min(n).max(low);
                    let acc = (acc.add(row * width), width);
                    let scores = scores.add(row * KEYS);
                    let so_far = (max.add(row), sum.add(row));
                    softmax::<S, C>(scores, [low, high, n], scale, so_far, acc);
                }
                C::gemm::<S>(&Gemm {
                    m,
                    n: width,
                    steps: n / C::STEP,
                    a: scores.cast::<C>(),
                    a_row: KEYS * C::STEP, // a row of C stands where its scores stood
                    a_step: C::STEP,
                    b: values.add(from * width),
                    b_step: width * C::STEP,
                    c: acc,
                    c_row: width,
                    add: true,
                });
                from += KEYS;
            }
            for row in 0..n_queries {
                let sum = *sum.add(row);
                if let Some(lse) = lse {
                    *lse.add(row) = *max.add(row) + sum.ln();
                }
                unpack::<S, E>(acc.add(row * width), [1, d], 1.0 / sum, out.skip(row));
            }
        }
    }
}

/// One row of scores → its unnormalised probabilities, 0 outside low..high, in the same place; what was gathered before is
/// rescaled.
#[inline(always)]
unsafe fn softmax<S: Simd, C: Element>(
    row: *mut f32,
    [low, high, n]: [usize; 3],
    scale: f32,
    (max, sum): (*mut f32, *mut f32),
    (acc, width): (*mut f32, usize),
) {
    let p = row.cast::<C>();
    // SAFETY: the caller's: n scores, width sums.
    unsafe {
        if low >= high {
            std::ptr::write_bytes(p, 0, n);
            return;
        }
        for i in (0..low).chain(high..n) {
            *row.add(i) = f32::NEG_INFINITY;
        }
        let mut largest = S::splat(f32::NEG_INFINITY);
        for i in (0..n).step_by(LANES) {
            largest = S::max(largest, S::load(row.add(i)));
        }
        let new = (S::largest(largest) * scale).max(*max);
        let shrink = (*max - new).exp();
        let mut total = S::splat(0.0);
        for i in (0..n).step_by(LANES) {
            let x = S::fma(S::load(row.add(i)), S::splat(scale), S::splat(-new));
            let x = S::exp(x);
            C::store::<S>(p.add(i), x);
            total = S::add(total, x);
        }
        // e^−∞ came out as 2⁻¹²⁶, which no sum notices; a hidden value must not be read at all.
        std::ptr::write_bytes(p, 0, low);
        std::ptr::write_bytes(p.add(high), 0, n - high);
        *sum = *sum * shrink + S::sum(total);
        if shrink != 1.0 {
            for i in (0..width).step_by(LANES) {
                S::store(acc.add(i), S::mul(S::load(acc.add(i)), S::splat(shrink)));
            }
        }
        *max = new;
    }
}
