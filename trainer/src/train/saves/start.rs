//! What a run starts from. Chosen by rank 0, the same for all.

use crate::checkpoint;
use crate::error::{Error, Result};
use crate::train::place;
use dcp::commit::protocol::Existing;
use dcp::commit::{begin, steps};
use dcp::error::ErrorKind;
use dcp::format;
use dcp::load::{complete, newest_complete};
use dcp::storage::Place;
use job::config::{Checkpoint, Config};
use serde::{Deserialize, Serialize};

/// What a run starts from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum Start {
    /// Nothing: parameters by the seed.
    Beginning,
    /// The newest complete step of its own folder.
    Newest,
    /// A step of its own folder.
    Step(u64),
    /// A checkpoint of somebody else's.
    Checkpoint(String),
    /// A Hugging Face model.
    HuggingFace(String),
}

/// What rank 0 has chosen, with what the user should know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Choice {
    pub(super) start: Start,
    pub(super) notes: Vec<String>,
}

/// What is in a run's folder.
enum Found {
    /// No step's folder.
    Nothing,
    /// Folders of saves that never came to their commit.
    Unfinished(Vec<u64>),
    /// Something to go on from: the newest complete step.
    Complete(u64),
}

impl Choice {
    /// Looks into the run's folder, and decides.
    ///
    /// Errors: a step or a source that was asked for and is not there; steps of which none can be loaded; what the store
    /// gives.
    pub(super) fn of(config: &Config, run: &Place) -> Result<Choice> {
        let checkpoint = &config.checkpoint;
        let mut notes = Vec::new();
        let found = survey(run).map_err(Error::of_key("checkpoint.folder"))?;
        let newest = match found {
            Found::Complete(step) => Some(step),
            _ => None,
        };
        let start = match (checkpoint.load_step, found) {
            (step @ 0.., Found::Complete(_)) => Start::Step(step.unsigned_abs()),
            (step @ 0.., _) => {
                return Err(Error::Usage(format!(
                    "checkpoint.load_step = {step}: {} has no complete checkpoint; give -1 to start anew, or another \
                     checkpoint.folder",
                    run.display()
                )));
            }
            (_, Found::Complete(_)) => Start::Newest,
            (_, Found::Nothing) => initial(config)?,
            (_, Found::Unfinished(steps)) => {
                let listed: Vec<_> = steps.iter().map(u64::to_string).collect();
                notes.push(format!(
                    "{}: saves of step {} were never completed, and nothing else is there",
                    run.display(),
                    listed.join(", ")
                ));
                initial(config)?
            }
        };
        let from = match start {
            Start::Step(step) => Some(step),
            Start::Newest => newest,
            _ => None,
        };
        if let Some(from) = from.filter(|_| !checkpoint.load_only) {
            can_go_on(config, run, from, matches!(start, Start::Step(_)))?;
        }
        let of_run = matches!(start, Start::Newest | Start::Step(_));
        if of_run && let Some(key) = initial_key(checkpoint) {
            notes.push(format!("{key} is for a run's first start; this one goes on from {}", run.display()));
        }
        Ok(Choice { start, notes })
    }
}

/// Whether a run that goes on from a step, and saves, comes past the later steps that are there.
///
/// Errors: a later step that whoever starts next would take for the newest of this run; one that cannot be saved again.
fn can_go_on(config: &Config, run: &Place, from: u64, is_chosen: bool) -> Result<()> {
    let format = format::by_name(config.checkpoint.format.as_str())?;
    for step in steps(run)?.iter().filter(|step| step.number > from) {
        let (number, shown) = (step.number, step.place.display());
        if is_chosen && is_whole(&step.place)? {
            return Err(Error::Usage(format!(
                "checkpoint.load_step = {from}: step {number} is later, and the next start would go on from it; to train on \
                 from step {from}, begin a run in another checkpoint.folder with checkpoint.initial_load_path = {:?} and \
                 checkpoint.initial_load_model_only = false, or move later steps away",
                format!("{}/step-{from}", run.display())
            )));
        }
        if let Err(dcp::Error::AlreadySaved { .. }) = begin(&step.place, format, Existing::default()) {
            return Err(Error::Usage(format!(
                "{shown}: cannot be loaded, and checkpoint.format = {:?} has no place for a second save of step {number}, to \
                 which the run will come; move the folder away, or set checkpoint.format to \"titan\"",
                format.name()
            )));
        }
    }
    Ok(())
}

/// Whether a run can go on from a step.
///
/// Errors: what the store gives; a step that is damaged is none to go on from.
fn is_whole(step: &Place) -> Result<bool> {
    match complete(step) {
        Ok(reader) => Ok(checkpoint::holds(&*reader)?.parts.optimizer),
        Err(error) if error.kind() == ErrorKind::Io => Err(error.into()),
        Err(_) => Ok(false),
    }
}

/// What a run without checkpoints starts from.
fn initial(config: &Config) -> Result<Start> {
    let checkpoint = &config.checkpoint;
    let start = match (&checkpoint.initial_load_path, checkpoint.initial_load_in_hf) {
        (Some(path), true) => Start::HuggingFace(path.clone()),
        (None, true) => Start::HuggingFace(config.model.hf_assets_path.clone()),
        (Some(path), false) => Start::Checkpoint(path.clone()),
        (None, false) => return Ok(Start::Beginning),
    };
    if let Start::Checkpoint(path) | Start::HuggingFace(path) = &start {
        let there = place::open(path)?;
        if let Some(newest) = steps(&there)?.first() {
            return Err(Error::Usage(format!(
                "checkpoint.initial_load_path = {path:?}: it is the folder of a run; name a step of it, as {:?}",
                newest.place.display()
            )));
        }
        let is_object = !there.key.is_root() && there.store.head(&there.key)?.is_some();
        if !is_object && there.store.list(&there.key)?.is_empty() {
            let key = match checkpoint.initial_load_path {
                Some(_) => "checkpoint.initial_load_path",
                None => "checkpoint.initial_load_in_hf = true: model.hf_assets_path",
            };
            return Err(Error::Usage(format!(
                "{key} = {path:?}: nothing is there; give the folder of a checkpoint"
            )));
        }
    }
    Ok(start)
}

/// The key that asks for a source, where one does.
fn initial_key(checkpoint: &Checkpoint) -> Option<&'static str> {
    match (&checkpoint.initial_load_path, checkpoint.initial_load_in_hf) {
        (Some(_), _) => Some("checkpoint.initial_load_path"),
        (None, true) => Some("checkpoint.initial_load_in_hf"),
        (None, false) => None,
    }
}

/// Looks at the steps of a run.
///
/// Errors: why no step can be loaded, where one was ever committed: to start anew beside it would be a loss nobody notices.
fn survey(run: &Place) -> Result<Found> {
    let steps = steps(run)?;
    if steps.is_empty() {
        return Ok(Found::Nothing);
    }
    let error = match newest_complete(run, None) {
        Ok(newest) => return Ok(Found::Complete(newest.step)),
        Err(error @ dcp::Error::NoneComplete { .. }) => error,
        Err(error) => return Err(error.into()),
    };
    for step in &steps {
        match format::open(&step.place) {
            // A save that did not come to its commit, or that `prune` has shut out.
            Err(
                dcp::Error::UnknownFormat { .. }
                | dcp::Error::NothingThere { .. }
                | dcp::Error::NotFound { .. }
                | dcp::Error::Abandoned { .. }
                | dcp::Error::Unfinished { .. },
            ) => {}
            Err(error) if error.kind() == ErrorKind::Io => return Err(error.into()),
            _ => return Err(error.into()),
        }
    }
    Ok(Found::Unfinished(steps.iter().map(|step| step.number).collect()))
}
