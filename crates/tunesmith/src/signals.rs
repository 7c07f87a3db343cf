//! What signals do: the first asks for a save and an end, the second ends at once.
//!
//! Until a run can do that, they are held back: from the first line of `main`, over the restart in `threads.rs`, to
//! [`Signals::catch`], which gets what has come. Before `main` the system loads libtorch (0.1 to 0.3 s), and a signal that
//! comes then ends the process as the system does, with nothing begun; whoever starts it can close this window, too, by
//! holding the signals back beforehand (`env --block-signal=TERM,USR1`), as the job scripts of `cargo xtask submit` do.

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

/// Holds the signals back: those that come wait for [`release`]. A program that this one becomes inherits it.
pub(crate) fn hold() {
    mask(libc::SIG_BLOCK);
}

/// Lets through what has come since [`hold`], and what comes.
pub(crate) fn release() {
    mask(libc::SIG_UNBLOCK);
}

fn mask(how: libc::c_int) {
    let mut set = std::mem::MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set before anything reads it, the others are given that set and numbers of
    // signals that exist, and the mask of this thread is no memory of anybody's.
    #[expect(
        unsafe_code,
        reason = "three calls of the system without a safe face in the crates that are here"
    )]
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in SIGNALS {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), std::ptr::null_mut());
    }
}

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
        release();
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
