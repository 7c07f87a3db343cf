//! What signals do: the first asks for a save and an end, the second ends at once.

use crate::exit::Exit;
use anyhow::Result;
use signal_hook::{
    consts::{SIGINT, SIGTERM, SIGUSR1, SIGUSR2},
    flag,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// The signals of people, batch systems and their warnings before a time limit.
const SIGNALS: [i32; 4] = [SIGINT, SIGTERM, SIGUSR1, SIGUSR2];

/// Flags that signals set and read.
pub(crate) struct Signals {
    stop: Arc<AtomicBool>,
    at_once: Arc<AtomicBool>,
}

impl Signals {
    pub(crate) fn catch() -> Result<Self> {
        let signals = Self { stop: Arc::default(), at_once: Arc::default() };
        for signal in SIGNALS {
            // In this order: the shutdowns see the flag that a signal before has set.
            for condition in [&signals.stop, &signals.at_once] {
                flag::register_conditional_shutdown(
                    signal,
                    Exit::Preempted as i32,
                    condition.clone(),
                )?;
            }
            flag::register(signal, signals.stop.clone())?;
        }
        Ok(signals)
    }

    /// Set by the first signal.
    pub(crate) fn stop(&self) -> &AtomicBool {
        &self.stop
    }

    /// While everything worth saving is committed there is nothing to wait for: the first signal ends the process too.
    /// Whether one came before this was said.
    pub(crate) fn leave_at_once(&self, yes: bool) -> bool {
        self.at_once.store(yes, Ordering::SeqCst);
        self.stop.load(Ordering::SeqCst)
    }
}
