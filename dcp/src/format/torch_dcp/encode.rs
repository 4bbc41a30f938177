//! Writes the pickle of a `.metadata` file; see [`super::metadata`] for its shape.
//!
//! What is written is what PyTorch 2.4 to 2.15 all read: protocol 2, five properties, no transforms.

use crate::format::wire::pickle_write::PickleWriter;
use crate::layout::Region;
use crate::model::{DType, Path, PathPart};

const CLASSES: &str = "torch.distributed.checkpoint.metadata";

/// Where an item was placed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct PlacedItem {
    pub(super) file: String,
    pub(super) byte_offset: u64,
    pub(super) byte_len: u64,
}

/// One entry of the metadata.
#[derive(Debug)]
pub(super) struct Entry<'a> {
    pub(super) fqn: &'a str,
    pub(super) path: &'a Path,
    pub(super) stored: Stored<'a>,
}

#[derive(Debug)]
pub(super) enum Stored<'a> {
    Tensor { dtype: DType, shape: &'a [u64], chunks: Vec<(Region, PlacedItem)> },
    Value(PlacedItem),
}

/// The bytes of `.metadata`.
///
/// Panics: for an element type that PyTorch lacks, which the caller refuses.
pub(super) fn encode(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut writer = PickleWriter::new();
    writer.new_object(CLASSES, "Metadata");
    writer.build(|writer| {
        writer.dict(|writer| {
            writer.key("state_dict_metadata");
            writer.dict(|writer| entries.iter().for_each(|entry| state(writer, entry)));
            writer.key("planner_data");
            writer.dict(|writer| entries.iter().for_each(|entry| path(writer, entry)));
            writer.key("storage_data");
            writer.dict(|writer| entries.iter().for_each(|entry| places(writer, entry)));
            writer.key("storage_meta");
            writer.none();
            writer.key("version");
            writer.str("1.0.0");
        });
    });
    writer.finish()
}

fn state(writer: &mut PickleWriter, entry: &Entry<'_>) {
    writer.key(entry.fqn);
    let Stored::Tensor { dtype, shape, chunks } = &entry.stored else {
        writer.new_object(CLASSES, "BytesStorageMetadata");
        return;
    };
    writer.new_object(CLASSES, "TensorStorageMetadata");
    writer.build(|writer| {
        writer.dict(|writer| {
            writer.key("properties");
            properties(writer, *dtype);
            writer.key("size");
            writer.size(shape);
            writer.key("chunks");
            writer.list(|writer| chunks.iter().for_each(|(region, _)| chunk(writer, region)));
        });
    });
}

fn properties(writer: &mut PickleWriter, dtype: DType) {
    writer.new_object(CLASSES, "TensorProperties");
    writer.build(|writer| {
        writer.tuple(5, |writer| {
            writer.global("torch", dtype.torch_name().expect("types that torch lacks were refused"));
            writer.call("torch.serialization", "_get_layout", 1, |writer| writer.key("torch.strided"));
            writer.bool(false);
            // Contiguous.
            writer.call(CLASSES, "_MEM_FORMAT_ENCODING", 1, |writer| writer.int(0));
            writer.bool(false);
        });
    });
}

fn chunk(writer: &mut PickleWriter, region: &Region) {
    writer.new_object(CLASSES, "ChunkStorageMetadata");
    writer.build(|writer| {
        writer.dict(|writer| {
            writer.key("offsets");
            writer.size(&region.start);
            writer.key("sizes");
            writer.size(&region.extent);
        });
    });
}

fn path(writer: &mut PickleWriter, entry: &Entry<'_>) {
    writer.key(entry.fqn);
    if entry.path.is_empty() {
        return writer.tuple(1, |writer| writer.key(entry.fqn));
    }
    writer.tuple(entry.path.len(), |writer| {
        for part in entry.path {
            match part {
                PathPart::Key(key) => writer.key(key),
                PathPart::Index(index) => writer.u64(*index),
            }
        }
    });
}

fn places(writer: &mut PickleWriter, entry: &Entry<'_>) {
    match &entry.stored {
        Stored::Value(item) => {
            index(writer, entry.fqn, None);
            place(writer, item);
        }
        Stored::Tensor { chunks, .. } => {
            for (number, (region, item)) in (0..).zip(chunks) {
                index(writer, entry.fqn, Some((number, region)));
                place(writer, item);
            }
        }
    }
}

/// The key of an item: for a value without the field `offset`, as torch leaves it out.
fn index(writer: &mut PickleWriter, fqn: &str, chunk: Option<(u64, &Region)>) {
    writer.new_object(CLASSES, "MetadataIndex");
    writer.build(|writer| {
        writer.dict(|writer| {
            writer.key("fqn");
            writer.key(fqn);
            writer.key("index");
            match chunk {
                Some((number, region)) => {
                    writer.u64(number);
                    writer.key("offset");
                    writer.size(&region.start);
                }
                None => writer.none(),
            }
        });
    });
}

fn place(writer: &mut PickleWriter, item: &PlacedItem) {
    writer.new_object("torch.distributed.checkpoint.filesystem", "_StorageInfo");
    writer.build(|writer| {
        writer.dict(|writer| {
            writer.key("relative_path");
            writer.key(&item.file);
            writer.key("offset");
            writer.u64(item.byte_offset);
            writer.key("length");
            writer.u64(item.byte_len);
        });
    });
}
