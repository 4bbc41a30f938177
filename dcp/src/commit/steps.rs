//! The steps of a run: folders `step-NUMBER` below one place.

use crate::error::Result;
use crate::format::step_of;
use crate::storage::{Key, Place};

/// One step's folder, whatever is in it.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its number.
    pub number: u64,
    /// The folder.
    pub place: Place,
}

/// The folders of a run's steps, the newest first. What is in them is not looked at.
///
/// Errors: what listing gives.
pub fn steps(run: &Place) -> Result<Vec<Step>> {
    let folders = run.store.list_prefixes(&run.key)?.into_iter();
    let step = |key: Key| {
        let number = step_of(key.name())?;
        Some(Step { number, place: Place { store: run.store.clone(), key } })
    };
    let mut steps: Vec<Step> = folders.filter_map(step).collect();
    steps.sort_by_key(|step| std::cmp::Reverse(step.number));
    Ok(steps)
}
