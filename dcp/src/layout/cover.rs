//! Do boxes tile a tensor exactly once?

use super::Region;

/// The first thing wrong with a set of boxes that should tile a tensor.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Gap {
    /// Box `index` reaches outside the tensor.
    OutOfBounds {
        /// Position in the list given.
        index: usize,
    },
    /// Two boxes share elements.
    Overlap {
        /// Position of one in the list given.
        first: usize,
        /// Position of the other.
        second: usize,
    },
    /// Some element is in no box.
    Missing {
        /// Elements that boxes cover.
        covered: u64,
        /// Elements of the tensor.
        total: u64,
        /// One element that no box covers.
        at: Vec<u64>,
    },
}

/// Checks that boxes tile a tensor of shape `shape`: in bounds, disjoint, complete. Empty boxes are ignored.
///
/// Shapes: every region has as many dims as `shape`. Cost: a sweep along the dim with the most distinct starts, about
/// n log n for a grid of n boxes cut along one dim.
///
/// Errors: the first [`Gap`] found.
pub fn cover(shape: &[u64], regions: &[Region]) -> Result<(), Gap> {
    let whole = Region::whole(shape);
    let mut covered = 0u64;
    let mut live: Vec<usize> = Vec::with_capacity(regions.len());
    for (index, region) in regions.iter().enumerate().filter(|(_, region)| !region.is_empty()) {
        if !whole.contains(region) {
            return Err(Gap::OutOfBounds { index });
        }
        covered = covered.saturating_add(region.elements());
        live.push(index);
    }
    if let Some((first, second)) = first_overlap(shape.len(), regions, live) {
        return Err(Gap::Overlap { first, second });
    }
    match whole.elements() {
        total if covered == total => Ok(()),
        total => Err(Gap::Missing { covered, total, at: first_missing(&whole, regions).unwrap_or_default() }),
    }
}

/// Sweeps along the dim with the most distinct starts, keeping the boxes that are open at the sweep's position.
fn first_overlap(dims: usize, regions: &[Region], mut live: Vec<usize>) -> Option<(usize, usize)> {
    if dims == 0 {
        return (live.len() > 1).then(|| (live[0], live[1]));
    }
    let distinct = |dim: usize| {
        let mut starts: Vec<u64> = live.iter().map(|&index| regions[index].start[dim]).collect();
        starts.sort_unstable();
        starts.dedup();
        starts.len()
    };
    let sweep = (0..dims).max_by_key(|&dim| distinct(dim)).unwrap_or(0);
    live.sort_by_key(|&index| regions[index].start[sweep]);
    let mut open: Vec<usize> = Vec::new();
    for &index in &live {
        let region = &regions[index];
        open.retain(|&other| regions[other].end(sweep) > region.start[sweep]);
        if let Some(&other) = open.iter().find(|&&other| regions[other].overlaps(region)) {
            return Some((other, index));
        }
        open.push(index);
    }
    None
}

/// Finds an uncovered element by cutting the boxes out of the whole, one after the other.
///
/// Gives up where that would take long: the caller then knows how much is missing, not where.
fn first_missing(whole: &Region, regions: &[Region]) -> Option<Vec<u64>> {
    const PARTS_MAX: usize = 10_000;
    let mut rest = vec![whole.clone()];
    for region in regions.iter().filter(|region| !region.is_empty()) {
        rest = rest.iter().flat_map(|part| subtract(part, region)).collect();
        if rest.len().max(regions.len()) > PARTS_MAX {
            return None;
        }
    }
    rest.into_iter().map(|part| part.start).min()
}

/// What remains of `from` without `cut`, as disjoint boxes.
fn subtract(from: &Region, cut: &Region) -> Vec<Region> {
    let Some(common) = from.intersect(cut) else { return vec![from.clone()] };
    let (mut parts, mut core) = (Vec::new(), from.clone());
    for dim in 0..from.rank() {
        let mut keep = |start: u64, end: u64| {
            if start < end {
                let mut part = core.clone();
                (part.start[dim], part.extent[dim]) = (start, end - start);
                parts.push(part);
            }
        };
        keep(core.start[dim], common.start[dim]);
        keep(common.end(dim), core.end(dim));
        (core.start[dim], core.extent[dim]) = (common.start[dim], common.extent[dim]);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_what_is_wrong() {
        let row = |start, extent| Region::new([start, 0], [extent, 3]);
        assert_eq!(cover(&[4, 3], &[row(0, 2), row(2, 2)]), Ok(()));
        assert_eq!(cover(&[4, 3], &[row(0, 2), row(2, 2), row(4, 0)]), Ok(()));
        assert_eq!(cover(&[4, 3], &[row(0, 2), row(2, 3)]), Err(Gap::OutOfBounds { index: 1 }));
        assert_eq!(cover(&[4, 3], &[row(0, 3), row(2, 2)]), Err(Gap::Overlap { first: 0, second: 1 }));
        let missing = Gap::Missing { covered: 9, total: 12, at: vec![1, 0] };
        assert_eq!(cover(&[4, 3], &[row(0, 1), row(2, 2)]), Err(missing));
        assert_eq!(cover(&[], &[Region::whole(&[])]), Ok(()));
        assert!(matches!(cover(&[], &[]), Err(Gap::Missing { .. })));
        assert!(matches!(cover(&[], &[Region::whole(&[]), Region::whole(&[])]), Err(Gap::Overlap { .. })));
        assert_eq!(cover(&[0, 3], &[]), Ok(()));
    }

    #[test]
    fn agrees_with_counting_on_every_pair_of_boxes_in_a_small_square() {
        let boxes: Vec<Region> = (0..3u64)
            .flat_map(|a| (0..3u64).map(move |b| (a, b)))
            .flat_map(|(a, b)| {
                (1..=3 - a).flat_map(move |h| (1..=3 - b).map(move |w| Region::new([a, b], [h, w])))
            })
            .collect();
        for first in &boxes {
            for second in &boxes {
                let mut counts = [0; 9];
                for region in [first, second] {
                    for row in region.start[0]..region.end(0) {
                        for column in region.start[1]..region.end(1) {
                            counts[(row * 3 + column) as usize] += 1;
                        }
                    }
                }
                let found = cover(&[3, 3], &[first.clone(), second.clone()]);
                match found {
                    Ok(()) => assert!(counts.iter().all(|&count| count == 1)),
                    Err(Gap::Overlap { .. }) => assert!(counts.iter().any(|&count| count > 1)),
                    Err(Gap::Missing { covered, at, .. }) => {
                        assert_eq!(covered, counts.iter().sum::<u64>());
                        assert_eq!(counts[(at[0] * 3 + at[1]) as usize], 0);
                    }
                    Err(Gap::OutOfBounds { .. }) => unreachable!("all boxes are inside"),
                }
            }
        }
    }
}
