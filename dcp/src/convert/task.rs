//! One task's part of a conversion: its share, what is there already, and the end.
//!
//! Tasks do not speak with each other. All make the same plan, each writes its share, and whoever finds everything there
//! when it has done so makes the checkpoint exist. `docs/commit-protocol.md`, "Conversions of many tasks", has the argument.

use super::{Conversion, ConvertReport, Ended};
use crate::commit;
use crate::copy::{self, CopyStats, Job, Output, Progress};
use crate::error::{Error, Result};
use crate::format::{ObjectSums, job_folder};
use crate::storage::{Key, WriterState};
use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};
use std::collections::{BTreeMap, HashMap};

/// How often what other tasks do may cross what this one does before it gives up.
const LOOKS_MAX: u32 = 8;

/// Which task of how many this process is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Task {
    index: u32,
    count: u32,
}

impl Task {
    /// The only one.
    pub const ALONE: Task = Task { index: 0, count: 1 };

    /// Task `index`, counted from 0, of `count`.
    ///
    /// Errors: [`Error::Usage`] where there is no such task.
    pub fn new(index: u32, count: u32) -> Result<Self> {
        match index < count {
            true => Ok(Task { index, count }),
            false => Err(Error::Usage(format!(
                "task {index} of {count}: tasks are numbered from 0 to the number before"
            ))),
        }
    }

    /// Its number, from 0.
    pub fn index(self) -> u32 {
        self.index
    }

    /// How many there are.
    pub fn count(self) -> u32 {
        self.count
    }
}

/// What a task finds in the destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Nothing.
    Free,
    /// What this very command has begun to make.
    Begun,
    /// A checkpoint as this command lays it out, without a word of who made it.
    Complete,
}

/// Lengths of the objects in the destination, by name.
pub(super) type Seen = BTreeMap<String, u64>;

impl Conversion<'_> {
    /// Looks whether the destination can be written to, and with `begin` marks it as this job's.
    ///
    /// Errors: [`Error::AlreadyExists`], [`Error::OtherJob`]; what the store gives.
    pub(super) fn enter(&self, begin: bool) -> Result<(Entry, Seen)> {
        let taken = |object: String| Err(Error::AlreadyExists { object });
        let Some(job) = &self.job else {
            let key =
                self.place.key.join(self.draft.objects().first().map_or("", |object| object.key.as_str()))?;
            let is_there = self.place.store.head(&key)?.is_some() || !self.place.store.list(&key)?.is_empty();
            return if is_there {
                taken(self.place.store.display(&key))
            } else {
                Ok((Entry::Free, Seen::new()))
            };
        };
        if self.place.store.head(&self.place.key)?.is_some() {
            return taken(self.place.display());
        }
        for look in 0..LOOKS_MAX {
            let seen = self.look()?;
            if job.is_marked()? {
                // Only what this command makes may be there: a checkpoint must not be made around anything else.
                return match seen.keys().find(|name| !self.makes(name)) {
                    Some(other) => taken(self.place.store.display(&self.place.key.join(other)?)),
                    None => Ok((Entry::Begun, seen)),
                };
            }
            if seen.contains_key(job_folder::MARKER) {
                continue;
            }
            if !seen.is_empty() {
                let is_late = self.task.count > 1 && self.is_complete(&seen)?;
                if self.task.count > 1 && !is_late && look == 0 {
                    // The others may have finished while this was listed.
                    continue;
                }
                return if is_late { Ok((Entry::Complete, seen)) } else { taken(self.place.display()) };
            }
            if !begin {
                return Ok((Entry::Free, seen));
            }
            match job.mark() {
                // What is there now is looked at again: a store may let two create one object.
                Ok(()) | Err(Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(Error::Changed { object: self.place.display() })
    }

    /// Whether this command makes an object of this name.
    fn makes(&self, name: &str) -> bool {
        self.names.contains(name) || job_folder::owns(name) || self.format.is_committed_by(name)
    }

    /// What is in the destination.
    pub(super) fn look(&self) -> Result<Seen> {
        if self.job.is_none() {
            let objects = self.draft.objects().iter().map(|object| {
                let byte_len = self.place.store.head(&self.place.key.join(object.key.as_str())?)?;
                Ok(byte_len.map(|byte_len| (object.key.as_str().to_owned(), byte_len)))
            });
            return objects.filter_map(Result::transpose).collect();
        }
        let listed = self.place.store.list(&self.place.key)?;
        let names =
            listed.iter().filter_map(|it| Some((it.key.below(&self.place.key)?.to_owned(), it.byte_len)));
        Ok(names.collect())
    }

    /// Whether a data object is there.
    ///
    /// Errors: [`Error::Differs`] for one of another length.
    pub(super) fn is_present(&self, seen: &Seen, index: usize) -> Result<bool> {
        let object = &self.draft.objects()[index];
        match seen.get(object.key.as_str()) {
            None => Ok(false),
            Some(&found) if found == object.byte_len || self.draft.compressed() => Ok(true),
            Some(found) => Err(Error::Differs {
                object: self.place.store.display(&self.place.key.join(object.key.as_str())?),
                source_object: "what this command makes".to_owned(),
                why: format!("it has {found} bytes, expected {}", object.byte_len),
            }),
        }
    }

    /// Whether nothing more is wanted of an object that is there: what its record says of it is kept.
    fn is_summed(&self, seen: &Seen, index: usize) -> Result<bool> {
        let record = self.draft.record_key(self.draft.objects()[index].writer)?;
        Ok(record
            .is_none_or(|key| seen.contains_key(key.as_str()) || seen.contains_key(&job_folder::sums(index))))
    }

    /// How many objects, or checksums of them, are missing, and the first.
    fn missing(&self, seen: &Seen) -> Result<(usize, Option<usize>)> {
        let (mut count, mut first) = (0, None);
        for index in 0..self.draft.objects().len() {
            if !self.is_present(seen, index)? || !self.is_summed(seen, index)? {
                count += 1;
                first.get_or_insert(index);
            }
        }
        Ok((count, first))
    }

    /// Whether a checkpoint of this layout is there.
    fn is_complete(&self, seen: &Seen) -> Result<bool> {
        let has_all =
            (0..self.draft.objects().len()).all(|index| matches!(self.is_present(seen, index), Ok(true)));
        let records = (0..self.draft.writers()).map(|writer| self.draft.record_key(writer));
        let records = records.filter_map(Result::transpose).collect::<Result<Vec<_>>>()?;
        // Formats without slots seal with what they know without records.
        let needs_seal = self.format.slot_name(0).is_some() || !self.draft.seal(&[])?.is_empty();
        let is_sealed = !needs_seal || seen.keys().any(|name| self.format.is_committed_by(name));
        Ok(has_all && is_sealed && records.iter().all(|key| seen.contains_key(key.as_str())))
    }

    /// Whether this task has nothing to do: there are fewer objects than tasks.
    pub(super) fn is_idle(&self) -> bool {
        self.share.is_empty() && self.task.index > 0
    }

    /// Does this task's part.
    pub(super) fn work(mut self, progress: &dyn Progress) -> Result<ConvertReport> {
        if self.is_idle() {
            return Ok(ConvertReport { ended: Ended::Idle, ..self.report });
        }
        match self.try_to_work(progress) {
            Ok(ended) => Ok(ConvertReport { ended, ..self.report }),
            Err(error) => {
                self.withdraw();
                Err(error)
            }
        }
    }

    /// Takes the marker away again where this process alone has made it and has written nothing: a command that fails at
    /// once keeps nobody from the destination. Other tasks may rely on it.
    fn withdraw(&self) {
        if let Some(job) = self.job.as_ref().filter(|_| self.was_free && self.task.count == 1)
            && self.look().is_ok_and(|seen| seen.keys().all(|name| name == job_folder::MARKER))
        {
            // The error that is told is the one before.
            let _ = job.clear();
        }
    }

    fn try_to_work(&mut self, progress: &dyn Progress) -> Result<Ended> {
        for look in 1.. {
            let (entry, seen) = self.enter(true)?;
            if look == 1 {
                self.note_resumed(&seen)?;
                if entry == Entry::Begun {
                    self.discard_leftovers()?;
                }
            }
            match self.write_share(entry, &seen, progress) {
                // Another process of this job wrote one of these objects meanwhile: an earlier run that is not as dead as
                // it seemed.
                Err(Error::AlreadyExists { .. }) if look < LOOKS_MAX => {}
                written => {
                    written?;
                    break;
                }
            }
        }
        self.finish()
    }

    /// Counts what of the share is there already.
    pub(super) fn note_resumed(&mut self, seen: &Seen) -> Result<()> {
        (self.report.resumed_objects, self.report.resumed_bytes) = (0, 0);
        for &index in &self.share {
            if self.is_present(seen, index)? {
                self.report.resumed_objects += 1;
                self.report.resumed_bytes += self.element_bytes[index];
            }
        }
        Ok(())
    }

    /// Removes what writers of this task's objects left that are known to be gone.
    fn discard_leftovers(&self) -> Result<()> {
        let unfinished = match self.place.store.unfinished(&self.place.key) {
            // Nothing depends on it.
            Err(Error::UnfinishedUnlisted { .. }) => return Ok(()),
            unfinished => unfinished?,
        };
        let objects: HashMap<&str, usize> = self
            .draft
            .objects()
            .iter()
            .enumerate()
            .map(|(index, object)| (object.key.as_str(), index))
            .collect();
        let own = |key: &Key| {
            let Some(name) = key.below(&self.place.key) else { return false };
            match objects.get(name) {
                Some(index) => self.share.binary_search(index).is_ok(),
                None => self.task.index == 0 && self.makes(name),
            }
        };
        for left in unfinished.iter().filter(|left| left.writer == WriterState::Dead && own(&left.key)) {
            match self.place.store.discard(left) {
                Err(Error::InUse { .. }) => {}
                discarded => discarded?,
            }
        }
        Ok(())
    }

    /// Writes what is missing of the share, a number of objects at a time, and keeps their checksums.
    fn write_share(&mut self, entry: Entry, seen: &Seen, progress: &dyn Progress) -> Result<()> {
        let mut sums = BTreeMap::new();
        let mut wanted = Vec::new();
        for &index in &self.share {
            if !self.is_present(seen, index)? {
                wanted.push((index, Output::Write));
            } else if entry == Entry::Complete || !self.is_summed(seen, index)? {
                wanted.push((index, Output::Compare));
            } else if seen.contains_key(&job_folder::sums(index))
                && let Some(job) = &self.job
                && let Some(kept) = found(job.sums(index))?
            {
                sums.insert(index, kept);
            }
        }
        let sources: Vec<_> = self.target.tensors.iter().map(|tensor| tensor.fqn.clone()).collect();
        for (objects, output) in self.batches(&wanted) {
            let (measured, stats) = copy::run(Job {
                reader: self.reader,
                sources: &sources,
                target: &self.target,
                objects: objects.clone(),
                output,
                draft: &*self.draft,
                place: &self.place,
                options: self.options,
                progress,
            })?;
            add(&mut self.report.stats, stats, output);
            sums.extend(objects.iter().copied().zip(measured));
            self.keep_sums(&objects, &sums, entry)?;
        }
        Ok(())
    }

    /// Cuts what is to be done where so many bytes are reached, so that a death loses no more than those.
    fn batches(&self, wanted: &[(usize, Output)]) -> Vec<(Vec<usize>, Output)> {
        let mut batches: Vec<(Vec<usize>, Output)> = Vec::new();
        let mut batch_bytes = 0u64;
        for &(index, output) in wanted {
            let byte_len = self.element_bytes[index];
            match batches.last_mut() {
                Some((batch, of))
                    if *of == output && batch_bytes.saturating_add(byte_len) <= self.publish_bytes_max =>
                {
                    batch.push(index);
                    batch_bytes += byte_len;
                }
                _ => {
                    batches.push((vec![index], output));
                    batch_bytes = byte_len;
                }
            }
        }
        batches
    }

    /// Puts the record of every writer of which all checksums are known, and keeps those of the others in the job's folder.
    fn keep_sums(&self, batch: &[usize], sums: &BTreeMap<usize, ObjectSums>, entry: Entry) -> Result<()> {
        let mut writers: Vec<u32> = batch.iter().map(|&index| self.draft.objects()[index].writer).collect();
        writers.dedup();
        writers.into_par_iter().try_for_each(|writer| {
            if self.draft.record_key(writer)?.is_none() {
                return Ok(());
            }
            let own: Option<Vec<ObjectSums>> =
                self.draft.objects_of(writer).map(|index| sums.get(&index).cloned()).collect();
            if let Some(own) = own {
                return commit::put_record(&self.place, &*self.draft, writer, &own).map(drop);
            }
            // A checkpoint that is complete has its records.
            let Some(job) = self.job.as_ref().filter(|_| entry != Entry::Complete) else { return Ok(()) };
            let of_writer = batch.iter().filter(|&&index| self.draft.objects()[index].writer == writer);
            of_writer
                .filter_map(|&index| Some((index, sums.get(&index)?)))
                .try_for_each(|(index, sums)| job.put_sums(index, sums))
        })
    }

    /// Makes the checkpoint exist if everything is there, whoever wrote it.
    fn finish(&self) -> Result<Ended> {
        for _ in 0..LOOKS_MAX {
            let seen = self.look()?;
            let (missing, first) = self.missing(&seen)?;
            if let Some(first) = first {
                let first = self.draft.objects()[first].key.as_str().to_owned();
                return Ok(Ended::Incomplete { missing, first });
            }
            // Another task may have finished, and cleared the job's folder, since the look.
            let Some(records) = found(self.records(&seen))? else { continue };
            for (name, bytes) in &self.beside {
                commit::put_same(&self.place, &Key::new(name.as_str())?, bytes)?;
            }
            let was_marked = seen.contains_key(job_folder::MARKER);
            let was_sealed = seen.keys().any(|name| self.format.is_committed_by(name));
            commit::seal_with(&self.place, self.format, &*self.draft, &records)?;
            if let Some(job) = &self.job {
                job.clear()?;
                return Ok(if was_marked && !was_sealed { Ended::Committed } else { Ended::Found });
            }
            return Ok(Ended::Committed);
        }
        Err(Error::Changed { object: self.place.display() })
    }

    /// Every writer's record, made from kept checksums where it is not there.
    fn records(&self, seen: &Seen) -> Result<Vec<Option<Vec<u8>>>> {
        let record = |writer| match (self.draft.record_key(writer)?, &self.job) {
            (None, _) => Ok(None),
            (Some(key), Some(job)) if !seen.contains_key(key.as_str()) => {
                let objects: Vec<usize> = self.draft.objects_of(writer).collect();
                let sums = objects.par_iter().map(|&index| job.sums(index)).collect::<Result<Vec<_>>>()?;
                commit::put_record(&self.place, &*self.draft, writer, &sums)
            }
            (Some(key), _) => {
                self.place.store.get(&self.place.key.join(key.as_str())?, commit::READ_BYTES_MAX).map(Some)
            }
        };
        (0..self.draft.writers()).into_par_iter().map(record).collect()
    }
}

/// What was there, or `None` where it has gone since it was listed.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Err(Error::NotFound { .. }) => Ok(None),
        other => other.map(Some),
    }
}

fn add(total: &mut CopyStats, more: CopyStats, output: Output) {
    total.read_bytes += more.read_bytes;
    if output == Output::Write {
        total.written_bytes += more.written_bytes;
        total.kernel_bytes += more.kernel_bytes;
    }
}
