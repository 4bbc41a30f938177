//! Finds placements that give exactly the boxes of a list, so that a manifest need not hold the list.
//!
//! Per axis of the grid: where all boxes have one coordinate, the axis replicates and that coordinate writes.
//! Otherwise the axis cuts a dim, which the step from the first box to its neighbour along the axis tells; only how
//! axes that cut the same dim nest must be tried, and every candidate is checked against every box.

use super::placement::AxisRule;
use crate::layout::{Layout, Mesh, Placement, Region};
use std::collections::HashMap;
use std::sync::Arc;

/// Most nestings tried; a mesh rarely has more than three axes that cut one dim.
const CANDIDATES_MAX: usize = 256;

/// Rules, one per axis of `grid`, under which each writer stores exactly its box of `boxes`, empty boxes
/// disregarded; with the layout they make. `None` where there are none, or the boxes hold no element.
///
/// Shapes: boxes have as many dims as `shape` and are inside it.
pub(crate) fn fit(
    grid: &Arc<Mesh>,
    shape: &[u64],
    boxes: &[(u32, Region)],
) -> Option<(Vec<AxisRule>, Layout)> {
    let held = by_coordinates(grid, boxes)?;
    let covered = held.values().fold(0u64, |sum, region| sum.saturating_add(region.elements()));
    if held.is_empty() || covered != Region::whole(shape).elements() {
        return None;
    }
    let first: Vec<u32> = held.keys().min()?.clone();
    let mut search = Search { grid, shape, held: &held, first, tried: 0 };
    let mut rules = vec![AxisRule::new(Placement::Replicate, 0); grid.axes().len()];
    search.choose(grid.axes().len(), &mut rules)
}

/// The non-empty boxes by their writers' coordinates; `None` where a writer has two or is outside the grid.
fn by_coordinates<'a>(grid: &Mesh, boxes: &'a [(u32, Region)]) -> Option<HashMap<Vec<u32>, &'a Region>> {
    let mut held = HashMap::with_capacity(boxes.len());
    for (writer, region) in boxes.iter().filter(|(_, region)| !region.is_empty()) {
        if *writer >= grid.ranks() || held.insert(grid.coordinates(*writer), region).is_some() {
            return None;
        }
    }
    Some(held)
}

struct Search<'a> {
    grid: &'a Arc<Mesh>,
    shape: &'a [u64],
    held: &'a HashMap<Vec<u32>, &'a Region>,
    /// Coordinates of the first box: the least along every axis, where there is a fit.
    first: Vec<u32>,
    tried: usize,
}

impl Search<'_> {
    /// Chooses rules for axes `0..until`, rightmost first, the others being chosen; returns the first that fit.
    fn choose(&mut self, until: usize, rules: &mut Vec<AxisRule>) -> Option<(Vec<AxisRule>, Layout)> {
        let Some(axis) = until.checked_sub(1) else { return self.check(rules) };
        if self.held.keys().all(|coordinates| coordinates[axis] == self.first[axis]) {
            rules[axis] = AxisRule::new(Placement::Replicate, self.first[axis]);
            return self.choose(axis, rules);
        }
        let dim = self.cut_dim(axis)?;
        for split_factor in self.split_factors(dim, axis, rules) {
            let placement = match split_factor {
                1 => Placement::Shard { dim },
                _ => Placement::StridedShard { dim, split_factor },
            };
            rules[axis] = AxisRule::new(placement, 0);
            let found = self.choose(axis, rules);
            if found.is_some() || self.tried >= CANDIDATES_MAX {
                return found;
            }
        }
        None
    }

    /// The one dim in which the first box and its neighbour along the axis differ in their start.
    fn cut_dim(&self, axis: usize) -> Option<u32> {
        let mut neighbour = self.first.clone();
        neighbour[axis] += 1;
        let (from, to) = (self.held.get(&self.first)?, self.held.get(&neighbour)?);
        let mut moved = (0..self.shape.len()).filter(|&dim| from.start[dim] != to.start[dim]);
        let dim = moved.next()?;
        moved.next().is_none().then_some(dim as u32)
    }

    /// Where the axis can nest among the axes to its right that cut the same dim: the products of their leading sizes
    /// in order of application.
    fn split_factors(&self, dim: u32, axis: usize, rules: &[AxisRule]) -> Vec<u32> {
        let mut order: Vec<usize> = Vec::new();
        for right in (axis + 1..rules.len()).rev() {
            match rules[right].placement {
                Placement::Shard { dim: cut } if cut == dim => order.insert(0, right),
                Placement::StridedShard { dim: cut, split_factor } if cut == dim => {
                    let at = self.prefix_products(&order).iter().position(|&product| product == split_factor);
                    order.insert(at.unwrap_or(order.len()), right);
                }
                _ => {}
            }
        }
        let mut products = self.prefix_products(&order);
        products.dedup();
        products
    }

    /// Products of the sizes of the first 0, 1, ... axes. They cannot overflow: the mesh has at most 2^32 - 1 ranks.
    fn prefix_products(&self, axes: &[usize]) -> Vec<u32> {
        let sizes = axes.iter().map(|&axis| self.grid.axes()[axis].size);
        let running = sizes.scan(1u32, |product, size| {
            *product *= size;
            Some(*product)
        });
        std::iter::once(1).chain(running).collect()
    }

    fn check(&mut self, rules: &[AxisRule]) -> Option<(Vec<AxisRule>, Layout)> {
        self.tried += 1;
        let placements = rules.iter().map(|rule| rule.placement).collect();
        let layout = Layout::new(self.grid.clone(), placements, self.shape.to_vec()).ok()?;
        let same = self.held.iter().all(|(coordinates, region)| layout.region_at(coordinates) == **region);
        same.then(|| (rules.to_vec(), layout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The boxes that a layout gives, each once, written by the ranks whose replica coordinates are `owner`.
    fn boxes_of(layout: &Layout, owner: &[u32]) -> Vec<(u32, Region)> {
        let mut boxes = Vec::new();
        layout.visit_overlapping(&Region::whole(layout.shape()), owner, &mut |coordinates, region| {
            boxes.push((layout.mesh().rank_at(coordinates), region.clone()));
        });
        boxes
    }

    fn placements(dims: u32, sizes: &[u32]) -> Vec<Vec<Placement>> {
        let mut all: Vec<Vec<Placement>> = vec![vec![]];
        for &size in sizes {
            let mut choices = vec![Placement::Replicate, Placement::Only { coordinate: size - 1 }];
            for dim in 0..dims {
                choices.push(Placement::Shard { dim });
                choices.extend([2, 4].map(|split_factor| Placement::StridedShard { dim, split_factor }));
            }
            all = all
                .iter()
                .flat_map(|head| choices.iter().map(move |next| [&head[..], &[*next]].concat()))
                .collect();
        }
        all
    }

    #[test]
    fn finds_every_layout_of_small_meshes_again() {
        let mut fitted = 0;
        for (sizes, shape) in [
            (vec![4], vec![8]),
            (vec![2, 2], vec![7, 3]),
            (vec![2, 2, 2], vec![16]),
            (vec![2, 2, 2], vec![13, 4]),
            (vec![3, 1, 2], vec![5, 6]),
        ] {
            let names = ["a", "b", "c"].into_iter().zip(sizes.iter().copied());
            let grid = Arc::new(Mesh::new(names).unwrap());
            for placements in placements(shape.len() as u32, &sizes) {
                let Ok(layout) = Layout::new(grid.clone(), placements, shape.clone()) else { continue };
                let owner: Vec<u32> = sizes.iter().map(|size| size - 1).collect();
                let boxes = boxes_of(&layout, &owner);
                let (rules, found) = fit(&grid, &shape, &boxes).unwrap_or_else(|| panic!("{layout:?}"));
                let owner: Vec<u32> = rules.iter().map(|rule| rule.owner).collect();
                let mut again = boxes_of(&found, &owner);
                let mut boxes = boxes;
                again.sort();
                boxes.sort();
                assert_eq!(again, boxes);
                fitted += 1;
            }
        }
        assert!(fitted > 200, "only {fitted} layouts were possible");
    }

    #[test]
    fn refuses_what_no_placement_gives() {
        let grid = Arc::new(Mesh::new([("writer", 2)]).unwrap());
        let row = |start, extent| Region::new([start], [extent]);
        assert!(fit(&grid, &[8], &[(0, row(0, 4)), (1, row(4, 4))]).is_some());
        assert!(fit(&grid, &[8], &[(0, row(0, 3)), (1, row(3, 5))]).is_none(), "not torch.chunk");
        assert!(fit(&grid, &[8], &[(1, row(0, 4)), (0, row(4, 4))]).is_none(), "wrong order");
        assert!(fit(&grid, &[8], &[(0, row(0, 4)), (0, row(4, 4))]).is_none(), "two of one writer");
        assert!(fit(&grid, &[8], &[(0, row(0, 4)), (2, row(4, 4))]).is_none(), "outside the grid");
        assert!(fit(&grid, &[8], &[(0, row(0, 4))]).is_none(), "a gap");
        assert!(fit(&grid, &[0], &[(0, row(0, 0))]).is_none(), "no elements");
    }
}
