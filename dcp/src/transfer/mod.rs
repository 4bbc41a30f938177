//! Copies objects as they are between any two stores: a checkpoint, a run of many, a single object.
//!
//! 1. [`plan`] lists both ends and refuses what cannot end well: a destination within the source, an object that is there
//!    with another length, a disk too small. It writes nothing.
//! 2. [`Transfer::run`] copies several objects at once, each from front to back in pieces, in bounded memory. An object
//!    that is there already is compared and skipped, or is an error: nothing is overwritten.
//! 3. What makes a checkpoint exist is copied when everything else of its folder is there: a copy that was interrupted is
//!    no checkpoint. Copying again goes on where it stopped: whole objects are skipped, and of an unfinished upload the
//!    parts whose checksums are those of the source.
//!
//! What was read is what was written, by CRC-64/NVME: an upload carries the checksum of every part, which the store
//! compares; with [`TransferOptions::verify`] every object is read back from the destination and compared. Between local
//! files the kernel copies, and only that reads the bytes.

mod content;
mod object;
mod order;
mod queue;
mod run;
#[cfg(test)]
mod tests;

use crate::copy::{CopyOptions, Progress};
use crate::error::{Error, Result};
use crate::format::is_committed_by;
use crate::storage::{Key, ObjectMeta, Place, Unfinished, WriterState};
use std::collections::{BTreeMap, BTreeSet};

/// Largest piece that a thread holds: large enough for full disk speed.
const PIECE_BYTES_MAX: u64 = 16 << 20;
/// Smallest piece worth a request.
const PIECE_BYTES_MIN: u64 = 256 << 10;

/// How to copy.
#[derive(Clone, Copy, Default, Debug)]
pub struct TransferOptions {
    /// Memory of the pieces that threads hold, and their number. A store's uploads under way come on top.
    pub copy: CopyOptions,
    /// Read every object back from the destination and compare it with the source.
    pub verify: bool,
}

impl TransferOptions {
    /// Bytes of one piece and number of threads that fit the budget.
    fn pieces(&self) -> Result<(u64, usize)> {
        let budget = self.copy.memory_bytes_max;
        if budget < PIECE_BYTES_MIN {
            return Err(Error::BudgetTooSmall { budget, needed: PIECE_BYTES_MIN });
        }
        let threads = (self.copy.threads.max(1) as u64).min(budget / PIECE_BYTES_MIN);
        Ok(((budget / threads).min(PIECE_BYTES_MAX), threads as usize))
    }
}

/// What a transfer did.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct TransferReport {
    /// Objects written.
    pub copied_objects: u64,
    /// Bytes written, parts that were there already not counted.
    pub copied_bytes: u64,
    /// Of these, bytes moved by the kernel without passing through this process.
    pub kernel_bytes: u64,
    /// Objects that were there already, with the same contents.
    pub present_objects: u64,
    /// Their bytes.
    pub present_bytes: u64,
    /// Bytes of parts that an earlier transfer had stored of objects it did not finish.
    pub resumed_bytes: u64,
    /// Bytes read back from the destination and compared.
    pub verified_bytes: u64,
}

/// One object to copy.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Item {
    from: Key,
    to: Key,
    byte_len: u64,
    /// Whether an object of that length is at the destination.
    present: bool,
}

/// A transfer that has been planned and not begun.
#[derive(Debug)]
pub struct Transfer {
    source: Place,
    destination: Place,
    options: TransferOptions,
    items: Vec<Item>,
}

/// Plans to copy an object, or everything below a folder, to `destination`, which is the name of the copy. Writes nothing.
///
/// Errors: [`Error::NothingThere`]; [`Error::Usage`] for a destination that is the source or within it;
/// [`Error::Differs`] for an object that is there with another length; [`Error::OtherCheckpoint`]; [`Error::NoSpace`]; [`Error::BudgetTooSmall`].
pub fn plan(source: &Place, destination: &Place, options: TransferOptions) -> Result<Transfer> {
    options.pieces()?;
    check_apart(source, destination)?;
    let present: BTreeMap<Key, u64>;
    let objects: Vec<(ObjectMeta, Key)>;
    if let Some(byte_len) = source.store.head(&source.key)? {
        let meta = ObjectMeta { key: source.key.clone(), byte_len, modified: None };
        objects = vec![(meta, destination.key.clone())];
        let found = destination.store.head(&destination.key)?;
        present = found.map(|byte_len| (destination.key.clone(), byte_len)).into_iter().collect();
    } else {
        let listed = source.store.list(&source.key)?;
        if listed.is_empty() {
            return Err(Error::NothingThere { root: source.display() });
        }
        let to = |meta: &ObjectMeta| destination.key.join(meta.key.below(&source.key).unwrap_or_default());
        objects = listed.into_iter().map(|meta| to(&meta).map(|key| (meta, key))).collect::<Result<_>>()?;
        let found = destination.store.list(&destination.key)?.into_iter();
        present = found.map(|meta| (meta.key, meta.byte_len)).collect();
    }
    let items = objects
        .into_iter()
        .map(|(meta, to)| {
            let found = present.get(&to).copied();
            if let Some(found) = found.filter(|found| *found != meta.byte_len) {
                let why = format!("it has {found} bytes, the source has {}", meta.byte_len);
                return Err(differs(source, &meta.key, destination, &to, why));
            }
            Ok(Item { from: meta.key, to, byte_len: meta.byte_len, present: found.is_some() })
        })
        .collect::<Result<Vec<_>>>()?;
    check_no_other(source, destination, &items, &present)?;
    let transfer = Transfer { source: source.clone(), destination: destination.clone(), options, items };
    transfer.check_space()?;
    Ok(transfer)
}

impl Transfer {
    /// Number of objects, those that are there already included.
    pub fn objects(&self) -> usize {
        self.items.len()
    }

    /// Their bytes, as the listener to [`Transfer::run`] is told of.
    pub fn byte_len(&self) -> u64 {
        self.items.iter().map(|item| item.byte_len).fold(0, u64::saturating_add)
    }

    /// Number and bytes of the objects for which the destination has one of the same name and length.
    pub fn present(&self) -> (usize, u64) {
        let present = || self.items.iter().filter(|item| item.present);
        (present().count(), present().map(|item| item.byte_len).fold(0, u64::saturating_add))
    }

    /// Copies.
    ///
    /// Errors: [`Error::Differs`] for an object that is there with other contents; [`Error::Changed`] for a source that
    /// is not as long as it was; [`Error::Damaged`] for a copy that reads back as something else; what reading and
    /// writing give. What is whole by then stays, for the next run.
    pub fn run(self, progress: &dyn Progress) -> Result<TransferReport> {
        self.clear_leftovers()?;
        run::run(&self, progress)
    }

    fn check_space(&self) -> Result<()> {
        let Some(free) = self.destination.store.free_bytes()? else { return Ok(()) };
        let left = self.leftovers()?.into_iter().filter_map(|left| left.byte_len);
        let available = left.fold(free, u64::saturating_add);
        let needed = self.byte_len() - self.present().1;
        match needed > available {
            true => Err(Error::NoSpace { path: self.destination.display().into(), available, needed }),
            false => Ok(()),
        }
    }

    /// Removes what a transfer that was killed left of the very objects that are now copied.
    fn clear_leftovers(&self) -> Result<()> {
        self.leftovers()?.iter().try_for_each(|left| self.destination.store.discard(left))
    }

    /// Files of writers that are known to be gone, of objects that are to be copied; only where space is limited, and
    /// below a folder: a single object's neighbours are none of our business.
    fn leftovers(&self) -> Result<Vec<Unfinished>> {
        if self.destination.store.free_bytes()?.is_none() {
            return Ok(Vec::new());
        }
        let ours: BTreeSet<&Key> = self.items.iter().map(|item| &item.to).collect();
        let mut left = self.destination.store.unfinished(&self.destination.key)?;
        left.retain(|left| left.writer == WriterState::Dead && ours.contains(&left.key));
        Ok(left)
    }
}

/// A folder that gets a checkpoint must not hold another.
fn check_no_other(
    source: &Place,
    destination: &Place,
    items: &[Item],
    present: &BTreeMap<Key, u64>,
) -> Result<()> {
    let copied: BTreeSet<&Key> = items.iter().map(|item| &item.to).collect();
    let folders: BTreeSet<Key> =
        copied.iter().filter(|key| is_committed_by(key.name())).map(|key| key.parent()).collect();
    let other = present
        .keys()
        .find(|key| is_committed_by(key.name()) && !copied.contains(key) && folders.contains(&key.parent()));
    match other {
        None => Ok(()),
        Some(key) => Err(Error::OtherCheckpoint {
            object: destination.store.display(key),
            source_root: source.display(),
        }),
    }
}

/// A destination within the source would be copied into itself.
fn check_apart(source: &Place, destination: &Place) -> Result<()> {
    let from = source.store.canonical(&source.key)?;
    let to = destination.store.canonical(&destination.key)?;
    let (from, to) = (from.trim_end_matches('/'), to.trim_end_matches('/'));
    let why = match to.strip_prefix(from) {
        Some("") => "is the source itself",
        Some(rest) if rest.starts_with('/') => "is within the source",
        _ => return Ok(()),
    };
    let (destination, source) = (destination.display(), source.display());
    Err(Error::Usage(format!("{destination}: {why}, {source}; choose a destination beside it")))
}

fn differs(source: &Place, from: &Key, destination: &Place, to: &Key, why: String) -> Error {
    let (object, source_object) = (destination.store.display(to), source.store.display(from));
    Error::Differs { object, source_object, why }
}
