//! Which step of a run to take.

use super::LOOKS_MAX;
use crate::commit::{Step, steps};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{self, Reader};
use crate::model::{FqnFilter, Severity};
use crate::storage::Place;
use crate::verify::{VerifyOptions, verify};
use std::sync::Arc;

/// A step that can be loaded as far as names and lengths tell.
#[derive(Debug)]
pub struct Newest {
    /// Its number.
    pub step: u64,
    /// The open checkpoint.
    pub reader: Arc<dyn Reader>,
    /// Later steps that cannot, each with the reason.
    pub passed_over: Vec<(u64, String)>,
}

/// The newest step of a run that is complete: committed, with every object there and as long as recorded. With `before`,
/// only earlier ones count.
///
/// Errors: [`Error::NoneComplete`], which gives the reason for each step; an error of the store is no reason to take an
/// older step, and is returned.
pub fn newest_complete(run: &Place, before: Option<u64>) -> Result<Newest> {
    let mut passed_over = Vec::new();
    for Step { number, place } in steps(run)? {
        if before.is_some_and(|before| number >= before) {
            continue;
        }
        match complete(&place) {
            Ok(reader) => return Ok(Newest { step: number, reader, passed_over }),
            Err(error) if error.kind() == ErrorKind::Io => return Err(error),
            Err(error) => passed_over.push((number, error.with_causes())),
        }
    }
    let tried: String = passed_over.iter().map(|(step, why)| format!("; step {step}: {why}")).collect();
    Err(Error::NoneComplete { root: run.display(), tried })
}

/// Opens a step and sees that it is complete.
///
/// Errors: [`Error::Unsound`] where something is missing; [`Error::Changed`] for a step that is replaced again and again;
/// what opening gives.
pub fn complete(place: &Place) -> Result<Arc<dyn Reader>> {
    for _ in 0..LOOKS_MAX {
        let opened = format::open(place);
        let attempt = opened.as_ref().ok().and_then(|reader| attempt_of(&**reader));
        let error = match opened.and_then(sound) {
            Err(error) if error.kind() == ErrorKind::Data => error,
            outcome => return outcome,
        };
        // What a newer save replaced may go while it is looked at: that is no damage.
        match format::open(place) {
            Ok(now) if attempt_of(&*now) != attempt => {}
            _ => return Err(error),
        }
    }
    Err(Error::Changed { object: place.display() })
}

fn sound(reader: Arc<dyn Reader>) -> Result<Arc<dyn Reader>> {
    let options = VerifyOptions { deep: false, filter: FqnFilter::default(), threads: 2 };
    let report = verify(&*reader, &options, &())?;
    let damage: Vec<_> =
        report.findings.iter().filter(|finding| finding.severity == Severity::Damage).collect();
    match damage.first() {
        None => Ok(reader),
        Some(first) => Err(Error::Unsound {
            root: reader.place().display(),
            count: damage.len(),
            first: first.message.clone(),
        }),
    }
}

/// The save that a checkpoint is of, in formats in which another can take its place.
pub(crate) fn attempt_of(reader: &dyn Reader) -> Option<String> {
    reader.catalog().attributes.get("attempt").cloned()
}
