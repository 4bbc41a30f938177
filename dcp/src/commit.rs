//! What makes a checkpoint exist, and what does not. `docs/commit-protocol.md` gives the argument for each step.
//!
//! A step's folder has numbered *slots* (`titan-0000.json`, `titan-0001.json`, ...). Every try at saving the step, an
//! *attempt*, writes its objects under a name of its own and then fills the slot that was free when it began, with
//! create-if-absent. The newest slot decides: a checkpoint, or nothing.
//!
//! [`protocol`] is the part that thinks, integers in and integers out; this file puts it on a store.

pub mod protocol;
#[cfg(test)]
mod protocol_tests;
#[cfg(any(test, feature = "testing"))]
pub mod sim;
mod steps;
#[cfg(test)]
mod tests;

pub use steps::{Step, steps};

use crate::error::{Error, Result};
use crate::format::{Attempt, Draft, Format, ObjectSums, Slot};
use crate::storage::{Key, ObjectMeta, Place};
use protocol::{Answer, Committer, Existing, Found, Outcome, Task};
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

/// Largest slot or record that is read back.
pub(crate) const READ_BYTES_MAX: u64 = 256 << 20;

/// The newest slot of a step's folder and what it says; `None` where none is filled.
///
/// Errors: what listing and reading give; [`Error::Damaged`], [`Error::Malformed`] for a slot that cannot be read.
pub fn newest_slot(place: &Place, format: &dyn Format) -> Result<Option<(u32, Slot)>> {
    let newest = newest_generation(place, format)?;
    newest.map(|generation| Ok((generation, slot(place, format, generation)?))).transpose()
}

/// What a slot that is filled says.
///
/// Errors: as [`newest_slot`]; [`Error::NotFound`] where it is not filled.
pub(crate) fn slot(place: &Place, format: &dyn Format, generation: u32) -> Result<Slot> {
    let key = slot_key(place, format, generation)?;
    let bytes = place.store.get(&key, READ_BYTES_MAX)?;
    format.read_slot(&place.store.display(&key), &bytes)
}

/// A new attempt at saving a step: its name, and the slot it will commit with.
///
/// Errors: [`Error::AlreadySaved`] where the step is saved and `existing` or the format lets it stand; as
/// [`newest_slot`].
pub fn begin(place: &Place, format: &dyn Format, existing: Existing) -> Result<Attempt> {
    // A damaged slot is no reason not to save again: what counts is that it is filled.
    let newest = match newest_slot(place, format) {
        Err(Error::Damaged { .. } | Error::Malformed { .. }) => {
            newest_generation(place, format)?.map(|newest| (newest, Slot::Commit))
        }
        other => other?,
    };
    let newest = newest.map(|(generation, slot)| (generation, slot == Slot::Abandoned));
    let next = protocol::next_generation(newest, existing);
    match next.filter(|&generation| format.slot_name(generation).is_some()) {
        Some(generation) => Ok(Attempt::new(generation)),
        None => Err(Error::AlreadySaved { root: place.display() }),
    }
}

/// Pages of a listing are read in order of the names, so that a slot which is filled meanwhile is either seen or filled
/// after the newest that was seen.
fn newest_generation(place: &Place, format: &dyn Format) -> Result<Option<u32>> {
    Ok(newest_listed(place, format, &place.store.list(&place.key)?))
}

/// The newest slot of a listing.
pub(crate) fn newest_listed(place: &Place, format: &dyn Format, listed: &[ObjectMeta]) -> Option<u32> {
    let names = listed.iter().filter_map(|object| object.key.below(&place.key));
    names.filter_map(|name| format.slot_generation(name)).max()
}

pub(crate) fn slot_key(place: &Place, format: &dyn Format, generation: u32) -> Result<Key> {
    let name = format.slot_name(generation);
    let name = name.ok_or_else(|| Error::AlreadySaved { root: place.display() })?;
    place.key.join(&name)
}

/// Commits an attempt whose writers have all reported that their objects and records are finished: looks for itself
/// that they are there, and fills the slot. Called by one process of the job.
///
/// Errors: [`Error::Incomplete`] for an object or record that is not there or not as long as it was laid out;
/// [`Error::LostRace`], [`Error::Fenced`], [`Error::Unknown`]; what writing gives.
pub fn commit(place: &Place, format: &dyn Format, draft: &dyn Draft) -> Result<()> {
    seal(place, format, || draft.seal(&records(place, draft)?))
}

/// Completes a checkpoint of which this process has finished all objects: puts the records, several at once since most of
/// the time goes into waiting for the store, then what makes it exist. `sums` follows [`Draft::objects`].
///
/// Errors: as [`commit`]; [`Error::Malformed`] where what was measured is not what was laid out.
pub fn complete(place: &Place, format: &dyn Format, draft: &dyn Draft, sums: &[ObjectSums]) -> Result<()> {
    let put =
        |writer| put_record(place, draft, writer, sums.get(draft.objects_of(writer)).unwrap_or_default());
    seal(place, format, || {
        draft.seal(&(0..draft.writers()).into_par_iter().map(put).collect::<Result<Vec<_>>>()?)
    })
}

/// Puts the record of a writer, all of whose objects are finished, and gives its bytes; `None` where it leaves none.
///
/// Errors: as [`put_same`]; [`Error::Malformed`] where what was measured is not what was laid out.
pub(crate) fn put_record(
    place: &Place,
    draft: &dyn Draft,
    writer: u32,
    sums: &[ObjectSums],
) -> Result<Option<Vec<u8>>> {
    let put = |(key, bytes): (Key, Vec<u8>)| put_same(place, &key, &bytes).map(|()| bytes);
    draft.record(writer, sums)?.map(put).transpose()
}

/// Makes a checkpoint exist of which every object and record was seen to be there. Where several do this, with the same
/// records, all are told that it is committed.
///
/// Errors: as [`commit`]; as [`put_same`].
pub(crate) fn seal_with(
    place: &Place,
    format: &dyn Format,
    draft: &dyn Draft,
    records: &[Option<Vec<u8>>],
) -> Result<()> {
    seal(place, format, || draft.seal(records))
}

/// Creates a small object, or finds it there with the same bytes.
///
/// Errors: [`Error::Differs`] where it is there with other bytes; what writing and reading give.
pub(crate) fn put_same(place: &Place, name: &Key, bytes: &[u8]) -> Result<()> {
    let key = place.key.join(name.as_str())?;
    match place.store.put(&key, bytes) {
        Err(Error::AlreadyExists { object }) => match place.store.get(&key, READ_BYTES_MAX)? == bytes {
            true => Ok(()),
            false => {
                let source_object = "what this command makes".to_owned();
                Err(Error::Differs { object, source_object, why: "it has other bytes".to_owned() })
            }
        },
        put => put,
    }
}

/// Puts what makes a checkpoint exist, the slot last where the format has slots.
fn seal(
    place: &Place,
    format: &dyn Format,
    check: impl FnOnce() -> Result<Vec<(Key, Vec<u8>)>>,
) -> Result<()> {
    let mut committer = Committer::default();
    let mut sealed = check()?;
    committer.checked();
    let generation = sealed.last().and_then(|(key, _)| format.slot_generation(key.as_str()));
    let slot = generation.and_then(|generation| Some((generation, sealed.pop()?)));
    // What comes before the slot belongs to this attempt alone, which several processes may share.
    for (key, bytes) in sealed {
        put_same(place, &key, &bytes)?;
    }
    match slot {
        Some((generation, (key, bytes))) => {
            let slot = place.key.join(key.as_str())?;
            fill(committer, place, format, (generation, &slot), &bytes)
        }
        None => Ok(()),
    }
}

/// Fills a slot with our bytes.
fn fill(
    mut committer: Committer,
    place: &Place,
    format: &dyn Format,
    (generation, slot): (u32, &Key),
    ours: &[u8],
) -> Result<()> {
    let mut last = None;
    loop {
        match committer.task() {
            Task::Check => return Err(Error::Interrupted),
            Task::Put => {
                let answer = match place.store.put(slot, ours) {
                    Ok(()) => Answer::Created,
                    Err(error) => {
                        let answer = match &error {
                            Error::AlreadyExists { .. } => Answer::Exists,
                            error if is_final(error) => Answer::Refused,
                            _ => Answer::Unclear,
                        };
                        last = Some(error);
                        answer
                    }
                };
                committer.answered(answer);
            }
            Task::ReadBack => committer.found(match place.store.get(slot, READ_BYTES_MAX) {
                Ok(bytes) if bytes == ours => Found::Ours,
                Ok(bytes) => match format.read_slot(&place.store.display(slot), &bytes) {
                    Ok(Slot::Abandoned) => Found::Abandoned,
                    _ => Found::Other,
                },
                Err(Error::NotFound { .. }) => Found::Nothing,
                Err(_) => Found::Unclear,
            }),
            Task::Confirm => committer.found(confirm(place, format, generation, &mut last)),
            Task::Done(outcome) => return conclude(outcome, place.store.display(slot), last),
        }
    }
}

/// Whether the slot that holds our manifest is the newest.
fn confirm(place: &Place, format: &dyn Format, generation: u32, last: &mut Option<Error>) -> Found {
    let newest = match newest_generation(place, format) {
        Ok(Some(newest)) if newest == generation => return Found::Ours,
        Ok(Some(newest)) if newest > generation => newest_slot(place, format),
        Ok(_) => return Found::Nothing,
        Err(error) => Err(error),
    };
    match newest {
        Ok(Some((_, Slot::Abandoned))) => Found::Abandoned,
        Ok(Some((_, Slot::Commit))) | Err(Error::Damaged { .. } | Error::Malformed { .. }) => Found::Other,
        Ok(None) => Found::Nothing,
        Err(error) => {
            *last = Some(error);
            Found::Unclear
        }
    }
}

/// Whether a creation that failed so cannot take effect any more. Object stores try again by themselves, so that an error
/// of theirs says nothing about the tries before the last; the operating system's own answer is about the one that was.
fn is_final(error: &Error) -> bool {
    match error {
        Error::ReadOnly { .. } | Error::NoSpace { .. } => true,
        Error::Io { source, .. } => source.raw_os_error().is_some(),
        _ => false,
    }
}

fn conclude(outcome: Outcome, slot: String, last: Option<Error>) -> Result<()> {
    match outcome {
        Outcome::Committed => Ok(()),
        Outcome::Lost => Err(Error::LostRace { slot }),
        Outcome::Fenced => Err(Error::Fenced { slot }),
        // Nothing is there, and what kept it from being written is known.
        Outcome::Refused => Err(last.unwrap_or(Error::Interrupted)),
        Outcome::Unknown => {
            let last = last.map_or_else(String::new, |error| error.to_string());
            Err(Error::Unknown { slot, last })
        }
    }
}

/// Every writer's record, read from the store once every object is found to be there and as long as laid out.
fn records(place: &Place, draft: &dyn Draft) -> Result<Vec<Option<Vec<u8>>>> {
    let incomplete = |key: &Key, found: String, expected: String| Error::Incomplete {
        root: place.display(),
        object: place.store.display(key),
        found,
        expected,
    };
    draft.objects().par_iter().try_for_each(|object| {
        let key = place.key.join(object.key.as_str())?;
        let expected = object.byte_len;
        match place.store.head(&key)? {
            None => Err(incomplete(&key, "is missing".to_owned(), format!("{expected} bytes"))),
            // A compressed object is as long as it came out.
            Some(found) if found != expected && !draft.compressed() => {
                Err(incomplete(&key, format!("has {found} bytes"), expected.to_string()))
            }
            Some(_) => Ok(()),
        }
    })?;
    (0..draft.writers())
        .into_par_iter()
        .map(|writer| match draft.record_key(writer)? {
            None => Ok(None),
            Some(key) => {
                let key = place.key.join(key.as_str())?;
                match place.store.get(&key, READ_BYTES_MAX) {
                    Ok(bytes) => Ok(Some(bytes)),
                    Err(Error::NotFound { .. }) => {
                        Err(incomplete(&key, "is missing".to_owned(), "a record".to_owned()))
                    }
                    Err(error) => Err(error),
                }
            }
        })
        .collect()
}
