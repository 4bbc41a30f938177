//! Where a load comes from.

use super::newest::{Newest, complete, newest_complete};
use crate::commit::steps;
use crate::error::{Error, Result};
use crate::format::{self, Reader};
use crate::storage::Place;
use std::sync::Arc;

/// What to load.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The newest complete step of a run; one that is damaged is passed over for the one before.
    Newest(Place),
    /// This step of a run and no other.
    Step {
        /// The run.
        run: Place,
        /// The step.
        step: u64,
    },
    /// A checkpoint of any format.
    Checkpoint(Place),
    /// A checkpoint that every rank has opened alike: a view of one, under other names.
    Opened(Arc<dyn Reader>),
}

impl Origin {
    /// The place of the checkpoint; `step` is the one that was chosen.
    pub(super) fn place(&self, step: Option<u64>) -> Result<Place> {
        match (self, step) {
            (Origin::Newest(run) | Origin::Step { run, .. }, Some(step)) => step_place(run, step),
            (Origin::Newest(place) | Origin::Step { run: place, .. } | Origin::Checkpoint(place), _) => {
                Ok(place.clone())
            }
            (Origin::Opened(reader), _) => Ok(reader.place().clone()),
        }
    }

    /// Finds what to load and sees that it is complete: what rank 0 does. `before` has earlier steps count alone.
    pub(super) fn find(&self, before: Option<u64>) -> Result<Found> {
        let passed_over = Vec::new();
        match self {
            Origin::Newest(run) => {
                let Newest { step, reader, passed_over } = newest_complete(run, before)?;
                Ok(Found { step: Some(step), reader, passed_over })
            }
            Origin::Step { run, step } => match complete(&step_place(run, *step)?) {
                Ok(reader) => Ok(Found { step: Some(*step), reader, passed_over }),
                Err(Error::NothingThere { .. }) => Err(no_such_step(run, *step)?),
                Err(error) => Err(error),
            },
            Origin::Checkpoint(place) => Ok(Found { step: None, reader: complete(place)?, passed_over }),
            Origin::Opened(reader) => Ok(Found { step: None, reader: reader.clone(), passed_over }),
        }
    }

    /// Opens what rank 0 has found.
    pub(super) fn open(&self, step: Option<u64>) -> Result<Arc<dyn Reader>> {
        match self {
            Origin::Opened(reader) => Ok(reader.clone()),
            _ => format::open(&self.place(step)?),
        }
    }
}

/// What there is to load.
pub(super) struct Found {
    pub(super) step: Option<u64>,
    pub(super) reader: Arc<dyn Reader>,
    pub(super) passed_over: Vec<(u64, String)>,
}

fn step_place(run: &Place, step: u64) -> Result<Place> {
    Ok(Place { store: run.store.clone(), key: run.key.join(&format!("step-{step}"))? })
}

/// The error of a step that is not there: it names the newest of those that are.
fn no_such_step(run: &Place, step: u64) -> Result<Error> {
    const SHOWN_MAX: usize = 16;
    let there: Vec<String> = steps(run)?.iter().map(|step| step.number.to_string()).collect();
    let found = match there.len() {
        0 => "no step".to_owned(),
        1..=SHOWN_MAX => there.join(", "),
        more => format!("{} and {} before", there[..SHOWN_MAX].join(", "), more - SHOWN_MAX),
    };
    Ok(Error::NoSuchStep { root: run.display(), step, found })
}
