//! Lays a checkpoint of this format out in files: one per writer, values first.

use super::encode::{Entry, PlacedItem, Stored, encode};
use super::names::{METADATA, data_file};
use super::tensor_item::TensorItem;
use crate::error::{Error, Result};
use crate::format::wire::archive;
use crate::format::{
    Attempt, ChecksumKind, Draft, ObjectDraft, Patch, PlacedRegion, Target, TargetTensor, WriteOptions,
};
use crate::layout::Region;
use crate::model::TensorSpec;
use crate::storage::Key;
use std::collections::HashSet;

/// A laid-out checkpoint.
#[derive(Debug)]
pub(super) struct DcpDraft {
    objects: Vec<ObjectDraft>,
    /// For each object, the items of its placed regions, in their order.
    items: Vec<Vec<TensorItem>>,
    metadata: Vec<u8>,
}

impl Draft for DcpDraft {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    fn checksums(&self) -> ChecksumKind {
        ChecksumKind::Crc32
    }

    /// An item is an archive of its own, with one record that comes late.
    fn late_of_region(&self, index: usize, placed: usize, crc32: u32) -> Vec<Patch> {
        let item = &self.items[index][placed];
        item.layout.late(item.base, &[crc32])
    }

    /// The metadata, without which the files are no checkpoint.
    fn seal(&self, _records: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>> {
        Ok(vec![(Key::new(METADATA)?, self.metadata.clone())])
    }
}

/// Lays the target out; see [`Format::draft`](crate::format::Format::draft).
pub(super) fn draft(target: &Target, options: &WriteOptions) -> Result<DcpDraft> {
    check(target, options)?;
    let mut files = Vec::new();
    for writer in 0..target.writers.max(1) {
        files.push(File::new(writer, options.attempt.as_ref())?);
    }
    let mut entries = Vec::with_capacity(target.values.len() + target.tensors.len());
    for (value, archive) in target.values.iter().zip(archives(target)?) {
        let file = file_of(&mut files, value.writer)?;
        let item = file.add_value(archive);
        entries.push(Entry { fqn: value.fqn.as_str(), path: &value.path, stored: Stored::Value(item) });
    }
    for (number, tensor) in (0u32..).zip(&target.tensors) {
        let TargetTensor { fqn, spec, path, .. } = tensor;
        let mut chunks = Vec::new();
        for (writer, region) in distinct(target.pieces(tensor)?) {
            let file = file_of(&mut files, writer)?;
            let item = file.add_chunk(number, spec, &region).ok_or_else(|| Error::BadTensor {
                fqn: fqn.to_string(),
                message: format!("{} elements of shape {:?} do not fit a file", spec.dtype, region.extent),
            })?;
            chunks.push((region, item));
        }
        let stored = Stored::Tensor { dtype: spec.dtype, shape: &spec.shape, chunks };
        entries.push(Entry { fqn: fqn.as_str(), path, stored });
    }
    let metadata = encode(&entries);
    let (objects, items) = files.into_iter().map(|file| (file.object, file.items)).unzip();
    Ok(DcpDraft { objects, items, metadata })
}

/// Refuses what the format cannot hold.
fn check(target: &Target, options: &WriteOptions) -> Result<()> {
    if options.compress {
        let message = "checkpoints of format dcp are not compressed; choose another format";
        return Err(Error::Usage(message.to_owned()));
    }
    if let Some(name) = &options.file_name {
        return Err(Error::Usage(format!(
            "`{name}` is one file, but a checkpoint of format dcp is a folder"
        )));
    }
    let untyped = target.tensors.iter().filter(|tensor| tensor.spec.dtype.torch_name().is_none());
    let untyped = untyped.map(|tensor| format!("`{}` ({})", tensor.fqn, tensor.spec.dtype));
    let hint = "leave them out with --exclude, convert them with --dtype or choose another format";
    refuse("tensors of these element types", untyped.collect(), hint)?;
    let mut seen = HashSet::new();
    let names = target.tensors.iter().map(|tensor| &tensor.fqn).chain(target.values.iter().map(|v| &v.fqn));
    let repeated = names.filter(|&fqn| !seen.insert(fqn)).map(|fqn| format!("`{fqn}`")).collect();
    refuse("two entries of one name", repeated, "rename them")
}

/// The archive of every value: as the source has it, else a new one.
fn archives(target: &Target) -> Result<Vec<Vec<u8>>> {
    let (mut archives, mut refused) = (Vec::with_capacity(target.values.len()), Vec::new());
    for value in &target.values {
        let archive = value.archive.clone().map_or_else(|| archive::encode(&value.value), Ok);
        match archive {
            Ok(archive) => archives.push(archive),
            Err(why) => refused.push(format!("`{}` ({why})", value.fqn)),
        }
    }
    refuse("these values", refused, "leave them out with --exclude")?;
    Ok(archives)
}

fn refuse(what: &'static str, names: Vec<String>, hint: &'static str) -> Result<()> {
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::Inexpressible { format: super::NAME, what, names: names.join(", "), hint }),
    }
}

/// The pieces without empty ones whose corner another piece has: items are found by name and corner.
fn distinct(pieces: Vec<(u32, Region)>) -> Vec<(u32, Region)> {
    if !pieces.iter().any(|(_, region)| region.is_empty()) {
        return pieces;
    }
    let full = pieces.iter().filter(|(_, region)| !region.is_empty());
    let mut corners: HashSet<Vec<u64>> = full.map(|(_, region)| region.start.clone()).collect();
    let kept = |region: &Region, corners: &mut HashSet<Vec<u64>>| {
        !region.is_empty() || corners.insert(region.start.clone())
    };
    pieces.into_iter().filter(|(_, region)| kept(region, &mut corners)).collect()
}

fn file_of(files: &mut [File], writer: u32) -> Result<&mut File> {
    let count = files.len();
    files.get_mut(writer as usize).ok_or_else(|| {
        Error::Usage(format!("a piece belongs to writer {writer}, but there are {count} writers"))
    })
}

/// The file of one writer, as far as it is laid out.
struct File {
    object: ObjectDraft,
    items: Vec<TensorItem>,
}

impl File {
    fn new(writer: u32, attempt: Option<&Attempt>) -> Result<File> {
        let folder = attempt.map_or(Ok(Key::root()), |attempt| Key::new(&*attempt.id))?;
        let key = folder.join(&data_file(writer))?;
        let object = ObjectDraft { key, writer, byte_len: 0, fixed: Vec::new(), placed: Vec::new() };
        Ok(File { object, items: Vec::new() })
    }

    fn placed(&self, byte_offset: u64) -> PlacedItem {
        let file = self.object.key.as_str().to_owned();
        PlacedItem { file, byte_offset, byte_len: self.object.byte_len - byte_offset }
    }

    fn add_value(&mut self, archive: Vec<u8>) -> PlacedItem {
        let byte_offset = self.object.byte_len;
        self.object.byte_len += archive.len() as u64;
        self.object.fixed.push(Patch { byte_offset, bytes: archive });
        self.placed(byte_offset)
    }

    /// Adds the item of a chunk; `None` where the file grows past 2^62 bytes.
    fn add_chunk(&mut self, tensor: u32, spec: &TensorSpec, region: &Region) -> Option<PlacedItem> {
        let byte_offset = self.object.byte_len;
        let item = TensorItem::place(&TensorSpec::new(spec.dtype, region.extent.as_slice()), byte_offset)?;
        let base = item.base;
        // The gap is written too: an upload waits for every byte of a part.
        if base > byte_offset {
            let bytes = vec![0; (base - byte_offset) as usize];
            self.object.fixed.push(Patch { byte_offset, bytes });
        }
        self.object.byte_len = item.end();
        self.object.fixed.extend(item.layout.fixed(base));
        if !region.is_empty() {
            let (region, byte_offset) = (region.clone(), item.data_start());
            self.object.placed.push(PlacedRegion { tensor, region, byte_offset });
            self.items.push(item);
        }
        Some(self.placed(base))
    }
}
