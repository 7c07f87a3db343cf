//! A thread that prepares the next windows while the trainer works on this one.

use crate::DataError;
use crate::window::{Window, Windows};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Windows in order from a starting point. Dropping it stops the thread.
#[derive(Debug)]
pub(crate) struct Prefetch {
    windows: Option<Receiver<Result<Window, DataError>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Prefetch {
    /// Starts at window `index` of `epoch`. One window waits ready, another is in the making: memory for two.
    pub(crate) fn start(windows: Arc<Windows>, epoch: u64, index: u64) -> Self {
        let (sender, receiver) = sync_channel(1);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut start = index;
            for epoch in epoch..windows.knobs.epochs.unwrap_or(u64::MAX) {
                let mut order = windows.order(epoch);
                for index in start..windows.n_windows() {
                    let window = match windows.window(epoch, index, &mut order, &stopped) {
                        Ok(Some(window)) => Ok(window),
                        Ok(None) => return,
                        Err(error) => Err(error),
                    };
                    let is_last = window.is_err();
                    if sender.send(window).is_err() || is_last {
                        return;
                    }
                }
                start = 0;
            }
        });
        Self { windows: Some(receiver), stop, thread: Some(thread) }
    }

    /// The next window; `None` after the last one of the last epoch.
    pub(crate) fn next(&mut self) -> Option<Result<Window, DataError>> {
        let next = self.windows.as_ref().and_then(|windows| windows.recv().ok());
        if next.is_none()
            && let Some(thread) = self.thread.take()
            && let Err(panic) = thread.join()
        {
            std::panic::resume_unwind(panic);
        }
        next
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.windows = None; // a thread that waits to hand over a window wakes up and ends
        if let Some(thread) = self.thread.take() {
            _ = thread.join(); // a panic there was either passed on by `next` or concerns a window nobody wants
        }
    }
}
