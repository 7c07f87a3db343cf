//! The stream of micro-batches: deterministic, seekable, ahead of the trainer.
//!
//! ```text
//! epoch    ──────────────── all rows in a shuffled order ────────────────
//! window   ├── 1024 rows ──┤├── 1024 rows ──┤ …      encoded together, packed together
//! pack     ├┤├┤├┤├┤├┤        ├┤├┤├┤├┤├┤├┤           at most seq_len tokens each
//! batch    ├──┤├──┤├─────────┤├──┤├──┤ …            `batch` packs; never across the end of an epoch
//! ```
//!
//! A group of tied examples is packed as one, and gets a pack of its own where it alone is longer than `seq_len`. What its
//! members begin with counts once.
//!
//! The cursor is (epoch, window, pack). Reaching it again costs the encoding of one window.

use crate::ledger::{Fate, Ledger};
use crate::prefetch::Prefetch;
use crate::window::{Window, Windows};
use crate::{DataError, Dataset};
use serde::{Deserialize, Serialize};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tunesmith_tokens::{Batch, BatchSource, Cursor, Encoder, Example, SourceError};

/// How rows become batches.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamKnobs {
    /// Tokens that a pack holds at most.
    pub seq_len: usize,
    /// Packs of a micro-batch.
    pub batch: usize,
    /// Names the shuffle.
    pub seed: u64,
    /// Whether rows are read in an order of chance, another one in each epoch.
    pub shuffle: bool,
    /// How examples are put into packs.
    pub packing: Packing,
    /// Whether the tokens that a group's examples begin with are there once: [`Example::share_prompts`].
    pub share_prompt: bool,
    /// Passes over the rows; `None` repeats for ever.
    pub epochs: Option<u64>,
    /// What a malformed row does.
    pub on_bad_row: OnBadRow,
    /// Rows of a window.
    pub window: u64,
    /// Threads that encode; `None` takes all cores. The batches do not depend on it.
    pub threads: Option<usize>,
}

impl StreamKnobs {
    /// One shuffled pass with best-fit packing, and an end at the first malformed row.
    pub fn new(seq_len: usize, batch: usize) -> Self {
        let (packing, on_bad_row) = (Packing::BestFit, OnBadRow::Stop);
        Self {
            seq_len,
            batch,
            seed: 0,
            shuffle: true,
            packing,
            share_prompt: true,
            epochs: Some(1),
            on_bad_row,
            window: 1024,
            threads: None,
        }
    }
}

/// How examples are put into packs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Packing {
    /// As many whole examples as fit, best fit first.
    BestFit,
    /// One example each.
    None,
}

/// What a malformed row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnBadRow {
    /// The stream ends with its error.
    Stop,
    /// It is left out, and the ledger counts it.
    Skip,
}

/// The micro-batches of a data set.
#[derive(Debug)]
pub struct Stream {
    windows: Arc<Windows>,
    cursor: Cursor,
    /// The window at the cursor, once something of it was needed.
    current: Option<Window>,
    prefetch: Option<Prefetch>,
    /// A micro-batch that was looked at and not yet handed out.
    peeked: Option<Peeked>,
    ledger: Arc<Mutex<Ledger>>,
}

/// A prepared micro-batch, and where the stream stood before it.
#[derive(Debug)]
struct Peeked {
    examples: Vec<Example>,
    fates: Vec<Fate>,
    start: Cursor,
    epoch: f64,
}

impl Stream {
    /// Starts to prepare batches at once, on a thread of its own.
    ///
    /// # Errors
    /// A setting of zero, or threads that cannot be started.
    pub fn new(
        dataset: Arc<Dataset>,
        encoder: Arc<Encoder>,
        knobs: StreamKnobs,
    ) -> Result<Self, DataError> {
        let sizes = [
            ("seq_len", knobs.seq_len as u64),
            ("batch", knobs.batch as u64),
            ("window", knobs.window),
        ];
        let counts = sizes.into_iter().chain([("epochs", knobs.epochs.unwrap_or(1))]);
        if let Some((name, _)) = counts.into_iter().find(|(_, count)| *count == 0) {
            return Err(DataError::Setting {
                name,
                expected: "at least 1".into(),
                found: "0".into(),
            });
        }
        let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build();
        let threads = knobs.threads.map(pool).transpose().map_err(|error| DataError::Setting {
            name: "threads",
            expected: "threads that can be started".into(),
            found: error.to_string(),
        })?;
        let ledger = Arc::new(Mutex::new(Ledger::new(dataset.draws())));
        let windows = Arc::new(Windows { dataset, encoder, knobs, threads });
        let prefetch = Some(Prefetch::start(windows.clone(), 0, 0));
        Ok(Self {
            windows,
            cursor: Cursor::default(),
            current: None,
            prefetch,
            peeked: None,
            ledger,
        })
    }

    /// The data set it reads.
    pub fn dataset(&self) -> &Arc<Dataset> {
        &self.windows.dataset
    }

    /// What the batches handed out so far were made of.
    pub fn ledger(&self) -> Ledger {
        lock(&self.ledger).clone()
    }

    /// The same, for someone who cannot reach the stream while a trainer holds it.
    pub fn watch_ledger(&self) -> impl Fn() -> Ledger + Send + Sync + use<> {
        let ledger = self.ledger.clone();
        move || lock(&ledger).clone()
    }

    /// Continues where `ledger` was saved: seeks to its cursor and goes on counting from it.
    ///
    /// # Errors
    /// As [`seek`](BatchSource::seek); a ledger of a data set of another size.
    pub fn restore(&mut self, ledger: Ledger) -> Result<(), DataError> {
        let rows = self.windows.dataset.draws();
        if ledger.rows != rows {
            let (expected, found) = (format!("{rows} rows"), format!("one of {}", ledger.rows));
            return Err(DataError::Setting { name: "ledger", expected, found });
        }
        self.jump(ledger.upto)?;
        *lock(&self.ledger) = ledger;
        Ok(())
    }

    /// Makes the ledger anew by encoding again what was consumed of the first epoch: for a stream that was
    /// sought to its place without a saved ledger.
    ///
    /// # Errors
    /// A row that cannot be read any more.
    pub fn recount(&mut self) -> Result<(), DataError> {
        let (end, n_windows) = (self.cursor, self.windows.n_windows());
        let (whole, part) = if end.epoch == 0 { (end.window, end.pack) } else { (n_windows, 0) };
        let mut ledger = Ledger { upto: end, ..Ledger::new(self.windows.dataset.draws()) };
        let (mut order, never) = (self.windows.order(0), AtomicBool::new(false));
        for index in 0..whole + u64::from(part > 0) {
            let Some(window) = self.windows.window(0, index, &mut order, &never)? else { break };
            let n_packs = if index < whole { window.packs.len() } else { part as usize };
            window.dropped.iter().for_each(|&reason| ledger.count(Fate::Dropped(reason)));
            let packs = window.packs[..n_packs].iter();
            packs.flat_map(|pack| Fate::of(pack)).for_each(|fate| ledger.count(fate));
        }
        *lock(&self.ledger) = ledger;
        Ok(())
    }

    fn jump(&mut self, to: Cursor) -> Result<(), DataError> {
        if to == self.cursor() {
            return Ok(()); // what is prepared stays prepared
        }
        let knobs = &self.windows.knobs;
        let n_windows = self.windows.n_windows();
        let outside = |expected: String| {
            let found = format!("epoch {}, window {}, pack {}", to.epoch, to.window, to.pack);
            DataError::Cursor { found, expected }
        };
        let is_end = knobs.epochs == Some(to.epoch) && to.window == 0 && to.pack == 0;
        if knobs.epochs.is_some_and(|epochs| to.epoch >= epochs) && !is_end {
            return Err(outside(format!("there are {} epochs", knobs.epochs.unwrap_or_default())));
        }
        if to.window >= n_windows {
            return Err(outside(format!("an epoch has {n_windows} windows")));
        }
        let mut prefetch = Prefetch::start(self.windows.clone(), to.epoch, to.window);
        let mut current = None;
        if to.pack > 0 {
            let window = prefetch.next().transpose()?;
            let n_packs = window.as_ref().map_or(0, |window| window.packs.len() as u64);
            if to.pack >= n_packs {
                return Err(outside(format!("window {} has {n_packs} packs", to.window)));
            }
            current = window;
        }
        (self.cursor, self.current, self.prefetch, self.peeked) =
            (to, current, Some(prefetch), None);
        Ok(())
    }

    /// The examples of the next micro-batch and the fates of its rows in the first epoch; the cursor moves past them.
    fn take(&mut self, fates: &mut Vec<Fate>) -> Result<Vec<Example>, DataError> {
        let mut examples = Vec::new();
        let (mut n_packs, mut n_empty) = (0, 0);
        let mut epoch = self.cursor.epoch;
        while n_packs < self.windows.knobs.batch {
            if self.cursor.epoch != epoch && n_packs > 0 {
                break; // the last micro-batch of an epoch may be smaller
            }
            epoch = self.cursor.epoch;
            if self.current.is_none() {
                let prefetch = self.prefetch.get_or_insert_with(|| {
                    Prefetch::start(self.windows.clone(), self.cursor.epoch, self.cursor.window)
                });
                match prefetch.next() {
                    Some(window) => self.current = Some(window?),
                    None => break,
                }
            }
            let Some(window) = &mut self.current else { break };
            let counts = self.cursor.epoch == 0;
            if counts && self.cursor.pack == 0 {
                fates.extend(window.dropped.iter().map(|&reason| Fate::Dropped(reason)));
            }
            match window.packs.get_mut(self.cursor.pack as usize).map(std::mem::take) {
                Some(pack) => {
                    if counts {
                        fates.extend(Fate::of(&pack));
                    }
                    examples.extend(pack);
                    n_packs += 1;
                    self.cursor.pack += 1;
                }
                None => n_empty += 1,
            }
            if n_empty >= self.windows.n_windows() {
                return Err(DataError::NothingTrained { rows: self.windows.dataset.len() });
            }
            if self.cursor.pack as usize >= window.packs.len() {
                self.finish_window();
            }
        }
        Ok(examples)
    }

    fn finish_window(&mut self) {
        self.current = None;
        self.cursor.pack = 0;
        self.cursor.window += 1;
        if self.cursor.window == self.windows.n_windows() {
            self.cursor = Cursor { epoch: self.cursor.epoch + 1, window: 0, pack: 0 };
        }
    }
}

impl Stream {
    /// The next micro-batch, which the stream will hand out all the same.
    ///
    /// # Errors
    /// As [`next`](BatchSource::next).
    pub fn peek(&mut self) -> Result<Option<Batch>, DataError> {
        if self.peeked.is_none() {
            self.peeked = Some(self.prepare()?);
        }
        let examples = self.peeked.as_ref().map(|peeked| &peeked.examples);
        Ok(examples.filter(|examples| !examples.is_empty()).map(Batch::new))
    }

    fn prepare(&mut self) -> Result<Peeked, DataError> {
        let (start, epoch) = (self.cursor, self.epoch());
        let mut fates = Vec::new();
        let examples = self.take(&mut fates).inspect_err(|_| {
            // nothing was consumed: asking again meets the same error
            (self.cursor, self.current, self.prefetch) = (start, None, None);
        })?;
        Ok(Peeked { examples, fates, start, epoch })
    }
}

impl BatchSource for Stream {
    fn next(&mut self) -> Result<Option<Batch>, SourceError> {
        let Peeked { examples, fates, .. } = match self.peeked.take() {
            Some(peeked) => peeked,
            None => self.prepare()?,
        };
        let mut ledger = lock(&self.ledger);
        fates.into_iter().for_each(|fate| ledger.count(fate));
        ledger.upto = self.cursor;
        Ok((!examples.is_empty()).then(|| Batch::new(&examples)))
    }

    fn cursor(&self) -> Cursor {
        self.peeked.as_ref().map_or(self.cursor, |peeked| peeked.start)
    }

    /// As the trait says. The ledger goes on only where it was saved at this cursor ([`Stream::restore`]); elsewhere it
    /// starts anew, and the rows before the cursor count as unread until [`Stream::recount`].
    fn seek(&mut self, cursor: Cursor) -> Result<(), SourceError> {
        self.jump(cursor)?;
        let mut ledger = lock(&self.ledger);
        if ledger.upto != cursor {
            *ledger = Ledger { upto: cursor, ..Ledger::new(self.windows.dataset.draws()) };
        }
        Ok(())
    }

    fn epoch(&self) -> f64 {
        if let Some(peeked) = &self.peeked {
            return peeked.epoch;
        }
        let (rows, window) = (self.windows.dataset.draws(), self.windows.knobs.window);
        let before = self.cursor.window * window;
        let inside = self.current.as_ref().map_or(0.0, |current| {
            let share = self.cursor.pack as f64 / current.packs.len().max(1) as f64;
            share * window.min(rows - before) as f64
        });
        self.cursor.epoch as f64 + (before as f64 + inside) / rows as f64
    }
}

fn lock(ledger: &Mutex<Ledger>) -> MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}
