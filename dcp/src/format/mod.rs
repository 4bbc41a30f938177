//! On-disk formats: where the bytes of tensors and values are.
//!
//! Reading a format means producing a [`Catalog`]; writing one means laying regions out in objects. Neither moves a
//! tensor's bytes: the engine in [`crate::copy`] does, the same for every pair of formats.

mod draft;
pub(crate) mod job_folder;
mod open_objects;
pub mod pickle;
mod safetensors;
mod target;
mod titan;
mod torch_dcp;
mod torch_save;
#[doc(hidden)]
pub mod wire;

pub use draft::{ChecksumKind, Draft, Frame, ObjectDraft, ObjectSums, Patch, PlacedRegion};
pub use target::{Attempt, Pieces, Target, TargetTensor, TargetValue, WriteOptions};

use crate::error::{Error, Result};
use crate::model::{Catalog, Chunk, Fqn, Tensor, Value};
use crate::storage::{ObjectMeta, Place, ReadAt};
use std::fmt::Debug;
use std::sync::Arc;

/// Every format, most specific probe first. To add one: a file here, a line here.
pub static FORMATS: &[&dyn Format] =
    &[&titan::Titan, &torch_dcp::TorchDcp, &safetensors::Safetensors, &torch_save::TorchSave];

/// Finds a format by the name typed after `--to`.
pub fn by_name(name: &str) -> Result<&'static dyn Format> {
    FORMATS
        .iter()
        .copied()
        .find(|format| format.name() == name)
        .ok_or_else(|| Error::NoSuchFormat { name: name.to_owned(), known: names() })
}

/// The names of all formats, comma-separated.
pub fn names() -> String {
    FORMATS.iter().map(|format| format.name()).collect::<Vec<_>>().join(", ")
}

/// Whether an object of this name makes a checkpoint of some format exist: whoever copies objects writes it last.
pub fn is_committed_by(name: &str) -> bool {
    FORMATS.iter().any(|format| format.is_committed_by(name))
}

/// The training step in the name of a folder, `step-NUMBER`, as TorchTitan names them.
pub fn step_of(folder: &str) -> Option<u64> {
    let digits = folder.strip_prefix("step-")?;
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

/// What a probe may look at: a folder's listing, or a file's first bytes.
#[derive(Debug)]
pub struct Candidate {
    /// The folder or file.
    pub place: Place,
    /// `Some` when the place is a single object: its length and its first bytes, at most 4096.
    pub file: Option<(u64, Vec<u8>)>,
    /// Every object below the place when it is a folder, at any depth, sorted by key.
    pub objects: Vec<ObjectMeta>,
}

impl Candidate {
    /// Lists a place.
    ///
    /// Errors: [`Error::NothingThere`] when it is neither an object nor a folder with objects.
    pub fn new(place: &Place) -> Result<Self> {
        const HEAD_BYTES: u64 = 4096;
        if let Some(byte_len) = place.store.head(&place.key)? {
            let mut head = vec![0; byte_len.min(HEAD_BYTES) as usize];
            place.store.open(&place.key)?.read_at(0, &mut head)?;
            return Ok(Candidate { place: place.clone(), file: Some((byte_len, head)), objects: Vec::new() });
        }
        let objects = place.store.list(&place.key)?;
        if objects.is_empty() {
            return Err(Error::NothingThere { root: place.display() });
        }
        Ok(Candidate { place: place.clone(), file: None, objects })
    }

    /// Names of the objects directly in the folder, with their lengths.
    pub fn files(&self) -> impl Iterator<Item = (&str, u64)> {
        self.objects
            .iter()
            .filter_map(|object| Some((object.key.below(&self.place.key)?, object.byte_len)))
            .filter(|(name, _)| !name.contains('/'))
    }

    /// Whether a conversion has begun to write the folder and what makes it a checkpoint is not there.
    pub fn is_unfinished(&self) -> bool {
        self.find(job_folder::MARKER).is_some() && !self.files().any(|(name, _)| is_committed_by(name))
    }

    /// Length of the object `name` (relative to the folder, `/`-separated), where it is listed.
    pub fn find(&self, name: &str) -> Option<u64> {
        self.objects
            .iter()
            .find(|object| object.key.below(&self.place.key) == Some(name))
            .map(|object| object.byte_len)
    }
}

/// What a commit slot holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Slot {
    /// A checkpoint.
    Commit,
    /// Nothing, for good: whoever wanted to commit here cannot any more.
    Abandoned,
}

/// One on-disk format.
pub trait Format: Send + Sync + Debug {
    /// The name typed after `--to` and shown by `inspect`. Never changes once released.
    fn name(&self) -> &'static str;

    /// Whether the candidate looks like this format: from its listing and head alone, with at most one small read.
    fn probe(&self, candidate: &Candidate) -> bool;

    /// The name, directly in the folder, whose creation commits that try at a checkpoint: the first is generation 0.
    /// `None` where the format has no place for it: a single file, or a second try.
    fn slot_name(&self, generation: u32) -> Option<String> {
        let _ = generation;
        None
    }

    /// The generation of a name that [`slot_name`](Format::slot_name) gives.
    fn slot_generation(&self, name: &str) -> Option<u32> {
        let _ = name;
        None
    }

    /// What the object in a slot says. `object` names it in errors.
    fn read_slot(&self, object: &str, bytes: &[u8]) -> Result<Slot> {
        let _ = (object, bytes);
        Ok(Slot::Commit)
    }

    /// What fills a slot so that no attempt can commit with it; `None` where the format's readers would take it for a
    /// checkpoint.
    fn abandoned(&self, generation: u32) -> Option<Vec<u8>> {
        let _ = generation;
        None
    }

    /// Reads everything but tensor data. Damage that leaves a catalog readable becomes a finding, not an error.
    fn open(&self, candidate: &Candidate) -> Result<Arc<dyn Reader>>;

    /// Lays a target out in objects; computes positions only and touches no store.
    ///
    /// Errors: [`Error::Inexpressible`] for what the format cannot hold, listing every name.
    fn draft(&self, target: &Target, options: &WriteOptions) -> Result<Box<dyn Draft>>;

    /// Whether an object of this name, without folders, is what makes a checkpoint of this format exist: a manifest,
    /// metadata, an index. Never for a format whose data files speak for themselves.
    fn is_committed_by(&self, name: &str) -> bool {
        let _ = name;
        false
    }

    /// Whether a writer of this format makes objects of this name, relative to the checkpoint's folder: nothing else in
    /// it is ever removed by `prune`.
    fn owns(&self, name: &str) -> bool;

    /// Whether a checkpoint of this format is a single file where the destination's name ends in `extension`.
    fn single_file(&self, extension: &str) -> bool {
        let _ = extension;
        false
    }
}

/// An open checkpoint: its catalog, and how to get at the elements of its chunks.
pub trait Reader: Send + Sync + Debug {
    /// What the checkpoint holds.
    fn catalog(&self) -> &Catalog;

    /// The store it is in.
    fn place(&self) -> &Place;

    /// Finds where a chunk's elements are. May read the chunk's framing, never its elements (unless they can only be
    /// had by decoding all of it).
    fn resolve(&self, fqn: &Fqn, tensor: &Tensor, chunk: &Chunk) -> Result<Elements>;

    /// Decodes a value.
    ///
    /// Errors: [`Error::NoSuchName`]; what the value's own encoding can give.
    fn value(&self, fqn: &Fqn) -> Result<Value>;

    /// The value as a `torch.save` archive, byte for byte as it is stored, where the format stores one.
    fn value_archive(&self, fqn: &Fqn) -> Result<Option<Vec<u8>>> {
        let _ = fqn;
        Ok(None)
    }

    /// Checks what the format records beyond tensors' elements: framing, values, objects' own checksums. Called by
    /// `verify --deep`; elements themselves are checked through [`Elements`].
    fn verify_framing(&self, report: &mut dyn FnMut(crate::model::Finding)) -> Result<()> {
        let _ = report;
        Ok(())
    }
}

/// Where the elements of one chunk are, framing removed.
#[derive(Clone, Debug)]
pub struct Elements {
    /// The bytes, checked as they are read where the format has checksums of blocks.
    pub source: Arc<dyn ReadAt>,
    /// First byte of the elements in `source`.
    pub byte_offset: u64,
    /// Strides in elements (blocks, for sub-byte types), where the elements are not row-major and dense: any strides
    /// of the chunk's extent that stay inside `source`, zero (an expanded dim) included.
    pub strides: Option<Vec<u64>>,
    /// CRC-32 (ISO-HDLC) of the elements' bytes in stored order, where the format records one for the whole chunk.
    pub crc32: Option<u32>,
}

/// Opens a checkpoint of any format.
///
/// Errors: [`Error::NothingThere`], [`Error::UnknownFormat`], and what the format's reader gives.
pub fn open(place: &Place) -> Result<Arc<dyn Reader>> {
    let candidate = Candidate::new(place)?;
    if candidate.is_unfinished() {
        return Err(Error::Unfinished { root: place.display() });
    }
    match FORMATS.iter().find(|format| format.probe(&candidate)) {
        Some(format) => format.open(&candidate),
        None => Err(unknown(&candidate)),
    }
}

fn unknown(candidate: &Candidate) -> Error {
    let why = match &candidate.file {
        Some((byte_len, head)) => {
            let head: String = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("a file of {byte_len} bytes that starts with {head}")
        }
        None => {
            let names: Vec<_> = candidate.files().map(|(name, _)| name).take(3).collect();
            format!("a folder of {} objects such as {}", candidate.objects.len(), names.join(", "))
        }
    };
    Error::UnknownFormat { root: candidate.place.display(), why, known: names() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_tell_steps() {
        assert_eq!(step_of("step-1000"), Some(1000));
        for other in ["step-", "step-+1", "step-1x", "steps-1", "1"] {
            assert_eq!(step_of(other), None, "{other}");
        }
    }
}
