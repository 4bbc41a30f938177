//! `[profiling]`: what this rank did when, as Chrome traces.
//!
//! Times are those of the thread that runs the program. On CUDA an instruction is over when its work is queued, so that they
//! show what waits for what, not what the device does when.

use super::place;
use super::saves::Happening;
use crate::error::{Error, Result};
use job::config::Config;
use job::program::Instruction;
use job::timeline::{Cycles, Event, Lane, chrome_trace, kind};
use std::time::Instant;
use tracing::info;

/// Records steps of this rank.
#[derive(Debug)]
pub(super) struct Trace {
    cycles: Cycles,
    /// Below dump_folder.
    folder: String,
    dump_folder: String,
    rank: u32,
    origin: Instant,
    /// Steps of this run so far, the current one included.
    steps: u64,
    events: Vec<Event>,
}

impl Trace {
    /// What the configuration wants recorded; `None` for nothing.
    pub(super) fn new(config: &Config, rank: u32) -> Option<Self> {
        let profiling = &config.profiling;
        profiling.enable_profiling.then(|| Trace {
            cycles: Cycles { cycle: profiling.profile_freq, active: profiling.profiler_active },
            folder: profiling.save_traces_folder.clone(),
            dump_folder: config.job.dump_folder.clone(),
            rank,
            origin: Instant::now(),
            steps: 1,
            events: Vec::new(),
        })
    }

    /// An instruction was carried out.
    pub(super) fn instruction(&mut self, instruction: Instruction, begun: Instant) {
        self.record(instruction.to_string(), kind(instruction), Lane::Program, begun);
    }

    /// A save has come to its end, which is seen between two steps.
    pub(super) fn happening(&mut self, happening: &Happening) {
        self.record(happening.name.to_owned(), "checkpoint", Lane::Saves, happening.begun);
    }

    fn record(&mut self, name: String, kind: &'static str, lane: Lane, begun: Instant) {
        if self.cycles.is_active(self.steps) {
            let step = self.steps;
            let took = begun.elapsed();
            self.events.push(Event {
                name,
                kind,
                lane,
                begun: begun.saturating_duration_since(self.origin),
                took,
                step,
            });
        }
    }

    /// A step is over: `step` of the job.
    ///
    /// Errors: a trace that cannot be written.
    pub(super) fn stepped(&mut self, step: u64) -> Result<()> {
        if self.cycles.ends(self.steps) {
            let folder = place::output(&self.dump_folder, &self.folder)?;
            let name = format!("iteration_{step}/rank{}_trace.json", self.rank);
            let key = folder.key.join(&name)?;
            let trace = chrome_trace(self.rank, &std::mem::take(&mut self.events));
            match folder.store.put(&key, trace.as_bytes()) {
                // Of an earlier run from the same step: what is there stays.
                Err(dcp::Error::AlreadyExists { .. }) => {
                    info!("{}: there is a trace already; it stays", folder.store.display(&key));
                }
                other => other.map_err(Error::from)?,
            }
        }
        self.steps += 1;
        Ok(())
    }
}
