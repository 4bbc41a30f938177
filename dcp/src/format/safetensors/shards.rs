//! Which boxes go to which file of a save with one file per writer. Pure.

use crate::error::Result;
use crate::format::{Target, TargetTensor};
use crate::layout::Region;
use std::collections::BTreeMap;

/// The boxes of `tensor` by writer, merged to as few as they can be; at least one in all. Boxes without elements are
/// left out, but for one of the whole of a tensor without elements, so that its shape is recorded.
///
/// Errors: what [`Target::pieces`] gives.
pub(super) fn boxes(target: &Target, tensor: &TargetTensor) -> Result<BTreeMap<u32, Vec<Region>>> {
    let pieces = target.pieces(tensor)?;
    let first_writer = pieces.first().map_or(0, |(writer, _)| *writer);
    let mut boxes: BTreeMap<u32, Vec<Region>> = BTreeMap::new();
    for (writer, region) in pieces.into_iter().filter(|(_, region)| !region.is_empty()) {
        boxes.entry(writer).or_default().push(region);
    }
    if boxes.is_empty() {
        boxes.insert(first_writer, vec![Region::whole(&tensor.spec.shape)]);
    }
    boxes.values_mut().for_each(merge);
    Ok(boxes)
}

/// Joins boxes that meet along a whole face, until no two do; sorts them.
fn merge(regions: &mut Vec<Region>) {
    loop {
        let before = regions.len();
        let dims = regions.first().map_or(0, Region::rank);
        for dim in (0..dims).rev() {
            // Boxes that differ in this dim only come next to each other.
            regions.sort_by_cached_key(|region| {
                let mut others = region.clone();
                (others.start[dim], others.extent[dim]) = (0, 0);
                (others, region.start[dim])
            });
            regions.dedup_by(|next, joined| {
                let meets = joined.end(dim) == next.start[dim]
                    && (0..dims).filter(|&other| other != dim).all(|other| {
                        (joined.start[other], joined.extent[other]) == (next.start[other], next.extent[other])
                    });
                if meets {
                    joined.extent[dim] += next.extent[dim];
                }
                meets
            });
        }
        if regions.len() == before {
            regions.sort();
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::Pieces;
    use crate::layout::{Mesh, Placement, cover};
    use crate::model::{DType, TensorSpec};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn tensor(shape: &[u64], pieces: Pieces) -> TargetTensor {
        let spec = TensorSpec::new(DType::F32, shape);
        TargetTensor { fqn: "w".into(), spec, path: Vec::new(), pieces }
    }

    #[test]
    fn a_grid_of_boxes_of_one_writer_is_one_box() {
        let grid = [[0, 0], [0, 2], [3, 0], [3, 2]].map(|start| Region::new(start, [3 - start[0] / 3, 2]));
        let listed = |pieces: Vec<(u32, Region)>| {
            boxes(&Target::default(), &tensor(&[5, 4], Pieces::Listed(pieces))).unwrap()
        };
        let one = listed(grid.iter().rev().map(|region| (7, region.clone())).collect());
        assert_eq!(one, BTreeMap::from([(7, vec![Region::whole(&[5, 4])])]));
        // Diagonal neighbours do not meet along a face.
        let two =
            listed((0..4).map(|at| (u32::from(at == 1 || at == 2), grid[at as usize].clone())).collect());
        assert_eq!(two[&0], [grid[0].clone(), grid[3].clone()]);
        assert_eq!(two[&1], [grid[1].clone(), grid[2].clone()]);
    }

    #[test]
    fn placements_give_boxes_to_ranks_and_replicas_to_their_owner() {
        let mesh = Some(Arc::new(Mesh::new([("dp_replicate", 2), ("dp_shard", 3)]).unwrap()));
        let placements = vec![Placement::Replicate, Placement::Shard { dim: 0 }];
        let placed = Pieces::Placed { placements, owner: vec![1, 0] };
        let target = Target { mesh, ..Target::default() };
        let found = boxes(&target, &tensor(&[4, 2], placed.clone())).unwrap();
        // Three ranks share four rows as 2, 2, 0.
        assert_eq!(
            found,
            BTreeMap::from([(3, vec![Region::new([0, 0], [2, 2])]), (4, vec![Region::new([2, 0], [2, 2])])])
        );
        assert!(boxes(&Target::default(), &tensor(&[4, 2], placed)).is_err());
    }

    #[test]
    fn a_tensor_without_elements_has_one_box() {
        let whole = Region::whole(&[0, 3]);
        for pieces in
            [vec![], vec![(4, whole.clone())], vec![(4, whole.clone()), (5, Region::new([0, 1], [0, 2]))]]
        {
            let writer = pieces.first().map_or(0, |(writer, _)| *writer);
            let found = boxes(&Target::default(), &tensor(&[0, 3], Pieces::Listed(pieces))).unwrap();
            assert_eq!(found, BTreeMap::from([(writer, vec![whole.clone()])]));
        }
    }

    proptest! {
        #[test]
        fn merged_boxes_tile_what_the_boxes_did(
            cuts in prop::collection::vec(prop::collection::btree_set(1u64..6, 0..4), 0..4),
            picked in any::<u64>(),
        ) {
            // A grid of boxes of which some belong to the writer.
            let shape = vec![6; cuts.len()];
            let mut grid = vec![Region::whole(&shape)];
            for (dim, cuts) in cuts.iter().enumerate() {
                for &cut in cuts {
                    grid = grid.into_iter().flat_map(|region| cut_at(region, dim, cut)).collect();
                }
            }
            let (mut own, others): (Vec<_>, Vec<_>) = grid
                .into_iter()
                .enumerate()
                .partition(|(at, _)| picked >> (at % 64) & 1 == 1);
            let mut merged: Vec<_> = own.drain(..).map(|(_, region)| region).collect();
            let before = merged.len();
            merge(&mut merged);
            prop_assert!(merged.len() <= before);
            merged.extend(others.into_iter().map(|(_, region)| region));
            prop_assert_eq!(cover(&shape, &merged), Ok(()));
        }
    }

    fn cut_at(region: Region, dim: usize, at: u64) -> Vec<Region> {
        if at <= region.start[dim] || at >= region.end(dim) {
            return vec![region];
        }
        let (mut low, mut high) = (region.clone(), region);
        high.extent[dim] = high.end(dim) - at;
        high.start[dim] = at;
        low.extent[dim] = at - low.start[dim];
        vec![low, high]
    }
}
