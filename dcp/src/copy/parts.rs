//! Which part of a strip goes where.

use crate::format::{ObjectDraft, Target};
use crate::layout::{Region, row_major};

/// Where one region of a tensor goes.
#[derive(Debug)]
pub(super) struct Piece {
    /// Among the objects that are written.
    pub(super) object: u32,
    pub(super) placed: u32,
    byte_offset: u64,
}

/// Every region of the objects, by its tensor.
pub(super) fn pieces_by_tensor(objects: &[ObjectDraft], target: &Target) -> Vec<Vec<Piece>> {
    let mut pieces: Vec<Vec<Piece>> = target.tensors.iter().map(|_| Vec::new()).collect();
    for (object, plan) in objects.iter().enumerate() {
        for (placed, region) in plan.placed.iter().enumerate() {
            let piece =
                Piece { object: object as u32, placed: placed as u32, byte_offset: region.byte_offset };
            pieces[region.tensor as usize].push(piece);
        }
    }
    pieces
}

/// The share of a strip that goes to one placed region; contiguous there.
pub(super) struct Part {
    pub(super) object: u32,
    pub(super) placed: u32,
    /// First byte of the placed region in its object.
    byte_offset: u64,
    pub(super) common: Region,
    /// Elements of the placed region before the part.
    pub(super) first: u64,
}

impl Part {
    pub(super) fn new(piece: &Piece, region: &Region, common: Region) -> Self {
        let strides = row_major(&region.extent);
        let first =
            common.relative_to(region).start.iter().zip(&strides).map(|(&at, &stride)| at * stride).sum();
        Part { object: piece.object, placed: piece.placed, byte_offset: piece.byte_offset, common, first }
    }

    pub(super) fn byte_len(&self, block_bytes: usize) -> usize {
        self.common.elements() as usize * block_bytes
    }

    /// Where the part goes in its object.
    pub(super) fn target_offset(&self, block_bytes: usize) -> u64 {
        self.byte_offset + self.first * block_bytes as u64
    }

    /// First element of `region` in the part's row-major order, and that order's strides.
    pub(super) fn position(&self, region: &Region) -> (usize, Vec<u64>) {
        let strides = row_major(&self.common.extent);
        (region.position_in(&self.common, &strides) as usize, strides)
    }
}
