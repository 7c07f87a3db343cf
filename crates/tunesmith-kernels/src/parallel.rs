//! Loops over the threads that libtorch has already.
//!
//! # Why
//! oneDNN's products run on OpenMP's pool. A pool of our own beside it would have its workers wait, spinning, on the
//! same cores; so kernels borrow OpenMP's.

use crate::ffi;
use std::{
    any::Any,
    ffi::c_void,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

struct Loop<'a> {
    body: &'a (dyn Fn(usize) + Sync),
    n: usize,
    next: AtomicUsize,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Calls `body(0)` … `body(n - 1)`, each once, on whichever thread is free. What a call computes must not depend on
/// the others, so the result is the same for any number of threads.
pub(crate) fn for_each(n: usize, body: impl Fn(usize) + Sync) {
    if n < 2 || tch::get_num_threads() < 2 {
        return (0..n).for_each(body);
    }
    let data = Loop { body: &body, n, next: AtomicUsize::new(0), panic: Mutex::new(None) };
    // SAFETY: `work` gets the loop it expects, which outlives the call.
    unsafe { ffi::tunesmith_parallel(work, (&raw const data).cast_mut().cast()) };
    let panic = data.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(panic) = panic {
        resume_unwind(panic);
    }
}

unsafe extern "C" fn work(data: *mut c_void) {
    // SAFETY: `for_each` passes its `Loop`, shared and alive until all threads have left.
    let data = unsafe { &*data.cast::<Loop>() };
    let result = catch_unwind(AssertUnwindSafe(|| {
        loop {
            let i = data.next.fetch_add(1, Ordering::Relaxed);
            if i >= data.n {
                break;
            }
            (data.body)(i);
        }
    }));
    if let Err(panic) = result {
        data.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
    }
}

/// A pointer that tasks share, each touching elements of its own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shared<T>(pub(crate) *mut T);

// SAFETY: whoever dereferences it promises that no two tasks touch the same element.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The pointer; a method, so that a closure captures the whole struct.
    pub(crate) fn get(self) -> *mut T {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_index_comes_once() {
        let counts: Vec<AtomicUsize> = (0..1000).map(|_| AtomicUsize::new(0)).collect();
        for_each(counts.len(), |i| _ = counts[i].fetch_add(1, Ordering::Relaxed));
        assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
    }

    #[test]
    fn a_panic_arrives_at_the_caller() {
        let result = catch_unwind(|| for_each(64, |i| assert!(i != 13, "thirteen")));
        let panic = result.unwrap_err();
        let text = panic.downcast_ref::<&str>().copied().map(str::to_owned);
        let text = text.or(panic.downcast_ref::<String>().cloned()).unwrap();
        assert!(text.contains("thirteen"), "{text}");
    }
}
