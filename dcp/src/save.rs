//! Saving without stopping the trainer.
//!
//! [`Saver::save`] returns at once. A background thread copies this rank's share of the state into host memory that is
//! kept from save to save ([`Saving::wait_staged`] returns when the state may change again), then sums, writes and
//! commits it ([`Saving::wait_done`]).
//!
//! Who writes what needs no message: every rank computes it from mesh, placements and sizes. A replicated tensor is
//! written once, by the copy that balances bytes. Ranks speak twice to rank 0 and hear it twice, all off the trainer's
//! path: their values, the attempt; that they have written, the outcome. What is committed does not rest on these
//! messages: rank 0 looks at the store itself, see [`crate::commit`].

mod handle;
mod job;
mod messages;
mod pool;
mod snapshot;
mod state;
#[cfg(test)]
mod tests;

pub use handle::{Saved, Saving};
pub use state::{HostMemory, Source, State, StateTensor, StateValue};

use crate::commit::protocol::Existing;
use crate::coordinate::Coordinator;
use crate::error::{Error, Result};
use crate::format::{Format, WriteOptions};
use crate::storage::Place;
use handle::Shared;
use job::Job;
use pool::Pool;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// Choices of a saver; the same on every rank.
#[derive(Clone, Debug)]
pub struct SaveOptions {
    /// The format: `titan` or `dcp`.
    pub format: &'static dyn Format,
    /// Compress, in formats that can.
    pub compress: bool,
    /// Host memory that this rank may use, snapshot and buffers together. A state that does not fit is streamed: the
    /// part without room is read from the live tensors as it is written, and `wait_staged` takes as long as that.
    pub memory_bytes_max: u64,
    /// Threads that copy the snapshot, which the trainer waits for.
    pub stage_threads: usize,
    /// Threads that sum and write it, which the trainer competes with.
    pub write_threads: usize,
    /// Read the live tensors once more when the snapshot is complete, and fail if they are not equal: proves that
    /// nothing changed meanwhile, for one more read of memory.
    pub prove_untorn: bool,
    /// What to do about a step that is saved already.
    pub existing: Existing,
}

impl SaveOptions {
    /// The defaults for a format: 64 GiB, 2 threads to stage and 2 to write, no proof.
    pub fn new(format: &'static dyn Format) -> Self {
        SaveOptions {
            format,
            compress: false,
            memory_bytes_max: 64 << 30,
            stage_threads: 2,
            write_threads: 2,
            prove_untorn: false,
            existing: Existing::default(),
        }
    }

    fn write(&self) -> WriteOptions {
        WriteOptions { compress: self.compress, shard_bytes_max: None, ..WriteOptions::default() }
    }
}

/// Saves one rank's share of a run's checkpoints, one at a time.
#[derive(Debug)]
pub struct Saver {
    run: Place,
    options: SaveOptions,
    coordinator: Arc<dyn Coordinator>,
    pool: Arc<Mutex<Pool>>,
    /// Counts saves, so that the tags of two never meet.
    sequence: u64,
    current: Option<(Arc<Shared>, JoinHandle<()>)>,
}

impl Saver {
    /// A saver into folders `step-NUMBER` of a run. Takes no memory before the first save.
    ///
    /// Errors: [`Error::Usage`] for a format that has no commit slots.
    pub fn new(run: Place, options: SaveOptions, coordinator: Arc<dyn Coordinator>) -> Result<Self> {
        if options.format.slot_name(0).is_none() {
            let name = options.format.name();
            return Err(Error::Usage(format!(
                "format {name} is not for training checkpoints; save as titan or dcp and convert"
            )));
        }
        Ok(Saver { run, options, coordinator, pool: Arc::default(), sequence: 0, current: None })
    }

    /// Starts a save and returns. Where an earlier one is still under way, waits for it first, which
    /// [`Saved::waited`] of the new one tells.
    ///
    /// Errors: what an earlier save that nobody waited for failed with: then nothing new has begun.
    pub fn save(&mut self, step: u64, state: State) -> Result<Saving> {
        let begun = std::time::Instant::now();
        self.finish()?;
        let waited = begun.elapsed();
        let shared = Arc::new(Shared::default());
        let job = Job {
            place: Place { store: self.run.store.clone(), key: self.run.key.join(&format!("step-{step}"))? },
            step,
            tag: format!("save-{step}-{}", self.sequence),
            options: self.options.clone(),
            coordinator: self.coordinator.clone(),
            pool: self.pool.clone(),
            shared: shared.clone(),
            waited,
        };
        self.sequence += 1;
        let spawned = std::thread::Builder::new().name("save".to_owned()).spawn(move || job.run(state));
        let thread = spawned.map_err(|source| {
            let object = self.run.display();
            Error::Io { object, action: "starting the thread that saves", source }
        })?;
        self.current = Some((shared.clone(), thread));
        Ok(Saving::new(shared))
    }

    /// Waits for the save under way, if any.
    ///
    /// Errors: what it failed with, unless [`Saving::wait_done`] has given that to somebody already.
    pub fn finish(&mut self) -> Result<()> {
        let Some((shared, thread)) = self.current.take() else { return Ok(()) };
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
        shared.unreported()
    }
}

impl Drop for Saver {
    /// Waits: a save that has begun is worth finishing. An error that nobody asked for is lost with the saver.
    fn drop(&mut self) {
        if let Some((_, thread)) = self.current.take() {
            let _ = thread.join();
        }
    }
}
