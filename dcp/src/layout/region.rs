//! N-dimensional boxes of elements.

use super::strips::Strips;

/// A box: `extent[d]` elements from `start[d]` on, in every dim `d`. A 0-d region is the one element of a scalar.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Region {
    /// First element in each dim.
    pub start: Vec<u64>,
    /// Number of elements in each dim.
    pub extent: Vec<u64>,
}

impl Region {
    /// A box from its corner and size.
    ///
    /// Panics: when the two differ in their number of dims.
    pub fn new(start: impl Into<Vec<u64>>, extent: impl Into<Vec<u64>>) -> Self {
        let (start, extent) = (start.into(), extent.into());
        assert_eq!(start.len(), extent.len(), "start and extent have the same number of dims");
        Region { start, extent }
    }

    /// The whole of a tensor of this shape.
    pub fn whole(shape: &[u64]) -> Self {
        Region { start: vec![0; shape.len()], extent: shape.to_vec() }
    }

    /// Number of dims.
    pub fn rank(&self) -> usize {
        self.extent.len()
    }

    /// Number of elements, saturating at `u64::MAX`; 1 for a 0-d region.
    pub fn elements(&self) -> u64 {
        if self.is_empty() { 0 } else { self.extent.iter().fold(1, |product, &n| product.saturating_mul(n)) }
    }

    /// Whether it holds no element.
    pub fn is_empty(&self) -> bool {
        self.extent.contains(&0)
    }

    /// One past the last element in dim `dim`.
    pub fn end(&self, dim: usize) -> u64 {
        self.start[dim] + self.extent[dim]
    }

    /// The common part of two boxes with the same number of dims; `None` where they share no element.
    pub fn intersect(&self, other: &Region) -> Option<Region> {
        debug_assert_eq!(self.rank(), other.rank());
        let mut common =
            Region { start: Vec::with_capacity(self.rank()), extent: Vec::with_capacity(self.rank()) };
        for dim in 0..self.rank() {
            let start = self.start[dim].max(other.start[dim]);
            let end = self.end(dim).min(other.end(dim));
            if start >= end {
                return None;
            }
            common.start.push(start);
            common.extent.push(end - start);
        }
        Some(common)
    }

    /// Whether the boxes share at least one element.
    pub fn overlaps(&self, other: &Region) -> bool {
        (0..self.rank()).all(|dim| self.start[dim].max(other.start[dim]) < self.end(dim).min(other.end(dim)))
    }

    /// Whether every element of `inner` is in this box.
    pub fn contains(&self, inner: &Region) -> bool {
        inner.is_empty()
            || (0..self.rank())
                .all(|dim| self.start[dim] <= inner.start[dim] && inner.end(dim) <= self.end(dim))
    }

    /// The same box in the coordinates of `outer`, whose corner becomes the origin.
    ///
    /// Panics: in debug builds, when `outer` does not contain it.
    pub fn relative_to(&self, outer: &Region) -> Region {
        debug_assert!(outer.contains(self), "{self:?} is not inside {outer:?}");
        let start = self.start.iter().zip(&outer.start).map(|(own, origin)| own - origin).collect();
        Region { start, extent: self.extent.clone() }
    }

    /// Position of the box's first element in an array of `outer` with these strides: elements before it.
    pub fn position_in(&self, outer: &Region, strides: &[u64]) -> u64 {
        debug_assert!(outer.contains(self), "{self:?} is not inside {outer:?}");
        (0..self.rank()).map(|dim| (self.start[dim] - outer.start[dim]) * strides[dim]).sum()
    }

    /// Cuts the box into boxes of at most `elements_max` elements (at least 1), each of which is contiguous in the
    /// row-major order of this box, and of every box that spans the same or fewer elements of the inner dims.
    ///
    /// Each piece fixes the leading dims to one index, takes a range of one dim and all of the dims after it.
    pub fn strips(&self, elements_max: u64) -> Strips {
        let mut extent = vec![1; self.rank()];
        let mut room = elements_max.max(1);
        // Walk outwards while the inner dims fit whole.
        for dim in (0..self.rank()).rev() {
            extent[dim] = self.extent[dim].min(room).max(1);
            room /= extent[dim];
            if extent[dim] < self.extent[dim] {
                break;
            }
        }
        Strips::new(self.clone(), extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_one_element() {
        let scalar = Region::whole(&[]);
        assert_eq!(scalar.elements(), 1);
        assert!(!scalar.is_empty());
        assert_eq!(scalar.intersect(&scalar), Some(scalar.clone()));
    }
}
