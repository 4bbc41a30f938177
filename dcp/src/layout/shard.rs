//! Which box of a tensor each rank of a mesh holds.
//!
//! Every mesh axis has one [`Placement`] per tensor. Axes that shard the same dim cut it one after the other, in
//! *application order*; each cut follows `torch.chunk`: `n` elements over `k` coordinates gives `ceil(n / k)` to each
//! until they run out, so later coordinates may be short or empty.
//!
//! A plain `Shard` axis cuts before (outside) the axes to its right. FSDP over tensor parallelism cuts the other way
//! round: the mesh is (dp, tp), yet a rank holds *the dp chunk of the tp chunk*. PyTorch writes that as
//! `_StridedShard(dim, split_factor = tp)` on the dp axis: the dim was already cut in `split_factor` pieces. Reading
//! the axes right to left, an axis with split factor `f` is therefore inserted after the leading axes whose sizes
//! multiply to `f` (`f = 1`, a plain shard, goes first).
//!
//! Source: `Shard`, `_StridedShard` in torch/distributed/tensor/placement_types.py and `fully_shard` with a 2-d mesh,
//! PyTorch 2.11; the boxes agree with what FSDP2 really stores (fixtures `ws4_2d`, `llama_ws4_2d`).

use super::{Mesh, Region};
use std::sync::Arc;

/// How one mesh axis places one tensor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Placement {
    /// Every coordinate holds the same.
    Replicate,
    /// The coordinates share dim `dim` in equal consecutive pieces.
    Shard {
        /// The tensor dim that is cut.
        dim: u32,
    },
    /// As `Shard`, but applied inside pieces that axes further right have cut `split_factor` ways already.
    StridedShard {
        /// The tensor dim that is cut.
        dim: u32,
        /// Product of the sizes of the axes applied before this one on the same dim.
        split_factor: u32,
    },
    /// Only this coordinate holds the tensor: its pipeline stage.
    Only {
        /// The coordinate along the axis.
        coordinate: u32,
    },
}

/// Why a layout is impossible.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum LayoutError {
    #[error("impossible mesh: {why}")]
    BadMesh { why: String },
    #[error("{found} placements for a mesh of {expected} axes; give one per axis")]
    PlacementCount { found: usize, expected: usize },
    #[error("axis `{axis}` shards dim {dim} of a tensor with {dims} dims")]
    DimOutOfRange { axis: String, dim: u32, dims: usize },
    #[error("axis `{axis}` has size {size}; coordinate {coordinate} is outside it")]
    CoordinateOutOfRange { axis: String, coordinate: u32, size: u32 },
    #[error(
        "axis `{axis}` is a strided shard with split factor {split_factor}, but no axes to its right multiply to that on dim {dim}"
    )]
    BadSplitFactor { axis: String, split_factor: u32, dim: u32 },
}

/// A mesh with one placement per axis, checked against a shape: who holds which box.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Layout {
    mesh: Arc<Mesh>,
    placements: Vec<Placement>,
    shape: Vec<u64>,
    /// For each dim, the axes that cut it, in application order.
    cuts: Vec<Vec<usize>>,
}

impl Layout {
    /// Checks the placements against mesh and shape.
    ///
    /// Errors: every [`LayoutError`] but `BadMesh`.
    pub fn new(mesh: Arc<Mesh>, placements: Vec<Placement>, shape: Vec<u64>) -> Result<Self, LayoutError> {
        if placements.len() != mesh.axes().len() {
            return Err(LayoutError::PlacementCount { found: placements.len(), expected: mesh.axes().len() });
        }
        let mut cuts = vec![Vec::new(); shape.len()];
        for (axis, &placement) in placements.iter().enumerate().rev() {
            let (name, size) = (&mesh.axes()[axis].name, mesh.axes()[axis].size);
            let (dim, split_factor) = match placement {
                Placement::Replicate => continue,
                Placement::Only { coordinate } if coordinate < size => continue,
                Placement::Only { coordinate } => {
                    return Err(LayoutError::CoordinateOutOfRange { axis: name.clone(), coordinate, size });
                }
                Placement::Shard { dim } => (dim, 1),
                Placement::StridedShard { dim, split_factor } => (dim, split_factor),
            };
            let order = cuts.get_mut(dim as usize).ok_or_else(|| LayoutError::DimOutOfRange {
                axis: name.clone(),
                dim,
                dims: shape.len(),
            })?;
            let position = insertion_point(order, &mesh, split_factor)
                .ok_or_else(|| LayoutError::BadSplitFactor { axis: name.clone(), split_factor, dim })?;
            order.insert(position, axis);
        }
        Ok(Layout { mesh, placements, shape, cuts })
    }

    /// The mesh.
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.mesh
    }

    /// One placement per mesh axis.
    pub fn placements(&self) -> &[Placement] {
        &self.placements
    }

    /// The tensor's global shape.
    pub fn shape(&self) -> &[u64] {
        &self.shape
    }

    /// The box that `rank` holds, or `None` where an `Only` placement leaves it out. An uneven cut gives an empty
    /// box, which starts at the end of the dim, as PyTorch records it.
    pub fn region(&self, rank: u32) -> Option<Region> {
        let coordinates = self.mesh.coordinates(rank);
        let left_out = self.placements.iter().zip(&coordinates).any(
            |(placement, &own)| matches!(placement, Placement::Only { coordinate } if *coordinate != own),
        );
        (!left_out).then(|| self.region_at(&coordinates))
    }

    /// The box at these coordinates, `Only` placements disregarded.
    pub fn region_at(&self, coordinates: &[u32]) -> Region {
        let mut region = Region::whole(&self.shape);
        for (dim, axes) in self.cuts.iter().enumerate() {
            for &axis in axes {
                let (start, extent) =
                    chunk(region.extent[dim], self.mesh.axes()[axis].size, coordinates[axis]);
                region.start[dim] += start;
                region.extent[dim] = extent;
            }
            if region.extent[dim] == 0 && !axes.is_empty() {
                region.start[dim] = self.shape[dim];
            }
        }
        region
    }

    /// The axes that hold copies: every coordinate along them holds the same box.
    pub fn replica_axes(&self) -> impl Iterator<Item = usize> + '_ {
        self.placements
            .iter()
            .enumerate()
            .filter(|(_, p)| matches!(p, Placement::Replicate))
            .map(|(axis, _)| axis)
    }

    /// The first rank that holds the copy at these replica coordinates.
    pub fn first_rank(&self, replica: &[u32]) -> u32 {
        let coordinate = |(axis, placement): (usize, &Placement)| match placement {
            Placement::Replicate => replica[axis],
            Placement::Only { coordinate } => *coordinate,
            _ => 0,
        };
        self.mesh.rank_at(&self.placements.iter().enumerate().map(coordinate).collect::<Vec<_>>())
    }

    /// Calls `visit` with the coordinates and box of every distinct non-empty shard that overlaps `wanted`, the
    /// coordinate of each replica axis taken from `replica` (one entry per mesh axis; others are ignored).
    ///
    /// Only overlapping shards are enumerated, so the cost does not grow with the number of ranks.
    pub fn visit_overlapping(
        &self,
        wanted: &Region,
        replica: &[u32],
        visit: &mut dyn FnMut(&[u32], &Region),
    ) {
        let mut coordinates = replica.to_vec();
        for (axis, placement) in self.placements.iter().enumerate() {
            if let Placement::Only { coordinate } = placement {
                coordinates[axis] = *coordinate;
            }
        }
        let mut region = Region::whole(&self.shape);
        self.descend(0, 0, wanted, &mut coordinates, &mut region, visit);
    }

    fn descend(
        &self,
        dim: usize,
        cut: usize,
        wanted: &Region,
        coordinates: &mut [u32],
        region: &mut Region,
        visit: &mut dyn FnMut(&[u32], &Region),
    ) {
        if dim == self.shape.len() {
            visit(coordinates, region);
            return;
        }
        let Some(&axis) = self.cuts[dim].get(cut) else {
            if region.start[dim].max(wanted.start[dim]) < region.end(dim).min(wanted.end(dim)) {
                self.descend(dim + 1, 0, wanted, coordinates, region, visit);
            }
            return;
        };
        let (start, extent) = (region.start[dim], region.extent[dim]);
        let size = self.mesh.axes()[axis].size;
        let step = extent.div_ceil(size as u64).max(1);
        let from = wanted.start[dim].saturating_sub(start) / step;
        let until = wanted.end(dim).saturating_sub(start).div_ceil(step).min(size as u64);
        for coordinate in from..until {
            let (offset, own_extent) = chunk(extent, size, coordinate as u32);
            if own_extent == 0 {
                break;
            }
            (region.start[dim], region.extent[dim]) = (start + offset, own_extent);
            coordinates[axis] = coordinate as u32;
            self.descend(dim, cut + 1, wanted, coordinates, region, visit);
        }
        (region.start[dim], region.extent[dim]) = (start, extent);
    }

    /// Number of distinct shards, empty ones included.
    pub fn shards(&self) -> u64 {
        self.cuts.iter().flatten().map(|&axis| self.mesh.axes()[axis].size as u64).product()
    }
}

/// Start and extent of piece `index` when `elements` are cut in `pieces` as `torch.chunk` does.
pub fn chunk(elements: u64, pieces: u32, index: u32) -> (u64, u64) {
    let step = elements.div_ceil(pieces as u64);
    let start = (step * index as u64).min(elements);
    (start, step.min(elements - start))
}

/// Where an axis goes among those applied already: after the first ones whose sizes multiply to `split_factor`.
fn insertion_point(order: &[usize], mesh: &Mesh, split_factor: u32) -> Option<usize> {
    let mut product = 1u64;
    for (position, &axis) in order.iter().enumerate() {
        if product == split_factor as u64 {
            return Some(position);
        }
        product *= mesh.axes()[axis].size as u64;
    }
    (product == split_factor as u64).then_some(order.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::cover;
    use Placement::{Only, Replicate, Shard, StridedShard};

    fn layout(axes: &[u32], placements: &[Placement], shape: &[u64]) -> Result<Layout, LayoutError> {
        let mesh = Mesh::new(axes.iter().enumerate().map(|(axis, &size)| (format!("axis{axis}"), size)))?;
        Layout::new(Arc::new(mesh), placements.to_vec(), shape.to_vec())
    }

    #[test]
    fn uneven_and_empty_shards_follow_torch_chunk() {
        let rows = |n, ranks| {
            let layout = layout(&[ranks], &[Shard { dim: 0 }], &[n]).unwrap();
            (0..ranks)
                .map(|rank| layout.region(rank).unwrap())
                .map(|r| (r.start[0], r.extent[0]))
                .collect::<Vec<_>>()
        };
        assert_eq!(rows(5, 4), [(0, 2), (2, 2), (4, 1), (5, 0)]);
        assert_eq!(rows(1, 3), [(0, 1), (1, 0), (1, 0)]);
        assert_eq!(rows(0, 2), [(0, 0), (0, 0)]);
    }

    #[test]
    fn fsdp_over_tensor_parallelism_interleaves_ranks() {
        // Recorded from FSDP2 on a column-parallel weight of 256 rows, PyTorch 2.11: rows of ranks 0 to 3.
        let placements = [StridedShard { dim: 0, split_factor: 2 }, Shard { dim: 0 }];
        let layout = layout(&[2, 2], &placements, &[256, 3]).unwrap();
        let starts: Vec<u64> = (0..4).map(|rank| layout.region(rank).unwrap().start[0]).collect();
        assert_eq!(starts, [0, 128, 64, 192]);
    }

    #[test]
    fn impossible_placements_are_refused() {
        let refused = |placements: &[Placement]| layout(&[2, 2], placements, &[4]).unwrap_err();
        assert!(matches!(refused(&[Replicate]), LayoutError::PlacementCount { .. }));
        assert!(matches!(refused(&[Shard { dim: 1 }, Replicate]), LayoutError::DimOutOfRange { .. }));
        assert!(matches!(
            refused(&[Only { coordinate: 2 }, Replicate]),
            LayoutError::CoordinateOutOfRange { .. }
        ));
        let strided = StridedShard { dim: 0, split_factor: 2 };
        assert!(matches!(refused(&[strided, Replicate]), LayoutError::BadSplitFactor { .. }));
    }

    /// Every placement of every mesh of up to three axes of up to 3 ranks, over small shapes: distinct shards tile the
    /// tensor, copies are equal, and looking up any box finds exactly the shards that overlap it.
    #[test]
    fn shards_tile_every_small_tensor_and_are_found() {
        let choices = |axes: &[u32], dims: usize| -> Vec<Vec<Placement>> {
            let mut lists = vec![Vec::new()];
            for axis in 0..axes.len() {
                let after: u32 = axes[axis + 1..].iter().product();
                let mut options = vec![Replicate, Only { coordinate: axes[axis] - 1 }];
                for dim in 0..dims as u32 {
                    options.extend([Shard { dim }, StridedShard { dim, split_factor: after }]);
                }
                lists = lists
                    .iter()
                    .flat_map(|list: &Vec<Placement>| {
                        options.iter().map(move |&own| [&list[..], &[own]].concat())
                    })
                    .collect();
            }
            lists
        };
        let mut checked = 0;
        for axes in [&[][..], &[3], &[2, 2], &[3, 2], &[2, 1, 3]] {
            for shape in [&[][..], &[0], &[5], &[7], &[4, 3], &[2, 5]] {
                for placements in choices(axes, shape.len()) {
                    if let Ok(layout) = layout(axes, &placements, shape) {
                        check(&layout);
                        checked += 1;
                    }
                }
            }
        }
        assert_eq!(checked, 658, "legal combinations of meshes, placements and shapes");
    }

    fn check(layout: &Layout) {
        let (mesh, replica) = (layout.mesh(), vec![0; layout.mesh().axes().len()]);
        let is_copy = |coordinates: &[u32]| layout.replica_axes().any(|axis| coordinates[axis] != 0);
        let held: Vec<(u32, Region)> =
            (0..mesh.ranks()).filter_map(|rank| Some((rank, layout.region(rank)?))).collect();
        let owned: Vec<(u32, Region)> =
            held.iter().filter(|(rank, _)| !is_copy(&mesh.coordinates(*rank))).cloned().collect();
        let boxes: Vec<Region> = owned.iter().map(|(_, region)| region.clone()).collect();
        assert_eq!(cover(layout.shape(), &boxes), Ok(()), "{layout:?}");
        for (rank, region) in &held {
            let mut coordinates = mesh.coordinates(*rank);
            layout.replica_axes().for_each(|axis| coordinates[axis] = 0);
            assert!(
                owned.contains(&(mesh.rank_at(&coordinates), region.clone())),
                "{layout:?}: copies differ"
            );
        }
        for wanted in boxes.iter().chain([&Region::whole(layout.shape())]) {
            let mut found = Vec::new();
            layout.visit_overlapping(wanted, &replica, &mut |coordinates, region| {
                found.push((mesh.rank_at(coordinates), region.clone()));
            });
            found.sort();
            let expected: Vec<_> =
                owned.iter().filter(|(_, region)| region.overlaps(wanted)).cloned().collect();
            assert_eq!(found, expected, "{layout:?} {wanted:?}");
        }
    }
}
