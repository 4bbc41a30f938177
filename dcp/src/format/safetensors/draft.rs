//! Lays a checkpoint of this format out in files.

use super::boxes::{Corners, SHARDING_KEY};
use super::encode::{DATA_ALIGNMENT_BYTES, NewTensor, encode, library_dtype, stored_spec};
use super::header::METADATA_KEY;
use super::index;
use super::names::{self, INDEX_SUFFIX, STEM, SUFFIX};
use super::shards;
use super::split::split;
use crate::error::{Error, Result};
use crate::format::{Draft, ObjectDraft, Patch, PlacedRegion, Target, TargetTensor, WriteOptions};
use crate::layout::Region;
use crate::storage::Key;
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashSet};

/// A laid-out checkpoint.
#[derive(Debug)]
pub(super) struct SafetensorsDraft {
    objects: Vec<ObjectDraft>,
    /// Name and text of the index, for a checkpoint of several files of whole tensors.
    index: Option<(String, String)>,
}

impl Draft for SafetensorsDraft {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    /// The index, where there is one, so that it never names a file that is not there.
    fn seal(&self, _records: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>> {
        let index = self.index.iter().map(|(name, text)| Ok((Key::new(&**name)?, text.clone().into_bytes())));
        index.collect()
    }
}

/// Lays the target out; see [`Format::draft`](crate::format::Format::draft).
pub(super) fn draft(target: &Target, options: &WriteOptions) -> Result<SafetensorsDraft> {
    check(target)?;
    check_options(options)?;
    if options.sharded { draft_shards(target) } else { draft_whole(target, options) }
}

/// Refuses what the format cannot hold.
fn check(target: &Target) -> Result<()> {
    let values: Vec<_> = target.values.iter().map(|value| format!("`{}`", value.fqn)).collect();
    let hint = "leave them out with --exclude or choose another format";
    refuse("values that are no tensors", values, hint)?;
    let untyped = target.tensors.iter().filter(|tensor| {
        // A spec whose bytes overflow is refused below, with a better reason.
        tensor.spec.bytes().is_some() && stored_spec(tensor.spec.dtype, &tensor.spec.shape).is_none()
    });
    let untyped =
        untyped.map(|tensor| format!("`{}` ({}, {}-d)", tensor.fqn, tensor.spec.dtype, dims(tensor)));
    let hint = "leave them out with --exclude, convert them with --dtype or choose another format";
    refuse("tensors of these element types", untyped.collect(), hint)?;
    let mut seen = HashSet::new();
    let reserved = target
        .tensors
        .iter()
        .filter(|tensor| tensor.fqn.as_str() == METADATA_KEY || !seen.insert(tensor.fqn.as_str()));
    let reserved = reserved.map(|tensor| format!("`{}`", tensor.fqn)).collect();
    refuse("tensors of a reserved or repeated name", reserved, "rename them")?;
    match target.tensors.iter().find(|tensor| tensor.spec.bytes().is_none()) {
        Some(TargetTensor { fqn, spec, .. }) => Err(Error::BadTensor {
            fqn: fqn.to_string(),
            message: format!(
                "{} elements of shape {:?} are no whole number of bytes under 2^64",
                spec.dtype, spec.shape
            ),
        }),
        None => Ok(()),
    }
}

fn dims(tensor: &TargetTensor) -> usize {
    tensor.spec.shape.len()
}

fn refuse(what: &'static str, names: Vec<String>, hint: &'static str) -> Result<()> {
    match names.is_empty() {
        true => Ok(()),
        false => Err(Error::Inexpressible { format: super::NAME, what, names: names.join(", "), hint }),
    }
}

fn check_options(options: &WriteOptions) -> Result<()> {
    if options.compress {
        return Err(Error::Usage("safetensors files cannot be compressed; choose another format".to_owned()));
    }
    match &options.file_name {
        Some(name) if options.sharded => Err(Error::Usage(format!(
            "`{name}` is one file, but a sharded checkpoint has one file per writer; name a folder"
        ))),
        _ => Ok(()),
    }
}

/// Files of whole tensors: one, or several with an index.
fn draft_whole(target: &Target, options: &WriteOptions) -> Result<SafetensorsDraft> {
    let byte_lens: Vec<u64> = target.tensors.iter().filter_map(|tensor| tensor.spec.bytes()).collect();
    let total_bytes = byte_lens.iter().try_fold(0u64, |total, &byte_len| total.checked_add(byte_len));
    let total_bytes = total_bytes.unwrap_or(u64::MAX);
    let parts = |tensors: &[usize]| {
        tensors
            .iter()
            .map(|&at| Part { tensor: at, region: Region::whole(&target.tensors[at].spec.shape) })
            .collect()
    };
    let stem = options.stem.as_deref().unwrap_or(STEM);
    let limit = options.shard_bytes_max.filter(|&limit| options.file_name.is_none() && total_bytes > limit);
    let files = limit.map(|limit| split(&byte_lens, limit)).unwrap_or_default();
    if files.len() < 2 {
        let name = options.file_name.clone().unwrap_or_else(|| format!("{stem}{SUFFIX}"));
        let every: Vec<usize> = (0..target.tensors.len()).collect();
        return Ok(SafetensorsDraft {
            objects: vec![lay_out(target, (&name, 0), parts(&every), None)?],
            index: None,
        });
    }
    let names: Vec<String> =
        (1..=files.len()).map(|number| names::numbered(stem, number, files.len())).collect();
    let mut weight_map = BTreeMap::new();
    let mut objects = Vec::with_capacity(files.len());
    for (name, tensors) in names.iter().zip(&files) {
        weight_map.extend(tensors.iter().map(|&at| (target.tensors[at].fqn.as_str(), name.as_str())));
        objects.push(lay_out(target, (name, 0), parts(tensors), None)?);
    }
    Ok(SafetensorsDraft {
        objects,
        index: Some((format!("{stem}{INDEX_SUFFIX}"), index::encode(total_bytes, &weight_map))),
    })
}

/// One file of boxes per writer, as PyTorch's HuggingFaceStorageWriter makes them with `save_distributed`. A header
/// can name a tensor once only, so boxes of one tensor that do not join to one go to further files of that writer.
fn draft_shards(target: &Target) -> Result<SafetensorsDraft> {
    let mut files: BTreeMap<(u32, usize), Vec<Part>> = BTreeMap::new();
    for (at, tensor) in target.tensors.iter().enumerate() {
        for (writer, regions) in shards::boxes(target, tensor)? {
            for (number, region) in regions.into_iter().enumerate() {
                files.entry((writer, number + 1)).or_default().push(Part { tensor: at, region });
            }
        }
    }
    if files.is_empty() {
        files.insert((0, 1), Vec::new());
    }
    let count = files.keys().map(|(_, number)| *number).max().unwrap_or(1);
    let objects = files.into_iter().map(|((writer, number), parts)| {
        let starts = parts.iter().map(|part| (target.tensors[part.tensor].fqn.as_str(), &*part.region.start));
        let corners = Corners::write(starts);
        lay_out(target, (&names::shard(writer, number, count), writer), parts, Some(&corners))
    });
    Ok(SafetensorsDraft { objects: objects.collect::<Result<_>>()?, index: None })
}

/// What a file holds of a tensor.
struct Part {
    /// Index into [`Target::tensors`].
    tensor: usize,
    region: Region,
}

/// Lays one file out. The order of the data is the library's: the types that need the widest alignment first, then by
/// name; each tensor is then aligned to its elements.
fn lay_out(
    target: &Target,
    (name, writer): (&str, u32),
    mut parts: Vec<Part>,
    corners: Option<&str>,
) -> Result<ObjectDraft> {
    parts.sort_by_key(|part| {
        let TargetTensor { fqn, spec, .. } = &target.tensors[part.tensor];
        (Reverse(library_dtype(spec.dtype)), fqn)
    });
    let tensors: Vec<_> = parts
        .iter()
        .map(|part| {
            let TargetTensor { fqn, spec, .. } = &target.tensors[part.tensor];
            NewTensor { name: fqn.as_str(), dtype: spec.dtype, shape: &part.region.extent }
        })
        .collect();
    let metadata = match corners {
        Some(corners) => vec![(SHARDING_KEY, corners), ("DCP_VERSION", "1.0"), ("format", "pt")],
        None => vec![("format", "pt")],
    };
    let header = encode(name, &metadata, &tensors, DATA_ALIGNMENT_BYTES)?;
    let placed = parts.into_iter().zip(header.data).map(|(Part { tensor, region }, bytes)| PlacedRegion {
        tensor: tensor as u32,
        region,
        byte_offset: bytes.start,
    });
    Ok(ObjectDraft {
        key: Key::new(name)?,
        writer,
        byte_len: header.end,
        placed: placed.collect(),
        fixed: vec![Patch { byte_offset: 0, bytes: header.bytes }],
    })
}
