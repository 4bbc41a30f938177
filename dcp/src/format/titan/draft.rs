//! Lays a checkpoint of this format out, and commits it.

use super::fit::fit;
use super::manifest::{self, Head, ValueRow, WriterRow};
use super::part::{self, Part, PartObject};
use super::placement::AxisRule;
use super::shard::lay_out;
use super::table::{BadRow, Boxes, Class, Row, Table, WRITERS_MAX, grid};
use super::{FORMAT_NAME, VERSION, crc64, header, value};
use crate::error::{Error, Result};
use crate::format::{
    ChecksumKind, Draft, ObjectDraft, ObjectSums, Patch, Pieces, PlacedRegion, Target, WriteOptions,
};
use crate::layout::{Layout, Mesh};
use crate::storage::{Key, Storage};
use indexmap::IndexSet;
use std::collections::HashSet;
use std::sync::Arc;

/// Bytes of a checksummed block.
const BLOCK_BYTES: u64 = 1 << 20;
/// Most bytes of tensor data in one object of several boxes.
const OBJECT_BYTES_MAX: u64 = 1 << 40;

/// A laid-out checkpoint.
#[derive(Debug)]
pub(super) struct TitanDraft {
    objects: Vec<ObjectDraft>,
    /// Per writer: its number of objects.
    counts: Vec<usize>,
    head: Head,
    table: Table,
    values: Vec<ValueRow>,
}

/// Lays the target out; see [`Format::draft`](crate::format::Format::draft).
pub(super) fn draft(target: &Target, options: &WriteOptions) -> Result<TitanDraft> {
    check(target, options)?;
    let values = target.values.iter().map(value_row).collect::<Result<_>>()?;
    let bad = |BadRow { fqn, why }| Error::BadTensor { fqn: fqn.to_string(), message: why };
    let grid = grid(target.mesh.as_ref(), target.writers);
    let (classes, rows) = rows(target, &grid)?;
    let table = Table::new(grid, target.writers, OBJECT_BYTES_MAX, classes, rows).map_err(bad)?;
    let attempt = uuid::Uuid::new_v4().simple().to_string();
    let (mut objects, mut counts) = (Vec::new(), Vec::new());
    for writer in 0..target.writers {
        let pieces = table.pieces(writer).map_err(bad)?;
        let shards = lay_out(&table, &pieces).map_err(bad)?;
        counts.push(shards.len());
        for (sequence, shard) in shards.iter().enumerate() {
            let bytes = header::encode(&table, &pieces, shard, VERSION, &attempt);
            let data_start = bytes.len() as u64;
            let placed = shard.placed.iter().map(|&(index, byte_offset)| PlacedRegion {
                tensor: pieces[index as usize].tensor,
                region: pieces[index as usize].region.clone(),
                byte_offset: data_start + byte_offset,
            });
            objects.push(ObjectDraft {
                key: Key::new(object_name(&attempt, writer, sequence))?,
                byte_len: data_start + shard.data_bytes,
                placed: placed.collect(),
                fixed: vec![Patch { byte_offset: 0, bytes }],
            });
        }
    }
    let head = Head {
        attempt,
        generation: 0,
        producer: concat!("titan-ckpt ", env!("CARGO_PKG_VERSION")).to_owned(),
        step: target.step,
        mesh: target.mesh.clone(),
        compressed: false,
        block_bytes: BLOCK_BYTES,
    };
    Ok(TitanDraft { objects, counts, head, table, values })
}

/// Name of an object of a writer.
pub(super) fn object_name(attempt: &str, writer: u32, sequence: usize) -> String {
    format!("{attempt}/r{writer:05}-{sequence:04}.safetensors")
}

/// Name of a writer's part record.
pub(super) fn part_name(attempt: &str, writer: u32) -> String {
    format!("{attempt}/r{writer:05}.part.json")
}

fn check(target: &Target, options: &WriteOptions) -> Result<()> {
    if options.compress {
        let why = "this version writes titan checkpoints uncompressed only; leave compression out";
        return Err(Error::Usage(why.to_owned()));
    }
    if let Some(name) = &options.file_name {
        return Err(Error::Usage(format!(
            "`{name}` is one file, a titan checkpoint a folder; name a folder"
        )));
    }
    let ranks = target.mesh.as_ref().map_or(0, |mesh| mesh.ranks()).max(target.writers);
    if ranks > WRITERS_MAX {
        let (object, what) = ("titan checkpoint".to_owned(), "its number of ranks");
        return Err(Error::OverLimit { object, what, found: ranks.into(), limit: WRITERS_MAX.into() });
    }
    let mut seen = HashSet::new();
    let names = target.tensors.iter().map(|row| &row.fqn).chain(target.values.iter().map(|row| &row.fqn));
    let twice: Vec<_> = names.filter(|fqn| !seen.insert(*fqn)).map(|fqn| format!("`{fqn}`")).collect();
    match twice.is_empty() {
        true => Ok(()),
        false => Err(Error::Inexpressible {
            format: FORMAT_NAME,
            what: "repeated names",
            names: twice.join(", "),
            hint: "rename them",
        }),
    }
}

fn value_row(row: &crate::format::TargetValue) -> Result<ValueRow> {
    let json = value::encode(&row.value, row.archive.as_deref()).ok_or_else(|| Error::Inexpressible {
        format: FORMAT_NAME,
        what: "values of this kind",
        names: format!("`{}`", row.fqn),
        hint: "leave them out with --exclude",
    })?;
    Ok(ValueRow { fqn: row.fqn.clone(), path: row.path.clone(), json })
}

fn rows(target: &Target, grid: &Arc<Mesh>) -> Result<(Vec<Class>, Vec<Row>)> {
    let mut classes = IndexSet::new();
    let mut rows = Vec::with_capacity(target.tensors.len());
    for tensor in &target.tensors {
        let shape = &tensor.spec.shape;
        let own_mesh = target.mesh.as_ref().is_some_and(|mesh| Arc::ptr_eq(mesh, grid));
        let placed = match &tensor.pieces {
            Pieces::Placed { placements, owner } if own_mesh => {
                let layout = Layout::new(grid.clone(), placements.clone(), shape.clone())?;
                let rules = placements.iter().zip(owner).map(|(&rule, &own)| AxisRule::new(rule, own));
                Some((Class { rules: rules.collect(), inferred: false }, layout))
            }
            _ => fit(grid, shape, &target.pieces(tensor)?)
                .map(|(rules, layout)| (Class { rules, inferred: true }, layout)),
        };
        let boxes = match placed {
            Some((class, layout)) => Boxes::Placed { class: classes.insert_full(class).0 as u32, layout },
            None => {
                let boxes = target.pieces(tensor)?;
                manifest::tiling(shape, &boxes)
                    .map_err(|message| Error::BadTensor { fqn: tensor.fqn.to_string(), message })?;
                Boxes::Listed(boxes)
            }
        };
        let (fqn, spec, path) = (tensor.fqn.clone(), tensor.spec.clone(), tensor.path.clone());
        rows.push(Row { fqn, spec, path, boxes });
    }
    Ok((classes.into_iter().collect(), rows))
}

impl Draft for TitanDraft {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    fn checksums(&self) -> ChecksumKind {
        ChecksumKind::Crc64Blocks { block_bytes: BLOCK_BYTES }
    }

    /// Puts the part records, then the manifest, which makes the checkpoint exist.
    fn commit(&self, store: &dyn Storage, root: &Key, sums: &[ObjectSums]) -> Result<()> {
        let mut left = self.objects.iter().zip(sums);
        let mut writers = Vec::with_capacity(self.counts.len());
        for (writer, &count) in (0..).zip(&self.counts) {
            if count == 0 {
                writers.push(None);
                continue;
            }
            let (mut objects, mut extents) = (Vec::new(), Vec::new());
            for (object, sums) in left.by_ref().take(count) {
                let header = &object.fixed[0].bytes;
                objects.push(PartObject::Plain { header_crc64: crc64(header), blocks: sums.blocks.concat() });
                extents.push((object.byte_len, header.len() as u64));
            }
            let bytes = part::encode(&self.head.attempt, writer, &Part { objects });
            store.put(&root.join(&part_name(&self.head.attempt, writer))?, &bytes)?;
            let (part_byte_len, part_crc64) = (bytes.len() as u64, crc64(&bytes));
            writers.push(Some(WriterRow { part_byte_len, part_crc64, objects: extents }));
        }
        let bytes = manifest::encode(&self.head, &self.table, &self.values, &writers);
        store.put(&root.join("titan-0000.json")?, &bytes)
    }
}
