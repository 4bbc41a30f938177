//! What the trainer holds of a save under way.

use crate::copy::CopyStats;
use crate::error::{Error, Result};
use crate::threads::lock;
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

/// A save under way.
#[derive(Clone, Debug)]
pub struct Saving {
    shared: Arc<Shared>,
}

/// What a save did, on this rank.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Saved {
    /// Bytes of this rank's snapshot in host memory.
    pub staged_bytes: u64,
    /// Bytes that had no room in the memory budget and were read from the live tensors while they were written.
    pub streamed_bytes: u64,
    /// What was written.
    pub stats: CopyStats,
    /// How long `save` waited for the save before.
    pub waited: Duration,
    /// Whether the store keeps create-if-absent, as rank 0 has tried. Where it does not, two jobs that save one step at
    /// once can both believe that they were first: tell the user that there must be one.
    pub exclusive: bool,
}

/// Between the trainer and the thread that saves.
#[derive(Debug, Default)]
pub(super) struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    staged: bool,
    outcome: Option<Result<Saved>>,
    /// Whether the error has been given to somebody.
    reported: bool,
}

impl Shared {
    /// The state may change from now on.
    pub(super) fn staged(&self) {
        lock(&self.progress).staged = true;
        self.changed.notify_all();
    }

    pub(super) fn done(&self, outcome: Result<Saved>) {
        let mut progress = lock(&self.progress);
        progress.staged = true;
        progress.outcome = Some(outcome);
        self.changed.notify_all();
    }

    /// The error, unless somebody has it.
    pub(super) fn unreported(&self) -> Result<()> {
        let mut progress = lock(&self.progress);
        match progress.outcome.take() {
            Some(Err(error)) => Err(error),
            Some(Ok(saved)) => {
                progress.outcome = Some(Ok(saved));
                Ok(())
            }
            None if progress.reported => Ok(()),
            None => Err(Error::Interrupted),
        }
    }
}

impl Saving {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Saving { shared }
    }

    /// Returns when the state may change: it is in host memory, or the save has failed, which `wait_done` or the next
    /// `save` tells.
    pub fn wait_staged(&self) {
        let mut progress = lock(&self.shared.progress);
        while !progress.staged {
            progress = wait(&self.shared.changed, progress);
        }
    }

    /// Whether [`Saving::wait_staged`] would return at once.
    pub fn is_staged(&self) -> bool {
        lock(&self.shared.progress).staged
    }

    /// Whether [`Saving::wait_done`] would return at once.
    pub fn is_done(&self) -> bool {
        let progress = lock(&self.shared.progress);
        progress.outcome.is_some() || progress.reported
    }

    /// Returns when the checkpoint is committed.
    ///
    /// Errors: what kept it from being: see [`commit`](crate::commit::commit), [`Error::RankFailed`],
    /// [`Error::RanksMissing`], [`Error::Torn`], what writing gives. An error is given once; who asks again gets
    /// [`Error::Interrupted`].
    pub fn wait_done(&self) -> Result<Saved> {
        let mut progress = lock(&self.shared.progress);
        loop {
            match progress.outcome.take() {
                Some(Ok(saved)) => {
                    progress.outcome = Some(Ok(saved));
                    return Ok(saved);
                }
                Some(error) => {
                    progress.reported = true;
                    return error;
                }
                None if progress.reported => return Err(Error::Interrupted),
                None => progress = wait(&self.shared.changed, progress),
            }
        }
    }
}

fn wait<'a>(
    changed: &Condvar,
    progress: std::sync::MutexGuard<'a, Progress>,
) -> std::sync::MutexGuard<'a, Progress> {
    changed.wait(progress).unwrap_or_else(|poisoned| poisoned.into_inner())
}
