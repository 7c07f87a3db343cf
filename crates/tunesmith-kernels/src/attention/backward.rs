//! The backward pass: a task is one query head of a document. It walks blocks of keys, and for each the blocks of
//! queries that see it; the gradients of keys and values are summed per query head, then over the heads of a group
//! and over what continues a document, always in the same order.

use super::{
    AttentionShape,
    block::{KEYS, Layout, Padded, QUERIES, Rows, TILE, pack, seen, unpack, with_scratch, zip},
};
use crate::{
    cuda,
    element::{Element, by_factor, memory},
    gemm::{self, Gemm},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use tch::{Device, Kind, Tensor};

/// The gradients of q, k and v, given that of the output, and what [`attention`](super::attention) returned.
pub fn attention_backward(
    dout: &Tensor,
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape,
) -> [Tensor; 3] {
    if q.device().is_cuda() {
        return cuda::attention_backward(dout, [q, k, v], out, lse, shape);
    }
    let grads = [q, k, v].map(Tensor::empty_like);
    by_factor!(q.kind(), E, C => backward::<E, C>(dout, [q, k, v], out, lse, shape, &grads));
    grads
}

fn backward<E: Element, C: Element>(
    dout: &Tensor,
    [q, k, v]: [&Tensor; 3],
    out: &Tensor,
    lse: &Tensor,
    shape: &AttentionShape,
    [dq, dk, dv]: &[Tensor; 3],
) {
    let docs = shape.docs();
    let layout = Layout::packed(k, &docs, shape);
    let [n, h, d] = [0, 1, 2].map(|i| q.size()[i] as usize);
    let group = h / layout.n_head;
    let width = d.next_multiple_of(LANES);
    let keys = Padded::<C>::new(k, &layout, true, true);
    let values = Padded::<C>::new(v, &layout, false, true);
    let (starts, total) = layout.padded();
    let size = [(h * total * width) as i64];
    let [key_sums, value_sums] = [(); 2].map(|()| Tensor::empty(size, (Kind::Float, Device::Cpu)));
    let [key_sums, value_sums] = [&key_sums, &value_sums].map(|x| Shared(memory::<f32>(x)));

    let mut tasks: Vec<(usize, usize)> =
        (0..docs.len()).flat_map(|doc| (0..h).map(move |head| (doc, head))).collect();
    tasks.sort_by_key(|&(doc, _)| std::cmp::Reverse(layout.docs[doc].n)); // long ones first
    let longest = docs.iter().map(|&(_, t)| t).max().unwrap_or(0).next_multiple_of(gemm::ROWS);
    let (stream, scores) = (longest * width, QUERIES * KEYS);
    let zipped = |n: usize| if C::STEP > 1 { n } else { 0 };
    let zips = [stream, stream, scores, scores].map(zipped);
    let sizes =
        [stream, stream, stream, longest, scores, scores, zips[0], zips[1], zips[2], zips[3]];
    let [q, dout, out] = [q, dout, out].map(|x| Shared(memory::<E>(x)));
    let [dq, dk, dv] = [dq, dk, dv].map(|x| Shared(memory::<E>(x)));
    let lse = Shared(memory::<f32>(lse));
    for_each(tasks.len(), |task| {
        let (doc, head) = tasks[task];
        let (start, t) = docs[doc];
        with_scratch(sizes, |scratch| {
            // SAFETY: rows of this document and head, and sums that belong to this task.
            unsafe {
                let rows =
                    |x: Shared<E>| Rows { at: x.get().add(head * d), row: h * d }.skip(start);
                let sums = |x: Shared<f32>| x.get().add((head * total + starts[doc]) * width);
                C::run(Head {
                    q: rows(q),
                    dout: rows(dout),
                    out: rows(out),
                    dq: rows(dq),
                    lse: lse.get().add(head * n + start),
                    key_rows: keys.rows(head / group, doc),
                    key_tiles: keys.tiles(head / group, doc),
                    value_tiles: values.tiles(head / group, doc),
                    dk: sums(key_sums),
                    dv: sums(value_sums),
                    first: layout.docs[doc].before.1,
                    t,
                    d,
                    scale: shape.scale as f32,
                    reach: shape.reach(),
                    scratch,
                });
            }
        });
    });

    let mut continuations = vec![Vec::new(); docs.len()];
    for (doc, prefix) in (0..docs.len()).filter_map(|doc| Some((doc, shape.prefix(doc)?))) {
        continuations[prefix.doc].push(doc);
    }
    for_each(docs.len() * layout.n_head, |task| {
        let (doc, head) = (task / layout.n_head, task % layout.n_head);
        let (start, t) = docs[doc];
        for (sums, factor, target) in [(key_sums, shape.scale as f32, dk), (value_sums, 1.0, dv)] {
            // SAFETY: the sums are complete; a task changes the rows of its own document's tokens alone, and of other
            // documents it reads those that stand before theirs.
            unsafe {
                let sum = |doc: usize, of_group: usize, row: usize| {
                    let head = head * group + of_group;
                    sums.get().add((head * total + starts[doc] + row) * width)
                };
                let before = |doc: usize| layout.docs[doc].before.1;
                let own = (1..group).map(|of_group| (sum(doc, of_group, before(doc)), t));
                let others = continuations[doc].iter().flat_map(|&other| {
                    (0..group).map(move |of_group| (sum(other, of_group, 0), before(other)))
                });
                let target = Rows { at: target.get().add(head * d), row: layout.row };
                simd::run(Reduce {
                    sum: sum(doc, 0, before(doc)),
                    more: &own.chain(others).collect::<Vec<_>>(),
                    t,
                    d,
                    factor,
                    target: target.skip(start),
                });
            }
        }
    });
}

/// One query head of a document.
struct Head<E, C> {
    q: Rows<E>,
    dout: Rows<E>,
    out: Rows<E>,
    dq: Rows<E>,
    lse: *const f32,
    key_rows: *const C,
    key_tiles: *const C,
    value_tiles: *const C,
    dk: *mut f32,
    dv: *mut f32,
    /// Keys before that of the first query.
    first: usize,
    t: usize,
    d: usize,
    scale: f32,
    reach: usize,
    scratch: [*mut f32; 10],
}

impl<E: Element, C: Element> Kernel for Head<E, C> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { q, dout, out, dq, lse, first, t, d, scale, reach, scratch, .. } = self;
        let [query, grad, dquery, delta, scores, dscores, zips @ ..] = scratch;
        let [query, grad, p, ds] = [query, grad, scores, dscores].map(|x| x.cast::<C>());
        let [query_zip, grad_zip, p_zip, ds_zip] = zips.map(|x| x.cast::<C>());
        let width = d.next_multiple_of(LANES);
        let padded = t.next_multiple_of(gemm::ROWS);
        // A row of p or ds stands where its fp32 stood.
        let row = KEYS * C::STEP;
        // SAFETY: scratch has the sizes that `backward` asked for; keys and sums are padded to whole tiles.
        unsafe {
            pack::<S, E, C>(q, [t, d], padded, query);
            pack::<S, E, C>(dout, [t, d], padded, grad);
            let query_zip = zip::<S, C>(query, width, [padded, width], (query_zip, width));
            let grad_zip = zip::<S, C>(grad, width, [padded, width], (grad_zip, width));
            std::ptr::write_bytes(dquery, 0, padded * width);
            for row in 0..t {
                let mut dot = S::splat(0.0);
                for i in (0..d).step_by(LANES) {
                    let [o, g] = [out, dout].map(|x| x.skip(row).at.add(i));
                    let [o, g] = [o, g].map(|x| E::load_some::<S>(x, d - i));
                    dot = S::fma(o, g, dot);
                }
                *delta.add(row) = S::sum(dot);
            }
            let n_keys = first + t;
            let n_padded = n_keys.next_multiple_of(TILE) * width;
            std::ptr::write_bytes(self.dk, 0, n_padded);
            std::ptr::write_bytes(self.dv, 0, n_padded);
            for from in (0..n_keys).step_by(KEYS) {
                // The queries that see a key of this block: from its own on, as far as the window reaches.
                let begin = from.saturating_sub(first) / QUERIES * QUERIES;
                let end = (from + KEYS).min(n_keys).saturating_add(reach - 1).min(n_keys);
                for at in (begin..end.saturating_sub(first)).step_by(QUERIES) {
                    let n_queries = QUERIES.min(t - at);
                    let m = n_queries.next_multiple_of(gemm::ROWS);
                    let n = KEYS.min(first + at + n_queries - from).next_multiple_of(LANES);
                    for (a, b, c) in
                        [(query, self.key_tiles, scores), (grad, self.value_tiles, dscores)]
                    {
                        for tile in (0..n).step_by(TILE) {
                            C::gemm::<S>(&Gemm {
                                m,
                                n: TILE.min(n - tile),
                                steps: width / C::STEP,
                                a: a.add(at * width),
                                a_row: width,
                                a_step: C::STEP,
                                b: b.add((from + tile) * width),
                                b_step: TILE * C::STEP,
                                c: c.add(tile),
                                c_row: KEYS,
                                add: false,
                            });
                        }
                    }
                    for i in 0..n_queries {
                        let (low, high) = seen(first + at + i, reach);
                        let low = low.saturating_sub(from).min(n);
                        let high = high.saturating_sub(from).min(n).max(low);
                        let of_row = [scale, *lse.add(at + i), *delta.add(at + i)];
                        let (scores, dscores) = (scores.add(i * KEYS), dscores.add(i * KEYS));
                        probabilities::<S, C>(scores, dscores, [low, high, n], of_row);
                    }
                    let even = n_queries.next_multiple_of(C::STEP);
                    for x in [p, ds] {
                        (n_queries..even).for_each(|i| x.add(i * row).write_bytes(0, n));
                    }
                    let p_zip = zip::<S, C>(p, row, [even, n], (p_zip, KEYS));
                    let ds_zip = zip::<S, C>(ds, row, [even, n], (ds_zip, KEYS));
                    // Sums over queries: Pᵀ dout and dSᵀ q.
                    for (a, b, c) in [(p_zip, grad_zip, self.dv), (ds_zip, query_zip, self.dk)] {
                        C::gemm::<S>(&Gemm {
                            m: n,
                            n: width,
                            steps: even / C::STEP,
                            a,
                            a_row: C::STEP,
                            a_step: KEYS * C::STEP,
                            b: b.add(at * width),
                            b_step: width * C::STEP,
                            c: c.add(from * width),
                            c_row: width,
                            add: true,
                        });
                    }
                    C::gemm::<S>(&Gemm {
                        m,
                        n: width,
                        steps: n / C::STEP,
                        a: ds,
                        a_row: row,
                        a_step: C::STEP,
                        b: self.key_rows.add(from * width),
                        b_step: width * C::STEP,
                        c: dquery.add(at * width),
                        c_row: width,
                        add: true,
                    });
                }
            }
            unpack::<S, E>(dquery, [t, d], scale, dq);
        }
    }
}

/// One row: scores → p, and dp → ds, in the same places; both 0 outside low..high.
#[inline(always)]
unsafe fn probabilities<S: Simd, C: Element>(
    scores: *mut f32,
    dscores: *mut f32,
    [low, high, n]: [usize; 3],
    [scale, lse, delta]: [f32; 3],
) {
    let [p, ds] = [scores, dscores].map(|x| x.cast::<C>());
    // SAFETY: the caller's: n of each.
    unsafe {
        for i in (0..n).step_by(LANES) {
            let of_row = S::fma(S::load(scores.add(i)), S::splat(scale), S::splat(-lse));
            let of_row = S::exp(of_row);
            let gradient = S::mul(of_row, S::sub(S::load(dscores.add(i)), S::splat(delta)));
            C::store::<S>(p.add(i), of_row);
            C::store::<S>(ds.add(i), gradient);
        }
        for row in [p, ds] {
            std::ptr::write_bytes(row, 0, low);
            std::ptr::write_bytes(row.add(high), 0, n - high);
        }
    }
}

/// Adds to `sum` what the other query heads of a group and the continuations of a document have gathered, each for as
/// many of the first of its t rows as it says. The target gets the sum times `factor`.
struct Reduce<'a, E> {
    sum: *mut f32,
    more: &'a [(*mut f32, usize)],
    t: usize,
    d: usize,
    factor: f32,
    target: Rows<E>,
}

impl<E: Element> Kernel for Reduce<'_, E> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { sum, more, t, d, factor, target } = self;
        let width = d.next_multiple_of(LANES);
        // SAFETY: t rows of `sum`, and no more of the others.
        unsafe {
            for &(more, n) in more {
                for i in (0..n * width).step_by(LANES) {
                    S::store(sum.add(i), S::add(S::load(sum.add(i)), S::load(more.add(i))));
                }
            }
            unpack::<S, E>(sum, [t, d], factor, target);
        }
    }
}
