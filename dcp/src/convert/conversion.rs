//! A planned conversion: laid out, divided among tasks, its destination looked at.

use super::job::JobFolder;
use super::task::{Entry, Task};
use super::{ConvertOptions, ConvertReport, Ended, digest};
use crate::copy::{CopyOptions, CopyStats, Progress};
use crate::error::{Error, Result};
use crate::format::{Draft, Format, ObjectDraft, PlacedRegion, Reader, Target, WriteOptions};
use crate::plan::divide;
use crate::storage::Place;
use std::collections::HashSet;

/// A conversion that has been planned and not begun.
#[derive(Debug)]
pub struct Conversion<'a> {
    pub(super) reader: &'a dyn Reader,
    pub(super) target: Target,
    pub(super) draft: Box<dyn Draft>,
    pub(super) place: Place,
    pub(super) format: &'a dyn Format,
    pub(super) options: CopyOptions,
    pub(super) task: Task,
    pub(super) publish_bytes_max: u64,
    pub(super) beside: Vec<(String, Vec<u8>)>,
    /// Bytes of tensor elements in each object.
    pub(super) element_bytes: Vec<u64>,
    /// The objects that this task sees to, in order.
    pub(super) share: Vec<usize>,
    /// Every name that is written, apart from what makes the checkpoint exist.
    pub(super) names: HashSet<String>,
    /// `None` for a single file, which is there whole or not at all.
    pub(super) job: Option<JobFolder>,
    /// Whether nothing was there when it was planned.
    pub(super) was_free: bool,
    pub(super) report: ConvertReport,
}

impl<'a> Conversion<'a> {
    /// Lays the target out and divides it.
    pub(super) fn new(
        reader: &'a dyn Reader,
        target: Target,
        (place, format): (&Place, &'a dyn Format),
        options: &ConvertOptions,
        (left_out, assumptions): (Vec<String>, Vec<String>),
    ) -> Result<Self> {
        let digest = digest::of_target(reader, &target, format, options)?;
        let identity = Some(digest::identity(digest));
        let draft = format.draft(&target, &WriteOptions { identity, ..options.write.clone() })?;
        let element_bytes: Vec<u64> =
            draft.objects().iter().map(|object| element_bytes(&target, object)).collect();
        // A compressed object is not laid out yet: its elements say how much work it is.
        let weights: Vec<u64> = draft
            .objects()
            .iter()
            .zip(&element_bytes)
            .map(|(object, &bytes)| object.byte_len.max(bytes))
            .collect();
        let task = options.task;
        let of_task = divide(&weights, task.count());
        let share: Vec<usize> = (0..weights.len()).filter(|&index| of_task[index] == task.index()).collect();
        let report = ConvertReport {
            tensors: target.tensors.len(),
            values: target.values.len(),
            objects: weights.len(),
            tensor_bytes: target.tensors.iter().filter_map(|tensor| tensor.spec.bytes()).sum(),
            task,
            share_objects: share.len(),
            share_bytes: share.iter().map(|&index| element_bytes[index]).fold(0, u64::saturating_add),
            resumed_objects: 0,
            resumed_bytes: 0,
            ended: Ended::Planned,
            stats: CopyStats::default(),
            left_out,
            assumptions,
        };
        let job = options.write.file_name.is_none().then(|| {
            let size = (weights.len(), weights.iter().copied().fold(0, u64::saturating_add));
            let (digest, source) = (digest::of_draft(digest, &*draft), reader.place().display());
            JobFolder::new(place, digest, source, format.name(), size)
        });
        let mut conversion = Conversion {
            reader,
            names: names(&*draft, &options.beside)?,
            target,
            draft,
            place: place.clone(),
            format,
            options: options.copy,
            task,
            publish_bytes_max: options.publish_bytes_max,
            beside: options.beside.clone(),
            element_bytes,
            share,
            job,
            was_free: false,
            report,
        };
        conversion.check_destination()?;
        Ok(conversion)
    }

    /// Checks that the destination can be written to and that what is missing of this task's share fits.
    fn check_destination(&mut self) -> Result<()> {
        if self.is_idle() {
            return Ok(());
        }
        let (entry, seen) = self.enter(false)?;
        self.was_free = entry == Entry::Free;
        self.note_resumed(&seen)?;
        let mut needed = 0u64;
        for &index in &self.share {
            if !self.is_present(&seen, index)? {
                needed = needed.saturating_add(self.draft.objects()[index].byte_len);
            }
        }
        match self.place.store.free_bytes()? {
            Some(available) if needed > available => {
                Err(Error::NoSpace { path: self.place.display().into(), available, needed })
            }
            _ => Ok(()),
        }
    }

    /// What will be written; byte counts of the copy are still zero.
    pub fn report(&self) -> &ConvertReport {
        &self.report
    }

    /// Writes this task's share of the destination, as far as it is not there. The destination becomes a checkpoint with
    /// the last write, by the task that finds everything else there.
    ///
    /// Errors: see [`crate::copy::run`]; what the format's commit gives; [`Error::Differs`] for an object that is there and
    /// is not what this conversion makes.
    pub fn run(self, progress: &dyn Progress) -> Result<ConvertReport> {
        self.work(progress)
    }
}

/// Bytes of tensor elements in an object, before compression.
fn element_bytes(target: &Target, object: &ObjectDraft) -> u64 {
    let bytes = |placed: &PlacedRegion| {
        target.tensors[placed.tensor as usize].spec.dtype.bytes(placed.region.elements()).unwrap_or(0)
    };
    object.placed.iter().map(bytes).fold(0, u64::saturating_add)
}

/// Names of data objects, records and files beside them.
fn names(draft: &dyn Draft, beside: &[(String, Vec<u8>)]) -> Result<HashSet<String>> {
    let mut names: HashSet<String> =
        draft.objects().iter().map(|object| object.key.as_str().to_owned()).collect();
    for writer in 0..draft.writers() {
        names.extend(draft.record_key(writer)?.map(|key| key.as_str().to_owned()));
    }
    names.extend(beside.iter().map(|(name, _)| name.clone()));
    Ok(names)
}
