//! What follows a save, in the background: older steps go, an export is made. One at a time.

use crate::error::{Error, Result};
use convert::exchange::{check_tied, outward};
use convert::export::for_hugging_face;
use convert::spec::Model;
use dcp::convert::{ConvertOptions, Ended, Task};
use dcp::copy::CopyOptions;
use dcp::format;
use dcp::model::DType;
use dcp::prune::{self, Policy};
use dcp::storage::Place;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};
use tracing::{info, warn};

/// What a save may still be at work on is left alone for so long: no save of this run is, but one of a job that was taken
/// for dead may be.
const DEAD_AFTER: Duration = Duration::from_secs(24 * 3600);

/// An export of a saved step.
#[derive(Clone, Debug)]
pub(super) struct Export {
    /// The saved step.
    pub(super) from: Place,
    /// The folder to make.
    pub(super) to: Place,
    pub(super) model: Model,
    pub(super) dtype: DType,
    /// The folder of the tokenizer.
    pub(super) assets: Place,
    pub(super) task: Task,
}

/// What is to be done after a save.
#[derive(Clone, Debug)]
pub(super) struct Chores {
    pub(super) export: Option<Export>,
    /// The run to clean, and how many steps stay; `None` for all.
    pub(super) prune: Option<(Place, Option<NonZeroUsize>)>,
}

/// Chores under way.
#[derive(Debug, Default)]
pub(super) struct After(Option<JoinHandle<Result<()>>>);

impl After {
    /// Begins with chores, after those that are under way.
    ///
    /// Errors: what an export that is under way failed with.
    pub(super) fn begin(&mut self, chores: Chores) -> Result<()> {
        self.finish()?;
        let spawned = std::thread::Builder::new().name("after a save".to_owned()).spawn(move || chores.run());
        let failed = |source| Error::File { path: "a thread".into(), action: "starting", source };
        self.0 = Some(spawned.map_err(failed)?);
        Ok(())
    }

    /// Waits for what is under way.
    ///
    /// Errors: what an export failed with.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self.0.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome,
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }
}

impl Chores {
    fn run(self) -> Result<()> {
        // An export first: it reads a step that retention might remove.
        if let Some(export) = &self.export {
            export.run()?;
        }
        if let Some((run, keep)) = &self.prune {
            clean(run, *keep);
        }
        Ok(())
    }
}

/// Removes steps beyond the newest. What fails is tried again after the next save.
fn clean(run: &Place, keep: Option<NonZeroUsize>) {
    let policy =
        Policy { keep_latest: keep, keep_every: None, older_than: DEAD_AFTER, now: SystemTime::now() };
    let plan = match prune::plan(run, policy) {
        Ok(plan) => plan,
        Err(error) => {
            return warn!("{}: older steps were not removed: {}", run.display(), error.with_causes());
        }
    };
    for report in plan.run(&()) {
        let removed = report.removed().count();
        if let Some(keep) = keep.filter(|_| removed > 0 && !report.is_kept) {
            info!("removed step {}: checkpoint.keep_latest_k = {keep}", report.step);
        }
        if let Some(error) = report.error {
            warn!("{}: was not removed whole: {}", report.folder, error.with_causes());
        }
    }
}

impl Export {
    fn run(&self) -> Result<()> {
        let begun = Instant::now();
        let source = format::open(&self.from)?;
        let (view, report) = outward(&self.model, Arc::clone(&source))?;
        check_tied(&*source, &self.model, &report)?;
        let mut options = ConvertOptions {
            dtype: Some(self.dtype),
            task: self.task,
            copy: CopyOptions { threads: 1, ..CopyOptions::default() },
            ..ConvertOptions::default()
        };
        for_hugging_face(&mut options, &self.model, &view, &report, Some(&self.assets))?;
        let format = format::by_name("safetensors")?;
        let exported =
            dcp::convert::plan(&view, &self.to, format, &options).and_then(|export| export.run(&()));
        match exported {
            // Of an earlier run that came to this step.
            Err(dcp::Error::AlreadyExists { .. } | dcp::Error::OtherJob { .. }) => {
                warn!("{}: there is something already; the step was not exported anew", self.to.display());
            }
            other => {
                if matches!(other?.ended, Ended::Committed | Ended::Found) {
                    info!("exported {} in {:.2} s", self.to.display(), begun.elapsed().as_secs_f64());
                }
            }
        }
        Ok(())
    }
}
