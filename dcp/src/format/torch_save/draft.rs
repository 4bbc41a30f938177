//! Lays a checkpoint out as one `torch.save` file.

use super::flatten::{Tree, build};
use crate::error::{Error, Result};
use crate::format::wire::pickle_write::PickleWriter;
use crate::format::wire::tensor::write_tensor;
use crate::format::wire::value_write::write_value;
use crate::format::wire::zip_write::{ALIGN_BYTES, Contents, NewRecord, ZipLayout};
use crate::format::{
    ChecksumKind, Draft, ObjectDraft, ObjectSums, Patch, PlacedRegion, Target, WriteOptions,
};
use crate::layout::Region;
use crate::storage::Key;

/// Name of the file in a folder.
const FILE_NAME: &str = "model.pt";
/// Data of this size and more starts at a page, for direct writes and memory maps.
const LARGE_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

/// A laid-out file.
#[derive(Debug)]
pub(super) struct TorchSaveDraft {
    objects: Vec<ObjectDraft>,
    layout: ZipLayout,
    /// The record of each placed region.
    records: Vec<usize>,
}

impl Draft for TorchSaveDraft {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    fn checksums(&self) -> ChecksumKind {
        ChecksumKind::Crc32
    }

    fn late_of_region(&self, _index: usize, placed: usize, crc32: u32) -> Vec<Patch> {
        self.layout.late_descriptor(0, self.records[placed], crc32)
    }

    fn late(&self, _index: usize, sums: &ObjectSums) -> Vec<Patch> {
        self.layout.late_directory(0, &sums.crc32)
    }

    /// The file is all there is.
    fn seal(&self, _records: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>> {
        Ok(Vec::new())
    }
}

/// Lays the target out; see [`Format::draft`](crate::format::Format::draft).
pub(super) fn draft(target: &Target, options: &WriteOptions) -> Result<TorchSaveDraft> {
    if options.compress || options.sharded {
        let why = "a torch.save file is neither compressed nor sharded; choose another format";
        return Err(Error::Usage(why.to_owned()));
    }
    check(target)?;
    let file_name = options.file_name.as_deref().unwrap_or(FILE_NAME);
    let paths = target.tensors.iter().map(|tensor| (tensor.fqn.as_str(), &tensor.path));
    let paths = paths.chain(target.values.iter().map(|value| (value.fqn.as_str(), &value.path)));
    let tree = build(paths).map_err(|fqn| Error::BadTensor {
        fqn,
        message: "its place in the nested dict is inside another entry, taken, or too deep; exclude it"
            .to_owned(),
    })?;
    let mut pickler = Pickler { target, storages: Vec::new(), refused: Vec::new() };
    let mut writer = PickleWriter::new();
    pickler.tree(&mut writer, &tree);
    refuse("entries of these kinds", pickler.refused)?;
    Ok(lay_out(target, file_name, writer.finish(), pickler.storages))
}

/// Refuses what the format cannot hold, by name.
fn check(target: &Target) -> Result<()> {
    let untyped: Vec<_> = target
        .tensors
        .iter()
        .filter(|tensor| tensor.spec.dtype.torch_name().is_none() || tensor.spec.bytes().is_none())
        .map(|tensor| format!("{} ({})", tensor.fqn, tensor.spec.dtype))
        .collect();
    let opaque: Vec<_> = target
        .values
        .iter()
        .filter(|value| value.value.is_opaque())
        .map(|value| format!("{} ({})", value.fqn, value.value.py_repr()))
        .collect();
    refuse("tensors of these element types", untyped)?;
    refuse("values of types that are carried unread", opaque)
}

/// An error that lists names, where there are any.
fn refuse(what: &'static str, names: Vec<String>) -> Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let (names, hint) = (names.join(", "), "leave them out with --exclude or choose another format");
    Err(Error::Inexpressible { format: super::NAME, what, names, hint })
}

/// What one storage holds.
enum Content {
    Tensor(u32),
    Inline(Vec<u8>),
}

/// Writes the nested object; storages are numbered as they appear.
struct Pickler<'a> {
    target: &'a Target,
    storages: Vec<Content>,
    /// Names of what cannot be written, each with the reason.
    refused: Vec<String>,
}

impl Pickler<'_> {
    fn tree(&mut self, writer: &mut PickleWriter, tree: &Tree) {
        match tree {
            Tree::Dict(entries) => writer.dict(|writer| {
                for (key, child) in entries {
                    writer.str(key);
                    self.tree(writer, child);
                }
            }),
            Tree::List(items) => writer.list(|writer| {
                let mut next = 0;
                for (&index, child) in items {
                    // Holes are as PyTorch leaves them. A path from a hostile file must not ask for 2^60 of them.
                    const HOLES_MAX: u64 = 1 << 16;
                    if index - next > HOLES_MAX {
                        self.refused.push(format!("a list whose index jumps from {next} to {index}"));
                        return;
                    }
                    (next..index).for_each(|_| writer.none());
                    self.tree(writer, child);
                    next = index + 1;
                }
            }),
            Tree::Leaf(number) => self.leaf(writer, *number),
        }
    }

    fn leaf(&mut self, writer: &mut PickleWriter, number: usize) {
        let outcome = match number.checked_sub(self.target.tensors.len()) {
            None => {
                let outcome =
                    write_tensor(writer, &self.target.tensors[number].spec, &self.storages.len().to_string());
                self.storages.push(Content::Tensor(number as u32));
                outcome
            }
            Some(value) => write_value(writer, &self.target.values[value].value, &mut |writer, tensor| {
                write_tensor(writer, &tensor.spec, &self.storages.len().to_string())?;
                self.storages.push(Content::Inline(tensor.bytes.clone()));
                Ok(())
            }),
        };
        if let Err(why) = outcome {
            let values = number.checked_sub(self.target.tensors.len());
            let fqn = match values {
                None => &self.target.tensors[number].fqn,
                Some(value) => &self.target.values[value].fqn,
            };
            self.refused.push(format!("{fqn} ({why})"));
        }
    }
}

fn lay_out(target: &Target, file_name: &str, data: Vec<u8>, storages: Vec<Content>) -> TorchSaveDraft {
    let small = |name: &str, bytes: Vec<u8>| NewRecord {
        name: name.to_owned(),
        contents: Contents::Known(bytes),
        align_bytes: ALIGN_BYTES,
    };
    let mut records = vec![small("data.pkl", data), small("byteorder", b"little".to_vec())];
    let mut placed = Vec::new();
    for (key, storage) in storages.into_iter().enumerate() {
        let name = format!("data/{key}");
        match storage {
            Content::Inline(bytes) => records.push(small(&name, bytes)),
            Content::Tensor(tensor) => {
                let byte_len = target.tensors[tensor as usize].spec.bytes().unwrap_or(0);
                let align_bytes = if byte_len >= LARGE_BYTES { PAGE_BYTES } else { ALIGN_BYTES };
                placed.push((records.len(), tensor));
                records.push(NewRecord { name, contents: Contents::Later { byte_len }, align_bytes });
            }
        }
    }
    records.push(small("version", b"3\n".to_vec()));
    let layout = ZipLayout::new(&prefix(file_name), records);
    let records = placed.iter().map(|&(record, _)| record).collect();
    let placed = placed
        .into_iter()
        .map(|(record, tensor)| PlacedRegion {
            tensor,
            region: Region::whole(&target.tensors[tensor as usize].spec.shape),
            byte_offset: layout.data_offset(record),
        })
        .collect();
    let key = Key::new(file_name).unwrap_or_else(|_| Key::root());
    let object = ObjectDraft { key, writer: 0, byte_len: layout.byte_len(), fixed: layout.fixed(0), placed };
    TorchSaveDraft { objects: vec![object], layout, records }
}

/// The folder inside the archive: the file's stem, as `torch.save` names it.
fn prefix(file_name: &str) -> String {
    let stem = file_name.rsplit_once('.').map_or(file_name, |(stem, _)| stem);
    let plain = !stem.is_empty() && stem.is_ascii() && !stem.contains('/');
    if plain { stem.to_owned() } else { "archive".to_owned() }
}
