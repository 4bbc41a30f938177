//! Looking at a step's folder.

use super::round::{Condition, Role, Survey};
use crate::commit::{newest_listed, slot};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Attempt, Candidate, FORMATS, Format, Slot, job_folder};
use crate::load;
use crate::storage::{Key, Place, Unfinished};

/// How often a step may change while it is being looked at.
const LOOKS_MAX: u32 = 8;

/// Lists a step's folder and reads its newest slot.
///
/// Errors: what listing and reading give; [`Error::TooNew`] for a slot of a later version; [`Error::Changed`].
pub(super) fn look(place: &Place, unfinished: &[Unfinished]) -> Result<Survey> {
    for _ in 0..LOOKS_MAX {
        match look_once(place, unfinished) {
            // Another `prune` was faster.
            Err(Error::NotFound { .. }) => {}
            looked => return looked,
        }
    }
    Err(Error::Changed { object: place.display() })
}

fn look_once(place: &Place, unfinished: &[Unfinished]) -> Result<Survey> {
    let candidate = match Candidate::new(place) {
        Err(Error::NothingThere { .. }) => {
            Candidate { place: place.clone(), file: None, objects: Vec::new() }
        }
        candidate => candidate?,
    };
    let format = FORMATS.iter().copied().find(|format| format.probe(&candidate));
    let newest = match format.filter(|format| has_slots(*format)) {
        None => None,
        Some(format) => match newest_listed(place, format, &candidate.objects) {
            None => None,
            Some(generation) => match slot(place, format, generation) {
                Ok(found) => Some((generation, found == Slot::Abandoned)),
                // What cannot be read is no abandoned slot.
                Err(Error::Damaged { .. } | Error::Malformed { .. }) => Some((generation, false)),
                Err(error) => return Err(error),
            },
        },
    };
    let is_saved = format.is_some()
        && !candidate.is_unfinished()
        && newest.is_none_or(|(_, is_abandoned)| !is_abandoned);
    let objects = candidate.objects.iter().map(|object| {
        let role = object.key.below(&place.key).map_or(Role::Foreign, |name| role(format, name));
        (object.clone(), role)
    });
    Ok(Survey {
        home: place.key.clone(),
        condition: if is_saved { Condition::Saved } else { Condition::Unsaved },
        newest,
        objects: objects.collect(),
        unfinished: unfinished.iter().map(|it| (it.clone(), slot_of(&it.key, place))).collect(),
        slots: match format {
            Some(format) => Some(format).filter(|format| has_slots(*format)),
            None => FORMATS.iter().copied().find(|format| has_slots(*format)),
        },
        is_exclusive: true,
    })
}

/// Whether attempts of this format can be fenced off.
fn has_slots(format: &dyn Format) -> bool {
    format.abandoned(0).is_some()
}

/// What an object is: by the folder's format, or, where nothing makes a checkpoint exist, by any format that writes
/// something last by which it does.
fn role(format: Option<&'static dyn Format>, name: &str) -> Role {
    if job_folder::owns(name) {
        return Role::Job;
    }
    let mut formats = FORMATS.iter().copied().filter(|candidate| match format {
        Some(format) => candidate.name() == format.name(),
        None => candidate.slot_name(0).is_some(),
    });
    let Some(format) = formats.find(|format| format.owns(name)) else { return Role::Foreign };
    if !has_slots(format) {
        let attempt = attempt_in(name).map(|(id, _)| id.to_owned());
        return if format.is_committed_by(name) { Role::Commit } else { Role::Data { attempt } };
    }
    match (format.slot_generation(name), attempt_in(name)) {
        (Some(generation), _) => Role::Slot(generation),
        (None, Some((id, generation))) => Role::Attempt { id: id.to_owned(), generation },
        (None, None) => Role::Data { attempt: None },
    }
}

/// The attempt whose folder an object is in.
fn attempt_in(name: &str) -> Option<(&str, u32)> {
    let (id, _) = name.split_once('/')?;
    Some((id, Attempt::generation_of(id)?))
}

fn slot_of(key: &Key, place: &Place) -> Option<u32> {
    Some(attempt_in(key.below(&place.key)?)?.1)
}

/// Sees whether every object that a step's checkpoint names is there.
///
/// Errors: those that say nothing about the checkpoint: of the store, or of a version this program does not know.
pub(super) fn inspect(place: &Place) -> Result<Condition> {
    match load::complete(place) {
        Ok(reader) => {
            let objects = reader.catalog().objects.iter();
            let attempts = objects.filter_map(|object| attempt_in(object.key.below(&place.key)?));
            let attempts = attempts.map(|(id, _)| id.to_owned()).chain(load::attempt_of(&*reader)).collect();
            Ok(Condition::Complete { attempts })
        }
        Err(error @ (Error::TooNew { .. } | Error::OverLimit { .. } | Error::Changed { .. })) => Err(error),
        Err(error) if error.kind() == ErrorKind::Data => Ok(Condition::Damaged(error.with_causes())),
        Err(error) => Err(error),
    }
}
