//! Which part of a strip goes where.

use crate::format::{ObjectDraft, Target};
use crate::layout::{Region, Runs, Strips, row_major};

/// Where one region of a tensor goes.
#[derive(Debug)]
pub(super) struct Piece {
    /// Among the objects that are written.
    pub(super) object: u32,
    pub(super) placed: u32,
    byte_offset: u64,
}

/// Every region of the objects, by its tensor.
pub(super) fn pieces_by_tensor<'a>(
    objects: impl IntoIterator<Item = &'a ObjectDraft>,
    target: &Target,
) -> Vec<Vec<Piece>> {
    let mut pieces: Vec<Vec<Piece>> = target.tensors.iter().map(|_| Vec::new()).collect();
    for (object, plan) in objects.into_iter().enumerate() {
        for (placed, region) in plan.placed.iter().enumerate() {
            let piece =
                Piece { object: object as u32, placed: placed as u32, byte_offset: region.byte_offset };
            pieces[region.tensor as usize].push(piece);
        }
    }
    pieces
}

/// The share of a strip that goes to one placed region, in runs of equal length.
pub(super) struct Part {
    pub(super) object: u32,
    pub(super) placed: u32,
    /// First byte of the placed region in its object.
    byte_offset: u64,
    pub(super) common: Region,
    /// Elements of the placed region before the part.
    pub(super) first: u64,
    /// Distances in the placed region.
    strides: Vec<u64>,
    runs: Runs,
}

impl Part {
    pub(super) fn new(piece: &Piece, region: &Region, common: Region) -> Self {
        let strides = row_major(&region.extent);
        let first = common.position_in(region, &strides);
        let runs = Runs::new(&common.extent, &strides);
        let (object, placed, byte_offset) = (piece.object, piece.placed, piece.byte_offset);
        Part { object, placed, byte_offset, common, first, strides, runs }
    }

    pub(super) fn byte_len(&self, block_bytes: usize) -> usize {
        self.common.elements() as usize * block_bytes
    }

    /// Where the part's first run goes in its object.
    pub(super) fn target_offset(&self, block_bytes: usize) -> u64 {
        self.byte_offset + self.first * block_bytes as u64
    }

    /// First element of `region` in the part's row-major order, and that order's strides.
    pub(super) fn position(&self, region: &Region) -> (usize, Vec<u64>) {
        let strides = row_major(&self.common.extent);
        (region.position_in(&self.common, &strides) as usize, strides)
    }

    /// Whether it is one run of the placed region.
    pub(super) fn is_run(&self) -> bool {
        self.runs.outer.is_empty()
    }

    /// Elements of a run.
    pub(super) fn run(&self) -> u64 {
        self.runs.run
    }

    /// The first element of each run in the placed region, in the part's row-major order.
    pub(super) fn run_starts(&self) -> impl Iterator<Item = u64> + '_ {
        let mut extent = self.common.extent.clone();
        let outer = |dim: &usize| self.runs.outer.contains(dim);
        (0..extent.len()).filter(|dim| !outer(dim)).for_each(|dim| extent[dim] = 1);
        let whole = Region::whole(&extent);
        let step = vec![1; extent.len()];
        Strips::new(whole.clone(), step).map(move |at| self.first + at.position_in(&whole, &self.strides))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_written_in_runs_of_its_region() {
        let piece = Piece { object: 0, placed: 0, byte_offset: 100 };
        let region = Region::new([2, 0, 10], [4, 3, 8]);
        let part = Part::new(&piece, &region, Region::new([3, 0, 12], [2, 2, 3]));
        assert_eq!((part.run(), part.is_run()), (3, false));
        assert_eq!(part.run_starts().collect::<Vec<_>>(), [26, 34, 50, 58]);
        assert_eq!(part.target_offset(2), 152);
        let part = Part::new(&piece, &region, Region::new([3, 1, 10], [1, 2, 8]));
        assert_eq!((part.run(), part.is_run()), (16, true));
        assert_eq!(part.run_starts().collect::<Vec<_>>(), [32]);
        let scalar = Region::whole(&[]);
        assert_eq!(Part::new(&piece, &scalar, scalar.clone()).run_starts().collect::<Vec<_>>(), [0]);
    }
}
