//! A few threads that share a queue; the first error stops all.

use crate::error::{Error, Result};
use std::sync::{Mutex, MutexGuard};

/// Work handed out one item at a time.
#[derive(Debug)]
pub(crate) struct Queue<I>(Mutex<I>);

impl<I: Iterator> Queue<I> {
    pub(crate) fn new(items: impl IntoIterator<IntoIter = I>) -> Self {
        Queue(Mutex::new(items.into_iter()))
    }

    pub(crate) fn next(&self) -> Option<I::Item> {
        lock(&self.0).next()
    }
}

/// Runs `work` in that many threads and returns the first error that is not [`Error::Interrupted`], which is what a
/// thread gives up with when another has failed.
pub(crate) fn in_threads(threads: usize, work: &(dyn Fn() -> Result<()> + Sync)) -> Result<()> {
    let results: Vec<Result<()>> = std::thread::scope(|scope| {
        let handles: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut interrupted = Ok(());
    for result in results {
        match result {
            Err(Error::Interrupted) => interrupted = result,
            other => other?,
        }
    }
    interrupted
}

/// Locks; a thread that panicked while holding the lock takes the process down anyway.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
