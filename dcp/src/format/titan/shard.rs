//! How one writer's boxes are laid out in its objects: a pure function that the writer and every reader share.
//!
//! 1. The writer's boxes are taken in order of tensor, then ordinal. They fill one object after the other: a box
//!    starts a new object where the current one is not empty and would exceed `object_bytes_max` bytes of tensor
//!    data, or [`HEADER_COST_MAX`] of header cost (a bound on what its header can grow to).
//! 2. Within an object, boxes whose length is a multiple of 64 come first, then the others, each in that same order.
//!    So only the few odd ones need padding, which safetensors, having no holes, stores as extra entries.
//! 3. Each box starts at the next multiple of 64 bytes, or of 4096 where it has at least 1 MiB: enough for memory
//!    maps and for direct I/O.
//!
//! Offsets count from the object's first byte of tensor data, itself a multiple of 4096 bytes into the object.

use super::table::{BadRow, Piece, Table};

/// Alignment of every box.
pub(crate) const ALIGN_BYTES: u64 = 64;
/// Alignment of large boxes and of the first byte of tensor data.
pub(crate) const PAGE_BYTES: u64 = 4096;
/// Bytes of a large box.
const LARGE_BYTES: u64 = 1 << 20;
/// Most header cost of one object that holds more than one box; safetensors readers refuse headers over 100 MB.
const HEADER_COST_MAX: u64 = 64 << 20;

/// One object of a writer.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Shard {
    /// Its boxes in stored order: position in the writer's pieces, and byte offset.
    pub(crate) placed: Vec<(u32, u64)>,
    /// Bytes of tensor data, padding included.
    pub(crate) data_bytes: u64,
}

/// Lays a writer's boxes out; see the top of this file.
pub(crate) fn lay_out(table: &Table, pieces: &[Piece]) -> Result<Vec<Shard>, BadRow> {
    let mut shards = Vec::new();
    let mut from = 0;
    while from < pieces.len() {
        let until = from + object_pieces(table, &pieces[from..]);
        shards.push(place(table, pieces, from..until)?);
        from = until;
    }
    Ok(shards)
}

/// Number of boxes that the next object takes; at least 1.
fn object_pieces(table: &Table, pieces: &[Piece]) -> usize {
    let (mut data_bytes, mut header_cost) = (0u64, 0u64);
    for (count, piece) in pieces.iter().enumerate() {
        data_bytes = data_bytes.saturating_add(piece.byte_len);
        header_cost += entry_cost(table, piece);
        if count > 0 && (data_bytes > table.object_bytes_max() || header_cost > HEADER_COST_MAX) {
            return count;
        }
    }
    pieces.len()
}

/// More bytes than a box can add to a header: its name escaped once as a key and twice within the metadata, and its
/// shape, corner and offsets.
fn entry_cost(table: &Table, piece: &Piece) -> u64 {
    16 * table.rows()[piece.tensor as usize].fqn.as_str().len() as u64 + 64 * piece.region.rank() as u64 + 256
}

fn place(table: &Table, pieces: &[Piece], range: std::ops::Range<usize>) -> Result<Shard, BadRow> {
    let mut shard = Shard { placed: Vec::with_capacity(range.len()), data_bytes: 0 };
    for odd in [false, true] {
        for index in range.clone() {
            let byte_len = pieces[index].byte_len;
            if byte_len.is_multiple_of(ALIGN_BYTES) == odd {
                continue;
            }
            let align = if byte_len >= LARGE_BYTES { PAGE_BYTES } else { ALIGN_BYTES };
            let byte_offset = shard.data_bytes.checked_next_multiple_of(align);
            let end = byte_offset.and_then(|byte_offset| byte_offset.checked_add(byte_len));
            let (Some(byte_offset), Some(end)) = (byte_offset, end.filter(|&end| end <= i64::MAX as u64))
            else {
                let fqn = &table.rows()[pieces[index].tensor as usize].fqn;
                return Err(BadRow::new(fqn, "it makes its object larger than 2^63 - 1 bytes"));
            };
            shard.placed.push((index as u32, byte_offset));
            shard.data_bytes = end;
        }
    }
    Ok(shard)
}

/// Where one box of a writer is: the compact form that a reader keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Slot {
    tensor: u32,
    /// Which of the writer's objects.
    pub(crate) sequence: u16,
    /// Position among the object's boxes, in stored order.
    pub(crate) position: u32,
    /// Position of the box's first block among the blocks of all boxes of its object.
    pub(crate) first_block: u32,
    /// First byte, counted from the object's first byte of tensor data.
    pub(crate) data_offset: u64,
}

/// What a reader keeps of one object's layout.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Span {
    /// Bytes of tensor data, padding included.
    pub(crate) data_bytes: u64,
    /// Number of boxes.
    pub(crate) boxes: u32,
    /// Number of checksummed blocks of all boxes.
    pub(crate) blocks: u32,
}

/// Where every box of one writer is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WriterLayout {
    /// Sorted by tensor, then ordinal.
    slots: Vec<Slot>,
    /// One per object.
    pub(crate) spans: Vec<Span>,
}

impl WriterLayout {
    /// Lays a writer's boxes out. `None` where there are more objects, or more blocks in one, than can be counted.
    pub(crate) fn new(table: &Table, pieces: &[Piece], block_bytes: u64) -> Result<Option<Self>, BadRow> {
        let shards = lay_out(table, pieces)?;
        let empty = Slot { tensor: 0, sequence: 0, position: 0, first_block: 0, data_offset: 0 };
        let mut slots = vec![empty; pieces.len()];
        let mut spans = Vec::with_capacity(shards.len());
        for (sequence, shard) in shards.iter().enumerate() {
            let mut blocks = 0u32;
            let Ok(sequence) = u16::try_from(sequence) else { return Ok(None) };
            for (position, &(index, data_offset)) in shard.placed.iter().enumerate() {
                let piece = &pieces[index as usize];
                let (tensor, position) = (piece.tensor, position as u32);
                slots[index as usize] = Slot { tensor, sequence, position, first_block: blocks, data_offset };
                let own_blocks = u32::try_from(piece.byte_len.div_ceil(block_bytes)).ok();
                let Some(sum) = own_blocks.and_then(|own| blocks.checked_add(own)) else { return Ok(None) };
                blocks = sum;
            }
            spans.push(Span { data_bytes: shard.data_bytes, boxes: shard.placed.len() as u32, blocks });
        }
        Ok(Some(WriterLayout { slots, spans }))
    }

    /// Finds a box.
    pub(crate) fn find(&self, tensor: u32, ordinal: u32) -> Option<&Slot> {
        let first = self.slots.partition_point(|slot| slot.tensor < tensor);
        self.slots.get(first + ordinal as usize).filter(|slot| slot.tensor == tensor)
    }
}
