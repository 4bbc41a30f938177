//! The checkpoints of a run: what it starts from, what is saved when, what stays.

use super::feed::Feed;
use super::place;
use super::setup::Setup;
use crate::checkpoint::{self, Progress};
use crate::error::Result;
use crate::run::Runner;
use crate::session::Session;
use dcp::coordinate::Coordinator;
use dcp::format;
use dcp::load::newest_complete;
use dcp::plan::Degrees;
use dcp::save::{SaveOptions, Saver, Saving};
use dcp::storage::Place;
use job::config::{AsyncMode, Checkpoint, Config};
use job::saving::Due;
use std::sync::Arc;
use std::time::Instant;
use tracing::info;

/// Where a run goes on from.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    /// Steps done.
    pub(super) step: u64,
    /// Tokens seen, of all ranks.
    pub(super) tokens_seen: u64,
    /// The place in the data, of every rank that saved; empty for its beginning.
    pub(super) data: Vec<String>,
}

/// The checkpoints of a run.
pub(super) struct Saves {
    config: Checkpoint,
    run: Place,
    coordinator: Arc<dyn Coordinator>,
    saver: Option<Saver>,
    /// The save under way.
    current: Option<Current>,
    degrees: Degrees,
    rank: u32,
}

struct Current {
    step: u64,
    saving: Saving,
    begun: Instant,
}

impl Saves {
    pub(super) fn open(config: &Config, session: &Session, setup: &Setup) -> Result<Self> {
        let checkpoint = &config.checkpoint;
        let run = place::output(&config.job.dump_folder, &checkpoint.folder)?;
        let saver = match checkpoint.enable && !checkpoint.load_only {
            true => {
                let mut options = SaveOptions::new(format::by_name(checkpoint.format.as_str())?);
                if checkpoint.staging_bytes_max > 0 {
                    options.memory_bytes_max = checkpoint.staging_bytes_max;
                }
                Some(Saver::new(run.clone(), options, session.coordinator.clone())?)
            }
            false => None,
        };
        Ok(Saves {
            config: checkpoint.clone(),
            run,
            coordinator: session.coordinator.clone(),
            saver,
            current: None,
            degrees: setup.dims.degrees(),
            rank: setup.rank,
        })
    }

    /// Loads what the run goes on from.
    pub(super) fn resume(&mut self, runner: &Runner) -> Result<Resumed> {
        if !self.config.enable {
            return Ok(Resumed::default());
        }
        let is_there = self.coordinator.rank() == 0 && newest_complete(&self.run, None).is_ok();
        let is_there = self.coordinator.share("resume", &[u8::from(is_there)])?;
        if is_there == [0] {
            info!("{}: no checkpoint; the run starts from its beginning", self.run.display());
            return Ok(Resumed::default());
        }
        let progress = checkpoint::load(
            &self.run,
            &*self.coordinator,
            "load",
            &runner.units,
            &runner.optimizer,
            self.degrees,
        )?;
        Ok(Resumed { step: progress.step, tokens_seen: 0, data: progress.data })
    }

    /// Looks after the save under way.
    ///
    /// Errors: what it failed with.
    pub(super) fn look(&mut self) -> Result<()> {
        match self.current.take_if(|current| current.saving.is_done()) {
            Some(current) => self.done(current),
            None => Ok(()),
        }
    }

    fn done(&mut self, current: Current) -> Result<()> {
        let Current { step, saving, begun } = current;
        let saved = saving.wait_done()?;
        info!(
            "saved step {step} in {:.2} s, {} bytes here",
            begun.elapsed().as_secs_f64(),
            saved.staged_bytes
        );
        Ok(())
    }

    /// Saves a step.
    pub(super) fn save(
        &mut self,
        step: u64,
        due: Due,
        runner: &Runner,
        feed: &mut Feed,
        _tokens_seen: u64,
    ) -> Result<()> {
        let begun = Instant::now();
        // One save at a time.
        self.finish()?;
        let Some(saver) = &mut self.saver else { return Ok(()) };
        let progress = Progress { step, data: vec![feed.place()?] };
        let state = checkpoint::state(&runner.units, &runner.optimizer, self.degrees, self.rank, &progress)?;
        let saving = saver.save(step, state)?;
        self.current = Some(Current { step, saving: saving.clone(), begun });
        match (due.is_last, self.config.async_mode) {
            (true, _) | (_, AsyncMode::Disabled) => {
                saving.wait_staged();
                self.finish()?;
            }
            (false, AsyncMode::Async) => saving.wait_staged(),
            (false, AsyncMode::AsyncWithPinnedMem) => feed.saving = Some(saving),
        }
        feed.waited(begun.elapsed());
        Ok(())
    }

    /// Waits for what is under way.
    ///
    /// Errors: what it failed with.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) => self.done(current),
            None => Ok(()),
        }
    }
}
