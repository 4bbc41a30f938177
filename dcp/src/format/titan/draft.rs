//! Lays a target out, and completes it once its data is written.

use super::fit::fit;
use super::header::encode_header;
use super::manifest::{self, Head, MANIFEST_BYTES_MAX, ValueRow, WriterRow};
use super::manifest_check::tiling;
use super::part::{self, Part, PartObject};
use super::placement::AxisRule;
use super::shard::{Shard, WriterLayout, lay_out};
use super::table::{BadRow, Boxes, Class, Piece, Row, Table, WRITERS_MAX, grid};
use super::{BLOCK_BYTES, FORMAT_NAME, VERSION, codec, crc64, names, value};
use crate::error::{Error, Result};
use crate::format::{
    Attempt, ChecksumKind, Draft, ObjectDraft, ObjectSums, Patch, Pieces, PlacedRegion, Target, TargetTensor,
    WriteOptions,
};
use crate::layout::{Layout, Mesh, Placement, Region};
use crate::model::{DType, Path, PathPart};
use crate::storage::Key;
use indexmap::IndexSet;
use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use std::collections::HashSet;
use std::sync::Arc;

/// A laid-out checkpoint.
#[derive(Debug)]
pub(crate) struct TitanDraft {
    head: Head,
    table: Table,
    values: Vec<ValueRow>,
    /// Number of writers, those that hold nothing included.
    writers: u32,
    objects: Vec<ObjectDraft>,
}

/// Lays a target out for a new attempt.
///
/// Errors: [`Error::BadTensor`] for a tensor whose boxes do not tile it or that has no possible size;
/// [`Error::Inexpressible`] for a value that is neither decoded nor carried, and for a repeated name; [`Error::Usage`]
/// for too many writers.
pub(crate) fn draft(target: &Target, options: &WriteOptions) -> Result<TitanDraft> {
    check_names(target)?;
    if let Some(name) = &options.file_name {
        return Err(Error::Usage(format!(
            "`{name}` is one file, a titan checkpoint a folder; name a folder"
        )));
    }
    let ranks = target.mesh.as_ref().map_or(0, |mesh| mesh.ranks());
    if target.writers.max(ranks) > WRITERS_MAX {
        let found = target.writers.max(ranks);
        let why = format!("{found} writers or ranks are more than the {WRITERS_MAX} that titan admits");
        return Err(Error::Usage(why));
    }
    let own = || options.identity.map_or_else(|| Attempt::new(0), |identity| Attempt::of(0, identity));
    let attempt = options.attempt.clone().unwrap_or_else(own);
    let head = Head {
        attempt: attempt.id,
        generation: attempt.generation,
        producer: concat!("titan-ckpt ", env!("CARGO_PKG_VERSION")).to_owned(),
        step: target.step,
        mesh: target.mesh.clone(),
        compressed: options.compress,
        block_bytes: BLOCK_BYTES,
    };
    let table = table_of(target, options.shard_bytes_max.unwrap_or(u64::MAX))?;
    let values = target
        .values
        .iter()
        .map(|target| {
            let path = own_path(&target.path, target.fqn.as_str());
            Ok(ValueRow { fqn: target.fqn.clone(), path, json: value::encode(target)? })
        })
        .collect::<Result<_>>()?;
    let mut draft = TitanDraft { head, table, values, writers: target.writers, objects: Vec::new() };
    for writer in 0..target.writers {
        draft.add_writer(writer)?;
    }
    Ok(draft)
}

fn check_names(target: &Target) -> Result<()> {
    let mut seen = HashSet::new();
    let names = target.tensors.iter().map(|tensor| &tensor.fqn);
    let names = names.chain(target.values.iter().map(|value| &value.fqn));
    let repeated: Vec<_> =
        names.filter(|fqn| !seen.insert(fqn.as_str())).map(|fqn| format!("`{fqn}`")).collect();
    match repeated.is_empty() {
        true => Ok(()),
        false => Err(Error::Inexpressible {
            format: FORMAT_NAME,
            what: "two things of one name",
            names: repeated.join(", "),
            hint: "rename one of them",
        }),
    }
}

/// A path as it is stored: none where it is the single key that the FQN spells.
fn own_path(path: &Path, fqn: &str) -> Path {
    match &path[..] {
        [PathPart::Key(key)] if key == fqn => Vec::new(),
        _ => path.clone(),
    }
}

fn bad_tensor(BadRow { fqn, why }: BadRow) -> Error {
    Error::BadTensor { fqn: fqn.as_str().to_owned(), message: why }
}

pub(super) fn table_of(target: &Target, object_bytes_max: u64) -> Result<Table> {
    let grid = grid(target.mesh.as_ref(), target.writers);
    let mut classes: IndexSet<Class> = IndexSet::new();
    let mut rows = Vec::with_capacity(target.tensors.len());
    for tensor in &target.tensors {
        let mesh = target.mesh.as_ref().filter(|mesh| Arc::ptr_eq(mesh, &grid));
        let boxes = match (&tensor.pieces, mesh) {
            (Pieces::Placed { placements, owner }, Some(mesh)) => {
                let (rules, layout) = placed(tensor, mesh, placements, owner)?;
                placed_in(&mut classes, rules, layout, false)
            }
            _ => {
                let boxes = target.pieces(tensor)?;
                match fit_boxes(tensor, &grid, &boxes) {
                    Some((rules, layout)) => placed_in(&mut classes, rules, layout, true),
                    None => Boxes::Listed(boxes),
                }
            }
        };
        rows.push(Row {
            fqn: tensor.fqn.clone(),
            spec: tensor.spec.clone(),
            path: own_path(&tensor.path, tensor.fqn.as_str()),
            boxes,
        });
    }
    let classes = classes.into_iter().collect();
    let table = Table::new(grid, target.writers, object_bytes_max, classes, rows).map_err(bad_tensor)?;
    for row in table.rows() {
        if let Boxes::Listed(boxes) = &row.boxes {
            tiling(&row.spec.shape, boxes).map_err(|why| bad_tensor(BadRow::new(&row.fqn, why)))?;
        }
    }
    Ok(table)
}

/// Placements for listed boxes, where some give exactly these; boxes of the wrong rank are left to be refused.
fn fit_boxes(
    tensor: &TargetTensor,
    grid: &Arc<Mesh>,
    boxes: &[(u32, Region)],
) -> Option<(Vec<AxisRule>, Layout)> {
    let shape = &tensor.spec.shape;
    let ranks_match = boxes.iter().all(|(_, region)| region.rank() == shape.len());
    ranks_match.then(|| fit(grid, shape, boxes)).flatten()
}

fn placed_in(classes: &mut IndexSet<Class>, rules: Vec<AxisRule>, layout: Layout, inferred: bool) -> Boxes {
    let (class, _) = classes.insert_full(Class { rules, inferred });
    Boxes::Placed { class: class as u32, layout }
}

fn placed(
    tensor: &TargetTensor,
    mesh: &Arc<Mesh>,
    placements: &[Placement],
    owner: &[u32],
) -> Result<(Vec<AxisRule>, Layout)> {
    let layout = Layout::new(mesh.clone(), placements.to_vec(), tensor.spec.shape.clone())?;
    let inside = owner.len() == mesh.axes().len()
        && layout.replica_axes().all(|axis| owner[axis] < mesh.axes()[axis].size);
    if !inside {
        let why = format!("owner {owner:?} is no position on the mesh {:?}", mesh.axes());
        return Err(bad_tensor(BadRow::new(&tensor.fqn, why)));
    }
    let rules = placements.iter().zip(owner).map(|(&placement, &own)| AxisRule::new(placement, own));
    Ok((rules.collect(), layout))
}

impl TitanDraft {
    /// Lays one writer's objects out.
    fn add_writer(&mut self, writer: u32) -> Result<()> {
        let pieces = self.table.pieces(writer).map_err(bad_tensor)?;
        // What a reader could not count must not be written.
        if WriterLayout::new(&self.table, &pieces, BLOCK_BYTES).map_err(bad_tensor)?.is_none() {
            let why = format!("writer {writer} would have over 65536 objects; allow larger ones");
            return Err(Error::Usage(why));
        }
        for (sequence, shard) in (0..).zip(lay_out(&self.table, &pieces).map_err(bad_tensor)?) {
            let object = self.object(writer, sequence, &pieces, &shard)?;
            self.objects.push(object);
        }
        Ok(())
    }

    fn object(&self, writer: u32, sequence: u32, pieces: &[Piece], shard: &Shard) -> Result<ObjectDraft> {
        let key = names::object(&self.head.attempt, writer, sequence, self.head.compressed)?;
        let place = |data_start: u64| {
            let placed = shard.placed.iter().map(|&(index, data_offset)| {
                let piece = &pieces[index as usize];
                let (tensor, region) = (piece.tensor, piece.region.clone());
                PlacedRegion { tensor, region, byte_offset: data_start + data_offset }
            });
            placed.collect()
        };
        if self.head.compressed {
            return Ok(ObjectDraft { key, writer, byte_len: 0, fixed: Vec::new(), placed: place(0) });
        }
        let header = encode_header(key.as_str(), &self.table, pieces, shard, VERSION, &self.head.attempt)?;
        let (data_start, byte_len) = (header.bytes.len() as u64, header.end);
        let mut fixed = vec![Patch { byte_offset: 0, bytes: header.bytes }];
        // What aligns the data is written too: an upload waits for every byte of a part.
        let mut end = data_start;
        for &(index, data_offset) in &shard.placed {
            let byte_offset = data_start + data_offset;
            if byte_offset > end {
                fixed.push(Patch { byte_offset: end, bytes: vec![0; (byte_offset - end) as usize] });
            }
            end = byte_offset + pieces[index as usize].byte_len;
        }
        Ok(ObjectDraft { key, writer, byte_len, fixed, placed: place(data_start) })
    }

    /// What the manifest says of a writer whose part record these bytes are.
    ///
    /// Errors: [`Error::Malformed`] for a record of another writer, attempt or number of objects.
    fn row(&self, writer: u32, record: &[u8]) -> Result<WriterRow> {
        let objects = &self.objects[self.objects_of(writer)];
        let key = names::part(&self.head.attempt, writer)?;
        let stored = part::stored_bytes(key.as_str(), record, &self.head.attempt, writer, objects.len())?;
        let lengths = objects.iter().zip(stored).map(|(object, stored)| match object.fixed.first() {
            Some(header) => (object.byte_len, header.bytes.len() as u64),
            None => (stored, 0),
        });
        Ok(WriterRow {
            part_byte_len: record.len() as u64,
            part_crc64: crc64(record),
            objects: lengths.collect(),
        })
    }

    /// What a part record says of an object.
    ///
    /// Errors: [`Error::Malformed`] where less or more was measured than was laid out: the object is not complete.
    fn part_object(&self, object: &ObjectDraft, sums: &ObjectSums) -> Result<PartObject> {
        let dtype = |placed: &PlacedRegion| self.table.rows()[placed.tensor as usize].spec.dtype;
        let expected: Vec<u64> = object
            .placed
            .iter()
            .map(|placed| dtype(placed).bytes(placed.region.elements()).unwrap_or(0))
            .collect();
        let complete = if self.head.compressed {
            let raw =
                |frames: &Vec<crate::format::Frame>| frames.iter().map(|frame| frame.raw_bytes).sum::<u64>();
            sums.frames.iter().map(raw).eq(expected.iter().copied())
        } else {
            let blocks = |byte_len: &u64| byte_len.div_ceil(BLOCK_BYTES) as usize;
            sums.byte_len == object.byte_len
                && sums.blocks.iter().map(Vec::len).eq(expected.iter().map(blocks))
        };
        if !complete {
            let why = "what was written is not what was laid out";
            return Err(Error::malformed(object.key.as_str(), "titan object", why));
        }
        Ok(match object.fixed.first() {
            Some(header) => {
                PartObject::Plain { header_crc64: crc64(&header.bytes), blocks: sums.blocks.concat() }
            }
            None => PartObject::Frames(sums.frames.clone()),
        })
    }
}

impl Draft for TitanDraft {
    fn objects(&self) -> &[ObjectDraft] {
        &self.objects
    }

    fn checksums(&self) -> ChecksumKind {
        match self.head.compressed {
            true => ChecksumKind::None,
            false => ChecksumKind::Crc64Blocks { block_bytes: BLOCK_BYTES },
        }
    }

    fn compressed(&self) -> bool {
        self.head.compressed
    }

    fn encode(&self, dtype: DType, raw: &[u8], stored: &mut Vec<u8>) -> u8 {
        codec::encode(dtype, raw, stored)
    }

    fn writers(&self) -> u32 {
        self.writers
    }

    /// The part record.
    fn record(&self, writer: u32, sums: &[ObjectSums]) -> Result<Option<(Key, Vec<u8>)>> {
        let objects = &self.objects[self.objects_of(writer)];
        if objects.is_empty() {
            return Ok(None);
        }
        let objects = objects.iter().zip(sums).map(|(object, sums)| self.part_object(object, sums));
        let part = Part { objects: objects.collect::<Result<_>>()? };
        let bytes = part::encode(&self.head.attempt, writer, &part);
        Ok(Some((names::part(&self.head.attempt, writer)?, bytes)))
    }

    fn record_key(&self, writer: u32) -> Result<Option<Key>> {
        match self.objects_of(writer).is_empty() {
            true => Ok(None),
            false => names::part(&self.head.attempt, writer).map(Some),
        }
    }

    /// The manifest.
    fn seal(&self, records: &[Option<Vec<u8>>]) -> Result<Vec<(Key, Vec<u8>)>> {
        let rows = (0..self.writers).into_par_iter().zip(records);
        let rows = rows
            .map(|(writer, record)| record.as_ref().map(|record| self.row(writer, record)).transpose())
            .collect::<Result<Vec<_>>>()?;
        let bytes = manifest::encode(&self.head, &self.table, &self.values, &rows);
        let key = Key::new(names::manifest(self.head.generation))?;
        if bytes.len() as u64 > MANIFEST_BYTES_MAX {
            let (object, found) = (key.to_string(), bytes.len() as u64);
            let what = "its length in bytes";
            return Err(Error::OverLimit { object, what, found, limit: MANIFEST_BYTES_MAX });
        }
        Ok(vec![(key, bytes)])
    }
}
