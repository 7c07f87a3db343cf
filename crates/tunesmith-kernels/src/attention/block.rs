//! Rows in memory of our own, padded so that tiles never need an edge, and zipped as products want them.
//!
//! C is what is multiplied: fp32, or bf16 in pairs where the CPU has an instruction for those ([`Element::STEP`]).

use super::AttentionShape;
use crate::{
    element::{Element, by_kind, memory},
    parallel::{Shared, for_each},
    simd::{self, Kernel, LANES, Simd},
};
use std::{cell::RefCell, marker::PhantomData};
use tch::{Device, Tensor};

/// Queries of a block.
pub(super) const QUERIES: usize = 64;
/// Keys of a block: 64 queries of scores are 64 KiB, well inside L2.
pub(super) const KEYS: usize = 256;
/// Keys of a transposed tile; a tile of D rows is contiguous, since rows a power of two apart would share cache sets.
pub(super) const TILE: usize = 64;

/// Rows of one head of a tensor: `row` elements from one token to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rows<E> {
    pub(super) at: *mut E,
    pub(super) row: usize,
}

impl<E: Element> Rows<E> {
    /// From row `n` on.
    ///
    /// # Safety
    /// There are that many.
    #[inline(always)]
    pub(super) unsafe fn skip(self, n: usize) -> Self {
        // SAFETY: the caller's.
        Self { at: unsafe { self.at.add(n * self.row) }, row: self.row }
    }
}

/// Where the keys that a document sees lie in a tensor.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keys {
    /// The offset of its first own key of head 0.
    pub(super) offset: usize,
    /// How many it sees in all.
    pub(super) n: usize,
    /// Of those before its own: the offset of the first, and how many there are.
    pub(super) before: (usize, usize),
}

/// The strides of keys.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) docs: Vec<Keys>,
    pub(super) n_head: usize,
    pub(super) d: usize,
    pub(super) row: usize,
    pub(super) head: usize,
}

impl Layout {
    /// Keys (N, K, D) of documents that lie one after the other, each behind what it continues.
    pub(super) fn packed(k: &Tensor, docs: &[(usize, usize)], shape: &AttentionShape) -> Self {
        let [n_head, d] = [1, 2].map(|i| k.size()[i] as usize);
        let row = n_head * d;
        let keys = docs.iter().enumerate().map(|(doc, &(start, t))| {
            let before = shape.prefix(doc).map_or((0, 0), |p| (docs[p.doc].0 * row, p.n as usize));
            Keys { offset: start * row, n: before.1 + t, before }
        });
        Self { docs: keys.collect(), n_head, d, row, head: d }
    }

    /// Where each document starts among padded rows, and how many rows there are.
    pub(super) fn padded(&self) -> (Vec<usize>, usize) {
        let mut total = 0;
        let starts = self
            .docs
            .iter()
            .map(|keys| {
                let start = total;
                total += keys.n.next_multiple_of(TILE);
                start
            })
            .collect();
        (starts, total)
    }
}

/// Keys or values, each document padded to whole tiles: (K, rows, D').
pub(super) struct Padded<C> {
    rows: Option<Tensor>,
    tiles: Option<Tensor>,
    starts: Vec<usize>,
    per_head: usize,
    width: usize,
    of: PhantomData<C>,
}

impl<C: Element> Padded<C> {
    /// Copies `x` as rows, zipped with their neighbours, as transposed tiles of zipped columns, or both.
    pub(super) fn new(x: &Tensor, layout: &Layout, rows: bool, tiles: bool) -> Self {
        let (starts, total) = layout.padded();
        let width = layout.d.next_multiple_of(LANES);
        let memory = |wanted: bool| {
            let size = [(layout.n_head * total * width) as i64];
            wanted.then(|| Tensor::empty(size, (C::KIND, Device::Cpu)))
        };
        let padded = Self {
            rows: memory(rows),
            tiles: memory(tiles),
            starts,
            per_head: total * width,
            width,
            of: PhantomData,
        };
        by_kind!(x.kind(), E => padded.fill::<E>(x, layout));
        padded
    }

    fn fill<E: Element>(&self, x: &Tensor, layout: &Layout) {
        let x = Shared(x.data_ptr().cast::<E>());
        let n_docs = layout.docs.len();
        for_each(n_docs * layout.n_head, |task| {
            let (doc, head) = (task % n_docs, task / n_docs);
            let Keys { offset, n, before: (first, n_before) } = layout.docs[doc];
            // SAFETY: each task has a document of a head of its own, in memory made for it.
            unsafe {
                let rows = |offset: usize| Rows {
                    at: x.get().add(offset + head * layout.head),
                    row: layout.row,
                };
                simd::run(Copy {
                    before: rows(first),
                    n_before,
                    from: rows(offset),
                    n,
                    d: layout.d,
                    rows: self.rows(head, doc),
                    tiles: self.tiles(head, doc),
                });
            }
        });
    }

    /// The rows of a document of a head.
    pub(super) fn rows(&self, head: usize, doc: usize) -> *mut C {
        self.part(&self.rows, head, doc)
    }

    /// Its transposed tiles.
    pub(super) fn tiles(&self, head: usize, doc: usize) -> *mut C {
        self.part(&self.tiles, head, doc)
    }

    fn part(&self, of: &Option<Tensor>, head: usize, doc: usize) -> *mut C {
        let Some(tensor) = of else { return std::ptr::null_mut() };
        memory::<C>(tensor).wrapping_add(head * self.per_head + self.starts[doc] * self.width)
    }
}

// SAFETY: tasks only take pointers out of it; the tensors themselves stay with the thread that made them.
unsafe impl<C> Sync for Padded<C> {}

/// The first `n_before` of `n` rows come from one place, the others from another.
struct Copy<E, C> {
    before: Rows<E>,
    n_before: usize,
    from: Rows<E>,
    n: usize,
    d: usize,
    rows: *mut C,
    tiles: *mut C,
}

impl<E: Element, C: Element> Kernel for Copy<E, C> {
    #[inline(always)]
    unsafe fn body<S: Simd>(self) {
        let Self { before, n_before, from, n, d, rows, tiles } = self;
        let width = d.next_multiple_of(LANES);
        let mut lines = [C::default(); LANES * LANES];
        for row in (0..n.next_multiple_of(TILE)).step_by(LANES) {
            // SAFETY: rows below n; of those beyond, none is read.
            let sources: [*mut E; LANES] = std::array::from_fn(|r| unsafe {
                match row + r {
                    i if i < n_before => before.skip(i).at,
                    i if i < n => from.skip(i - n_before).at,
                    _ => from.at,
                }
            });
            for col in (0..width).step_by(LANES) {
                for (r, source) in sources.into_iter().enumerate() {
                    // SAFETY: rows below n, columns below d; targets are padded.
                    unsafe {
                        let left = if row + r < n { d.saturating_sub(col) } else { 0 };
                        let at = if left > 0 { col } else { 0 };
                        let x = E::load_some::<S>(source.add(at), left);
                        C::store::<S>(lines.as_mut_ptr().add(r * LANES), x);
                    }
                }
                if !rows.is_null() {
                    for r in (0..LANES).step_by(C::STEP) {
                        // SAFETY: as above; `lines` has LANES rows.
                        unsafe {
                            let x = C::zip::<S>(lines.as_ptr().add(r * LANES), LANES);
                            C::store_run::<S>(rows.add((row + r) * width + col * C::STEP), x);
                        }
                    }
                }
                if tiles.is_null() {
                    continue;
                }
                let tile = row / TILE * TILE * width + row % TILE * C::STEP;
                for c in (0..LANES).step_by(C::STEP) {
                    for r in 0..LANES {
                        for i in 0..C::STEP {
                            // SAFETY: inside the tile of `row`.
                            unsafe {
                                *tiles.add(tile + (col + c) * TILE + r * C::STEP + i) =
                                    lines[r * LANES + c + i];
                            }
                        }
                    }
                }
            }
        }
    }
}

/// `n` rows of `d` → `padded_n` rows of d rounded up, zeros around.
///
/// # Safety
/// The rows exist; `to` has room.
#[inline(always)]
pub(super) unsafe fn pack<S: Simd, E: Element, C: Element>(
    from: Rows<E>,
    [n, d]: [usize; 2],
    padded_n: usize,
    to: *mut C,
) {
    let width = d.next_multiple_of(LANES);
    // SAFETY: the caller's.
    unsafe {
        for row in 0..n {
            let (from, to) = (from.at.add(row * from.row), to.add(row * width));
            for i in (0..width).step_by(LANES) {
                C::store::<S>(to.add(i), E::load_some::<S>(from.add(i), d - i));
            }
        }
        std::ptr::write_bytes(to.add(n * width), 0, (padded_n - n) * width);
    }
}

/// `n` rows (an even number), `row` elements apart, of `width` each → the same, zipped, `to_row` elements apart. Rows that
/// need no zipping stay where they are.
///
/// # Safety
/// The rows exist; `to` has room, unless [`Element::STEP`] is 1.
#[inline(always)]
pub(super) unsafe fn zip<S: Simd, C: Element>(
    from: *mut C,
    row: usize,
    [n, width]: [usize; 2],
    (to, to_row): (*mut C, usize),
) -> *mut C {
    if C::STEP == 1 {
        return from;
    }
    for first in (0..n).step_by(C::STEP) {
        for i in (0..width).step_by(LANES) {
            // SAFETY: the caller's.
            unsafe {
                let x = C::zip::<S>(from.add(first * row + i), row);
                C::store_run::<S>(to.add(first * to_row + i * C::STEP), x);
            }
        }
    }
    to
}

/// `n` rows of fp32, `d` rounded up wide, times `factor` → rows of a tensor.
///
/// # Safety
/// The rows exist on both sides.
#[inline(always)]
pub(super) unsafe fn unpack<S: Simd, E: Element>(
    from: *const f32,
    [n, d]: [usize; 2],
    factor: f32,
    to: Rows<E>,
) {
    let width = d.next_multiple_of(LANES);
    for row in 0..n {
        // SAFETY: the caller's.
        unsafe {
            let (from, to) = (from.add(row * width), to.at.add(row * to.row));
            for i in (0..d).step_by(LANES) {
                let x = S::mul(S::load(from.add(i)), S::splat(factor));
                E::store_some::<S>(to.add(i), x, d - i);
            }
        }
    }
}

/// The keys that the query at `position` sees, as a range of positions.
#[inline(always)]
pub(super) fn seen(position: usize, reach: usize) -> (usize, usize) {
    ((position + 1).saturating_sub(reach), position + 1)
}

/// Scratch memory of this thread, kept between calls; what it holds is arbitrary.
pub(super) fn with_scratch<const N: usize>(sizes: [usize; N], body: impl FnOnce([*mut f32; N])) {
    thread_local! {
        static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|memory| {
        let sizes = sizes.map(|n| n.next_multiple_of(LANES));
        let total = sizes.iter().sum::<usize>() + LANES;
        if memory.len() < total {
            *memory = vec![0.0; total];
        }
        let start = memory.as_mut_ptr();
        let mut offset = start.align_offset(64).min(LANES);
        body(sizes.map(|n| {
            let part = start.wrapping_add(offset);
            offset += n;
            part
        }));
    });
}
