//! Finds chunks in a manifest: boxes from placements, positions from each writer's layout, which is computed when it
//! is first needed and then kept.
//!
//! A load touches the few writers whose boxes overlap the wanted ones, so opening does not pay for the others.

use super::manifest::{Head, Manifest, ValueRow, WriterRow};
use super::shard::{PAGE_BYTES, Shard, Slot, WriterLayout, lay_out};
use super::table::{BadRow, Boxes, Table};
use crate::error::{Error, Result};
use crate::layout::Region;
use crate::model::{Chunk, ChunkLookup};
use std::sync::{Arc, OnceLock};

/// Longest header: safetensors' own limit on its JSON, and the length in front of it.
pub(crate) const HEADER_BYTES_MAX: u64 = 100_000_008;
/// What error messages call a manifest.
const WHAT: &str = "titan manifest";

/// An open manifest with the layouts computed so far.
#[derive(Debug)]
pub(crate) struct Index {
    /// Names the manifest in errors.
    pub(crate) manifest: String,
    pub(crate) head: Head,
    pub(crate) table: Table,
    pub(crate) values: Vec<ValueRow>,
    pub(crate) writers: Vec<Option<WriterRow>>,
    /// Coordinates of the written copy, per class.
    owners: Vec<Vec<u32>>,
    /// Position of every writer's first object among all objects, and their number.
    first_objects: Vec<u32>,
    layouts: Box<[OnceLock<WriterLayout>]>,
}

impl Index {
    /// Errors: [`Error::OverLimit`] for more objects than can be counted.
    pub(crate) fn new(manifest: String, parsed: Manifest) -> Result<Self> {
        let Manifest { head, table, values, writers } = parsed;
        let mut first_objects = Vec::with_capacity(writers.len() + 1);
        let mut objects = 0u64;
        for row in &writers {
            first_objects.push(objects as u32);
            objects += row.as_ref().map_or(0, |row| row.objects.len() as u64);
            if objects > u64::from(u32::MAX) {
                let (what, limit) = ("its number of objects", u64::from(u32::MAX));
                return Err(Error::OverLimit { object: manifest, what, found: objects, limit });
            }
        }
        first_objects.push(objects as u32);
        let owners = table.classes().iter().map(|class| class.owner()).collect();
        let layouts = writers.iter().map(|_| OnceLock::new()).collect();
        Ok(Index { manifest, head, table, values, writers, owners, first_objects, layouts })
    }

    /// An [`Error::Malformed`] of the manifest.
    pub(crate) fn malformed(&self, why: impl Into<String>) -> Error {
        Error::malformed(&self.manifest, WHAT, why)
    }

    /// Position of a writer's first object among all objects.
    pub(crate) fn first_object(&self, writer: u32) -> u32 {
        self.first_objects[writer as usize]
    }

    /// Number of objects of all writers.
    pub(crate) fn objects(&self) -> u32 {
        self.first_objects.last().copied().unwrap_or(0)
    }

    /// Position of a writer's part record among all objects, data objects coming first.
    pub(crate) fn part_object(&self, writer: u32) -> u32 {
        let earlier = self.writers[..writer as usize].iter().flatten().count();
        self.objects() + earlier as u32
    }

    /// Bytes of every box of every object of a writer, in stored order.
    pub(crate) fn box_bytes(&self, writer: u32) -> Result<Vec<Vec<u64>>> {
        let bad = |BadRow { fqn, why }| self.malformed(format!("tensor {fqn}: {why}"));
        let pieces = self.table.pieces(writer).map_err(bad)?;
        let shards = lay_out(&self.table, &pieces).map_err(bad)?;
        let of_shard =
            |shard: Shard| shard.placed.iter().map(|&(at, _)| pieces[at as usize].byte_len).collect();
        Ok(shards.into_iter().map(of_shard).collect())
    }

    /// Writer and sequence of an object; `None` for a position past the last.
    pub(crate) fn writer_of(&self, object: u32) -> Option<(u32, u32)> {
        if object >= self.objects() {
            return None;
        }
        let writer = self.first_objects.partition_point(|&first| first <= object) - 1;
        Some((writer as u32, object - self.first_objects[writer]))
    }

    /// What the manifest records of a writer.
    ///
    /// Errors: [`Error::Malformed`] for a writer without objects.
    pub(crate) fn row(&self, writer: u32) -> Result<&WriterRow> {
        let row = self.writers.get(writer as usize).and_then(Option::as_ref);
        row.ok_or_else(|| self.malformed(format!("writer {writer} holds data but has no objects")))
    }

    /// Length of an object, and position of its first byte of tensor data.
    pub(crate) fn extent(&self, writer: u32, sequence: u32) -> Result<(u64, u64)> {
        let object = self.row(writer)?.objects.get(sequence as usize);
        object.copied().ok_or_else(|| self.malformed(format!("writer {writer} has no object {sequence}")))
    }

    /// Where a writer's boxes are, checked against the lengths that the manifest records.
    ///
    /// Errors: [`Error::Malformed`] where the two differ.
    pub(crate) fn layout(&self, writer: u32) -> Result<&WriterLayout> {
        let known = self.layouts.get(writer as usize);
        let known = known.ok_or_else(|| self.malformed(format!("there is no writer {writer}")))?;
        if let Some(layout) = known.get() {
            return Ok(layout);
        }
        let bad = |BadRow { fqn, why }| self.malformed(format!("tensor {fqn}: {why}"));
        self.row(writer)?;
        let pieces = self.table.pieces(writer).map_err(bad)?;
        let layout = WriterLayout::new(&self.table, &pieces, self.head.block_bytes).map_err(bad)?;
        let layout = layout
            .ok_or_else(|| self.malformed(format!("writer {writer} has too many objects or blocks")))?;
        self.check_layout(writer, &layout)?;
        Ok(known.get_or_init(|| layout))
    }

    fn check_layout(&self, writer: u32, layout: &WriterLayout) -> Result<()> {
        let objects = &self.row(writer)?.objects;
        if objects.len() != layout.spans.len() {
            let (found, expected) = (objects.len(), layout.spans.len());
            return Err(
                self.malformed(format!("writer {writer} has {found} objects, its boxes need {expected}"))
            );
        }
        if self.head.compressed {
            return Ok(());
        }
        for (sequence, (&(byte_len, data_start), span)) in objects.iter().zip(&layout.spans).enumerate() {
            let header =
                data_start.is_multiple_of(PAGE_BYTES) && (1..=HEADER_BYTES_MAX).contains(&data_start);
            if !header || data_start.checked_add(span.data_bytes) != Some(byte_len) {
                return Err(self.malformed(format!(
                    "object {sequence} of writer {writer} has {byte_len} bytes with data from byte {data_start}; its boxes need {} after a header of a multiple of {PAGE_BYTES}",
                    span.data_bytes
                )));
            }
        }
        Ok(())
    }

    /// Finds a box of a writer.
    pub(crate) fn slot(&self, writer: u32, tensor: u32, ordinal: u32) -> Result<Slot> {
        let slot = self.layout(writer)?.find(tensor, ordinal);
        slot.copied().ok_or_else(|| self.malformed(format!("writer {writer} holds no such box")))
    }

    /// Finds a box of a writer by its region.
    pub(crate) fn slot_of_region(&self, writer: u32, tensor: u32, region: &Region) -> Result<Slot> {
        let ordinal = match &self.table.rows()[tensor as usize].boxes {
            Boxes::Placed { .. } => Some(0),
            Boxes::Listed(boxes) => self
                .table
                .listed_of(writer, tensor)
                .iter()
                .position(|&(_, position)| boxes[position as usize].1 == *region)
                .map(|ordinal| ordinal as u32),
        };
        let none = || self.malformed(format!("writer {writer} holds no box {region:?}"));
        self.slot(writer, tensor, ordinal.ok_or_else(none)?)
    }

    /// A chunk, from its box and writer. For a compressed object, whose positions only its part record tells, the
    /// chunk stands for the whole object.
    fn chunk(&self, writer: u32, tensor: u32, ordinal: u32, region: Region) -> Result<Chunk> {
        let slot = self.slot(writer, tensor, ordinal)?;
        let (object_bytes, data_start) = self.extent(writer, slot.sequence.into())?;
        let object = self.first_object(writer) + u32::from(slot.sequence);
        if self.head.compressed {
            return Ok(Chunk { region, object, byte_offset: 0, byte_len: object_bytes });
        }
        let dtype = self.table.rows()[tensor as usize].spec.dtype;
        let byte_len = dtype.bytes(region.elements()).unwrap_or(0);
        Ok(Chunk { region, object, byte_offset: data_start + slot.data_offset, byte_len })
    }
}

/// The chunks of one tensor.
#[derive(Debug)]
pub(crate) struct TensorChunks {
    pub(crate) index: Arc<Index>,
    pub(crate) tensor: u32,
}

impl TensorChunks {
    fn visit_listed(
        &self,
        boxes: &[(u32, Region)],
        wants: impl Fn(&Region) -> bool,
        visit: &mut dyn FnMut(Chunk) -> Result<()>,
    ) -> Result<()> {
        for (position, (writer, region)) in (0u32..).zip(boxes).filter(|(_, (_, region))| wants(region)) {
            let own = self.index.table.listed_of(*writer, self.tensor);
            let ordinal = own.partition_point(|&(_, earlier)| earlier < position) as u32;
            visit(self.index.chunk(*writer, self.tensor, ordinal, region.clone())?)?;
        }
        Ok(())
    }
}

impl ChunkLookup for TensorChunks {
    fn count(&self) -> u64 {
        match &self.index.table.rows()[self.tensor as usize].boxes {
            Boxes::Placed { layout, .. } if layout.shape().contains(&0) => 1,
            Boxes::Placed { layout, .. } => layout.shards(),
            Boxes::Listed(boxes) => boxes.len() as u64,
        }
    }

    fn visit(&self, wanted: &Region, visit: &mut dyn FnMut(Chunk) -> Result<()>) -> Result<()> {
        let row = &self.index.table.rows()[self.tensor as usize];
        if wanted.rank() != row.spec.shape.len() {
            let message = format!("{wanted:?} is wanted of a tensor of shape {:?}", row.spec.shape);
            return Err(Error::BadTensor { fqn: row.fqn.as_str().to_owned(), message });
        }
        let (layout, class) = match &row.boxes {
            Boxes::Placed { layout, class } => (layout, *class as usize),
            Boxes::Listed(boxes) => return self.visit_listed(boxes, |region| region.overlaps(wanted), visit),
        };
        let mut result = Ok(());
        layout.visit_overlapping(wanted, &self.index.owners[class], &mut |coordinates, region| {
            if result.is_ok() {
                let writer = layout.mesh().rank_at(coordinates);
                let chunk = self.index.chunk(writer, self.tensor, 0, region.clone());
                result = chunk.and_then(&mut *visit);
            }
        });
        result
    }

    fn all(&self, whole: &Region) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        let mut push = |chunk| {
            chunks.push(chunk);
            Ok(())
        };
        match &self.index.table.rows()[self.tensor as usize].boxes {
            Boxes::Placed { layout, class } => match self.index.table.keeper(layout, *class) {
                Some(keeper) => push(self.index.chunk(keeper, self.tensor, 0, whole.clone())?)?,
                None => self.visit(whole, &mut push)?,
            },
            Boxes::Listed(boxes) => self.visit_listed(boxes, |_| true, &mut push)?,
        }
        Ok(chunks)
    }
}
