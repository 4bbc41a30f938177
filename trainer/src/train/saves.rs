//! The checkpoints of a run: what it starts from, what is saved when, what stays.

mod after;
mod resume;
mod start;

use super::feed::Feed;
use super::place;
use super::setup::Setup;
use crate::checkpoint::{self, Content, Hyper, Progress, Resumed, Tensors};
use crate::error::{Error, Result};
use crate::run::Runner;
use crate::session::Session;
use after::{After, Chores, Export};
use convert::spec::Model;
use dcp::convert::Task;
use dcp::coordinate::Coordinator;
use dcp::format;
use dcp::plan::Degrees;
use dcp::save::{SaveOptions, Saver, Saving};
use dcp::storage::Place;
use job::config::{AsyncMode, Checkpoint, CheckpointFormat, Config};
use job::saving::{self, Due};
use serde_json::{Value, json};
use start::{Choice, Start};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;
use tracing::{info, warn};

/// The checkpoints of a run.
pub(super) struct Saves {
    config: Checkpoint,
    run: Place,
    /// Folder of exports, and of the tokenizer that goes with them.
    exports: Place,
    assets: Place,
    model: Model,
    hyper: Hyper,
    coordinator: Arc<dyn Coordinator>,
    saver: Option<Saver>,
    /// The save under way.
    current: Option<Current>,
    after: After,
    happenings: Vec<Happening>,
    degrees: Degrees,
    /// Of each unit of the model, the rank of a pipeline that has it.
    unit_ranks: Vec<u32>,
    rank: u32,
    ranks: u32,
}

/// More than any state has.
const STAGING_UNBOUNDED: u64 = 1 << 60;

/// Something that happened to a checkpoint, for those who keep records.
#[derive(Clone, Debug)]
pub(super) struct Happening {
    pub(super) name: &'static str,
    pub(super) begun: Instant,
    pub(super) fields: Vec<(&'static str, Value)>,
}

struct Current {
    step: u64,
    due: Due,
    saving: Saving,
    begun: Instant,
}

impl Saves {
    /// Opens the run's folder; nothing is written.
    ///
    /// Errors: a folder that is no place, an unknown setting of its store.
    pub(super) fn open(config: &Config, session: &Session, setup: &Setup) -> Result<Self> {
        let checkpoint = &config.checkpoint;
        let run = place::output(&config.job.dump_folder, &checkpoint.folder)
            .map_err(Error::of_key("checkpoint.folder"))?;
        let saver = match checkpoint.enable && !checkpoint.load_only {
            true => {
                let mut options = SaveOptions::new(format::by_name(checkpoint.format.as_str())?);
                options.memory_bytes_max = match checkpoint.staging_bytes_max {
                    0 => STAGING_UNBOUNDED,
                    bytes => bytes,
                };
                options.write_threads = checkpoint.writer_threads as usize;
                Some(Saver::new(run.clone(), options, session.coordinator.clone())?)
            }
            false => None,
        };
        Ok(Saves {
            config: checkpoint.clone(),
            run,
            exports: place::output(&config.job.dump_folder, &checkpoint.export_hf_folder)
                .map_err(Error::of_key("checkpoint.export_hf_folder"))?,
            assets: place::open(&config.model.hf_assets_path)?,
            model: setup.model.spec().clone(),
            hyper: setup.hyper,
            coordinator: session.coordinator.clone(),
            saver,
            current: None,
            after: After::default(),
            happenings: Vec::new(),
            degrees: setup.dims.degrees(),
            unit_ranks: setup.step.unit_ranks(),
            rank: session.member.rank,
            ranks: session.member.ranks,
        })
    }

    /// Loads what the run goes on from. Called by all ranks alike.
    ///
    /// Errors: what was asked for and is not there, or cannot be loaded.
    pub(super) fn resume(&mut self, config: &Config, session: &Session, runner: &Runner) -> Result<Resumed> {
        if !self.config.enable {
            return Ok(resume::beginning());
        }
        let Choice { start, notes } = self.choose(config, session)?;
        notes.iter().for_each(|note| warn!("{note}"));
        match start {
            Start::Beginning => {
                info!("{}: no checkpoint; the run starts from its beginning", self.run.display());
                Ok(resume::beginning())
            }
            start => self.load(config, session, runner, &start),
        }
    }

    /// What is saved and loaded.
    fn tensors<'a>(&'a self, runner: &'a Runner) -> Tensors<'a> {
        let (Runner { units, optimizer, .. }, degrees, rank) = (runner, self.degrees, self.rank);
        Tensors { model: runner.model(), unit_ranks: &self.unit_ranks, units, optimizer, degrees, rank }
    }

    /// Whether anything is saved.
    pub(super) fn is_saving(&self) -> bool {
        self.saver.is_some()
    }

    /// Whether what is saved is in the format that TorchTitan reads.
    pub(super) fn is_for_torchtitan(&self) -> bool {
        self.config.format == CheckpointFormat::Dcp && self.saver.is_some()
    }

    /// Saves the model as it begins as step 0, for runs on any mesh to start from.
    ///
    /// Errors: what saving gives.
    pub(super) fn save_seed(&mut self, runner: &Runner) -> Result<()> {
        let content = Content::Model { dtype: self.config.export_dtype.dtype() };
        let progress = Progress::of(0, 0);
        let due =
            Due { content: saving::Content::Model, is_last: true, is_exported: self.config.last_save_in_hf };
        let Some(saving) = self.begin(runner, &progress, content)? else { return Ok(()) };
        self.current = Some(Current { step: 0, due, saving, begun: Instant::now() });
        self.finish()?;
        info!("Created seed checkpoint");
        Ok(())
    }

    /// Begins a save, where anything is saved.
    fn begin(&mut self, runner: &Runner, progress: &Progress, content: Content) -> Result<Option<Saving>> {
        let state = checkpoint::state(self.tensors(runner), progress, content, &self.hyper)?;
        Ok(self.saver.as_mut().map(|saver| saver.save(progress.step, state)).transpose()?)
    }

    /// What rank 0 decides.
    fn choose(&self, config: &Config, session: &Session) -> Result<Choice> {
        let own = match self.rank {
            0 => Choice::of(config, &self.run).map(Some),
            _ => Ok(None),
        };
        let own = session.together("start", own)?;
        let said = own.as_ref().map_or_else(|| Ok(Vec::new()), serde_json::to_vec);
        let said = said.map_err(|error| Error::Usage(error.to_string()))?;
        let heard = self.coordinator.share("start/choice", &said)?;
        serde_json::from_slice(&heard).map_err(|error| Error::Usage(format!("rank 0's choice: {error}")))
    }

    /// Looks after the save under way. Between steps, by all ranks.
    ///
    /// Errors: what it failed with, or what followed it.
    pub(super) fn look(&mut self) -> Result<()> {
        match self.current.take_if(|current| current.saving.is_done()) {
            Some(current) => self.done(current),
            None => Ok(()),
        }
    }

    fn done(&mut self, current: Current) -> Result<()> {
        let Current { step, due, saving, begun } = current;
        let saved = saving.wait_done()?;
        let (seconds, bytes) = (begun.elapsed().as_secs_f64(), saved.staged_bytes + saved.streamed_bytes);
        info!("saved step {step} to {} in {seconds:.2} s, {bytes} bytes of this rank", self.run.display());
        let fields = vec![
            ("step", json!(step)),
            ("url", json!(self.run.display())),
            ("save_seconds", json!(seconds)),
            ("rank_bytes", json!(bytes)),
            ("streamed_bytes", json!(saved.streamed_bytes)),
        ];
        self.happenings.push(Happening { name: "saved", begun, fields });
        if saved.streamed_bytes > 0 {
            warn!(
                "{} bytes had no room in checkpoint.staging_bytes_max = {} and were copied while they were written, which \
                 the step waits for",
                saved.streamed_bytes, self.config.staging_bytes_max
            );
        }
        if !saved.exclusive {
            warn!(
                "{}: the store does not keep two jobs from saving one step; see to it that there is one job",
                self.run.display()
            );
        }
        self.after.begin(self.chores(step, due)?)
    }

    fn chores(&self, step: u64, due: Due) -> Result<Chores> {
        let folder = format!("step-{step}");
        let within = |run: &Place| -> Result<Place> {
            Ok(Place { store: run.store.clone(), key: run.key.join(&folder)? })
        };
        let export = match due.is_exported {
            true => Some(Export {
                from: within(&self.run)?,
                to: within(&self.exports)?,
                model: self.model.clone(),
                dtype: self.config.export_dtype.dtype(),
                assets: self.assets.clone(),
                task: Task::new(self.rank, self.ranks)?,
            }),
            false => None,
        };
        // All steps may stay; what dead saves left does not.
        let keep = NonZeroUsize::new(self.config.keep_latest_k as usize);
        Ok(Chores { export, prune: (self.rank == 0).then(|| (self.run.clone(), keep)) })
    }

    /// Saves a step. Called by all ranks alike; returns when the next step may begin.
    ///
    /// Errors: what this save failed with where it is waited for, else what the one before did.
    pub(super) fn save(
        &mut self,
        due: Due,
        runner: &Runner,
        feed: &mut Feed,
        mut progress: Progress,
    ) -> Result<()> {
        let (begun, step) = (Instant::now(), progress.step);
        // One save at a time.
        self.wait()?;
        feed.tell_place(&mut progress)?;
        let content = match due.content {
            saving::Content::Full => Content::Full,
            saving::Content::Model => Content::Model { dtype: self.config.export_dtype.dtype() },
        };
        let Some(saving) = self.begin(runner, &progress, content)? else { return Ok(()) };
        self.current = Some(Current { step, due, saving: saving.clone(), begun });
        match (due.is_last, self.config.async_mode) {
            (true, _) | (_, AsyncMode::Disabled) => self.wait()?,
            (false, AsyncMode::Async) => saving.wait_staged(),
            (false, AsyncMode::AsyncWithPinnedMem) => feed.saving = Some(saving),
        }
        feed.waited(begun.elapsed());
        Ok(())
    }

    /// What happened since this was last asked.
    pub(super) fn take_happenings(&mut self) -> Vec<Happening> {
        std::mem::take(&mut self.happenings)
    }

    /// Waits for the save under way.
    fn wait(&mut self) -> Result<()> {
        match self.current.take() {
            Some(current) => self.done(current),
            None => Ok(()),
        }
    }

    /// Waits for all that is under way.
    ///
    /// Errors: what it failed with.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.wait()?;
        self.after.finish()
    }
}
