//! A window: consecutive rows of the shuffled order, encoded on all cores and packed. A pure function of
//! (seed, epoch, window), without anything carried over from the window before it.

use crate::ledger::Fate;
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
    /// The examples of each pack.
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

/// A row either gives an example or the reason why it gives none.
type Encoded = Result<Example, &'static str>;

impl Windows {
    /// Windows of an epoch.
    pub(crate) fn n_windows(&self) -> u64 {
        self.dataset.len().div_ceil(self.knobs.window)
    }

    /// The order of an epoch.
    pub(crate) fn order(&self, epoch: u64) -> Order {
        match self.knobs.shuffle {
            true => Order::shuffled(self.knobs.seed, epoch, self.dataset.len()),
            false => Order::sequential(self.dataset.len()),
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
        let rows = order.rows(index * self.knobs.window..(index + 1) * self.knobs.window);
        let encoded = match &self.threads {
            Some(threads) => threads.install(|| self.encode(&rows, stop)),
            None => self.encode(&rows, stop),
        };
        let Some(encoded) = encoded else { return Ok(None) };
        let mut examples = Vec::with_capacity(rows.len());
        let mut dropped = Vec::new();
        // the first fault in the order of training is the one reported, whichever thread met another before
        for row in encoded {
            match row? {
                Ok(example) => examples.push(example),
                Err(reason) => dropped.push(reason),
            }
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
        let example = match self.dataset.example(row, &self.encoder) {
            Ok(example) => example,
            Err(DataError::Row(error)) if self.knobs.on_bad_row == OnBadRow::Skip => {
                return Ok(Err(error.fault.code()));
            }
            Err(error) => return Err(error),
        };
        if example.len() > self.knobs.seq_len {
            let fault = Fault::TooManyTokens { found: example.len(), limit: self.knobs.seq_len };
            return Err(self.dataset.error(row, String::new(), fault));
        }
        Ok(match (example.n_trained(), example.truncated) {
            (0, 0) => Err("no trained token"),
            (0, _) => Err("no trained token left after truncation"),
            _ => Ok(example),
        })
    }

    fn pack(&self, examples: Vec<Example>, epoch: u64, index: u64) -> Vec<Vec<Example>> {
        let mut packs = match self.knobs.packing {
            Packing::None => return examples.into_iter().map(|example| vec![example]).collect(),
            Packing::BestFit => {
                let lengths: Vec<usize> = examples.iter().map(Example::len).collect();
                pack::best_fit(&lengths, self.knobs.seq_len)
            }
        };
        // Best fit goes by length, training must not: the order of rows again, or of chance.
        packs.iter_mut().for_each(|pack| pack.sort_unstable());
        packs.sort_unstable();
        if self.knobs.shuffle {
            Rng::new(self.knobs.seed, "packs", epoch, index).shuffle(&mut packs);
        }
        let mut examples: Vec<Option<Example>> = examples.into_iter().map(Some).collect();
        packs
            .into_iter()
            .map(|pack| pack.into_iter().filter_map(|i| examples[i].take()).collect())
            .collect()
    }
}

impl From<&Example> for Fate {
    fn from(example: &Example) -> Self {
        let (tokens, trained) = (example.len() as u64, example.n_trained() as u64);
        Self::Packed { tokens, trained, truncated: example.truncated.into() }
    }
}
