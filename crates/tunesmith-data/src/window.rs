//! A window: consecutive rows of the shuffled order, encoded on all cores and packed. A pure function of
//! (seed, epoch, window), without anything carried over from the window before it.

use crate::order::Order;
use crate::rng::Rng;
use crate::stream::{OnBadRow, Packing, StreamKnobs};
use crate::{DataError, Dataset, Fault};
use rayon::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tunesmith_tokens::{Encoder, Example, pack};

/// Rows of one window, as the trainer consumes them.
#[derive(Debug)]
pub(crate) struct Window {
    /// The examples of each pack; those of a group stand together.
    pub(crate) packs: Vec<Vec<Example>>,
    /// Why rows of this window are in no pack.
    pub(crate) dropped: Vec<&'static str>,
}

/// What all windows of a stream have in common.
#[derive(Debug)]
pub(crate) struct Windows {
    pub(crate) dataset: Arc<Dataset>,
    pub(crate) encoder: Arc<Encoder>,
    pub(crate) knobs: StreamKnobs,
    /// Threads of its own; without them, those of the whole program.
    pub(crate) threads: Option<rayon::ThreadPool>,
}

/// A row either gives examples or the reason why it gives none.
type Encoded = Result<Vec<Example>, &'static str>;

impl Windows {
    /// Windows of an epoch.
    pub(crate) fn n_windows(&self) -> u64 {
        self.dataset.draws().div_ceil(self.knobs.window)
    }

    /// The order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> Order {
        match self.knobs.shuffle {
            true => Order::shuffled(self.knobs.seed, epoch, self.dataset.draws()),
            false => Order::sequential(self.dataset.draws()),
        }
    }

    /// Encodes and packs window `index` of `epoch`; `None` once `stop` is set.
    pub(crate) fn window(
        &self,
        epoch: u64,
        index: u64,
        order: &mut Order,
        stop: &AtomicBool,
    ) -> Result<Option<Window>, DataError> {
        let mut rows = order.rows(index * self.knobs.window..(index + 1) * self.knobs.window);
        rows.iter_mut().for_each(|row| *row = self.dataset.draw(self.knobs.seed, epoch, *row));
        let encoded = match &self.threads {
            Some(threads) => threads.install(|| self.encode(&rows, stop)),
            None => self.encode(&rows, stop),
        };
        let Some(encoded) = encoded else { return Ok(None) };
        // what was read of another file is no window, and its faults are no faults
        self.dataset.unchanged()?;
        let mut examples = Vec::with_capacity(rows.len());
        let mut dropped = Vec::new();
        // the first fault in the order of training is the one reported, whichever thread met another before
        for row in encoded {
            match row? {
                Ok(of_row) => examples.extend(of_row),
                Err(reason) => dropped.push(reason),
            }
        }
        if self.knobs.share_prompt {
            Example::share_prompts(&mut examples);
        }
        Ok(Some(Window { packs: self.pack(examples, epoch, index), dropped }))
    }

    /// The rows' examples in the order of `rows`.
    fn encode(&self, rows: &[u64], stop: &AtomicBool) -> Option<Vec<Result<Encoded, DataError>>> {
        // Read in file order: a slice of a parquet row group is decoded once and then used up.
        let mut places: Vec<usize> = (0..rows.len()).collect();
        places.sort_unstable_by_key(|&place| rows[place]);
        let encode = |place: usize| {
            (!stop.load(Ordering::Relaxed)).then(|| (place, self.encode_row(rows[place])))
        };
        let mut encoded = places.into_par_iter().map(encode).collect::<Option<Vec<_>>>()?;
        encoded.sort_unstable_by_key(|(place, _)| *place);
        Some(encoded.into_iter().map(|(_, row)| row).collect())
    }

    fn encode_row(&self, row: u64) -> Result<Encoded, DataError> {
        if let Some(step) = self.dataset.left_out(row) {
            return Ok(Err(step));
        }
        let examples = match self.dataset.row_examples(row, &self.encoder) {
            Ok(examples) => examples,
            Err(DataError::Row(error)) if self.knobs.on_bad_row == OnBadRow::Skip => {
                return Ok(Err(error.fault.code()));
            }
            Err(error) => return Err(error),
        };
        if let Some(long) = examples.iter().find(|example| example.len() > self.knobs.seq_len) {
            let fault = Fault::TooManyTokens { found: long.len(), limit: self.knobs.seq_len };
            return Err(self.dataset.error(row, String::new(), fault));
        }
        // A group teaches as a whole: where one answer has lost its tokens, there is nothing to compare.
        let teaches = examples.iter().all(Example::teaches);
        Ok(match examples.iter().any(|example| example.truncated > 0) {
            _ if examples.is_empty() => Err("too long"),
            _ if teaches => Ok(examples),
            false => Err("no trained token"),
            true => Err("no trained token left after truncation"),
        })
    }

    /// Packs of whole groups. A group longer than a pack gets one of its own.
    fn pack(&self, examples: Vec<Example>, epoch: u64, index: u64) -> Vec<Vec<Example>> {
        let sizes: Vec<usize> = Example::groups(&examples).map(<[Example]>::len).collect();
        let mut packs = match self.knobs.packing {
            Packing::None => pack::unpacked(sizes.len()),
            Packing::BestFit => {
                let tokens = |group: &[Example]| group.iter().map(Example::n_own).sum();
                let lengths: Vec<usize> = Example::groups(&examples).map(tokens).collect();
                let mut packs = pack::best_fit(&lengths, self.knobs.seq_len);
                // Best fit goes by length, training must not: the order of rows again, or of chance.
                packs.iter_mut().for_each(|pack| pack.sort_unstable());
                packs.sort_unstable();
                if self.knobs.shuffle {
                    Rng::new(self.knobs.seed, "packs", epoch, index).shuffle(&mut packs);
                }
                packs
            }
        };
        let mut rest = examples.into_iter();
        let mut groups: Vec<Vec<Example>> =
            sizes.into_iter().map(|size| rest.by_ref().take(size).collect()).collect();
        let taken = |pack: Vec<usize>| {
            pack.into_iter().flat_map(|group| std::mem::take(&mut groups[group])).collect()
        };
        packs.drain(..).map(taken).collect()
    }
}
