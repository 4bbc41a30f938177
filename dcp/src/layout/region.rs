//! N-dimensional boxes of elements.

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
        let mut inner = 1u64;
        let mut split_dim = self.rank();
        // Walk outwards while the inner dims fit whole.
        while split_dim > 0 && inner.saturating_mul(self.extent[split_dim - 1]) <= elements_max.max(1) {
            inner *= self.extent[split_dim - 1];
            split_dim -= 1;
        }
        let step = (elements_max.max(1) / inner.max(1)).max(1);
        Strips { outer: self.clone(), split_dim, step, next: (!self.is_empty()).then(|| self.start.clone()) }
    }
}

/// Iterator over the pieces of [`Region::strips`], in row-major order.
#[derive(Clone, Debug)]
pub struct Strips {
    outer: Region,
    /// The dim in which a range is taken is `split_dim - 1`; 0 means that the whole box is one piece.
    split_dim: usize,
    step: u64,
    next: Option<Vec<u64>>,
}

impl Iterator for Strips {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        let start = self.next.take()?;
        let mut extent = self.outer.extent.clone();
        if self.split_dim == 0 {
            return Some(Region { start, extent });
        }
        let range_dim = self.split_dim - 1;
        extent[..range_dim].fill(1);
        extent[range_dim] = self.step.min(self.outer.end(range_dim) - start[range_dim]);
        let piece = Region { start: start.clone(), extent };
        self.next = self.advance(start, piece.extent[range_dim]);
        Some(piece)
    }
}

impl Strips {
    fn advance(&self, mut start: Vec<u64>, taken: u64) -> Option<Vec<u64>> {
        let range_dim = self.split_dim - 1;
        start[range_dim] += taken;
        for dim in (0..=range_dim).rev() {
            if start[dim] < self.outer.end(dim) {
                return Some(start);
            }
            start[dim] = self.outer.start[dim];
            if dim > 0 {
                start[dim - 1] += 1;
            }
        }
        None
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
        assert_eq!(scalar.strips(10).collect::<Vec<_>>(), vec![scalar]);
    }

    #[test]
    fn strips_of_a_large_row_split_the_row() {
        let region = Region::new([4, 0], [2, 5]);
        let pieces: Vec<_> = region.strips(2).collect();
        assert_eq!(pieces.len(), 6);
        assert_eq!(pieces[2], Region::new([4, 4], [1, 1]));
        assert_eq!(pieces[3], Region::new([5, 0], [1, 2]));
        assert_eq!(Region::new([0], [0]).strips(3).count(), 0);
    }

    #[test]
    fn strips_tile_the_region_in_order_for_all_small_boxes() {
        for shape in small_shapes() {
            for elements_max in 1..=9 {
                let region = Region::new(vec![1; shape.len()], shape.clone());
                let mut seen = 0;
                for piece in region.strips(elements_max) {
                    assert!(piece.elements() <= elements_max && !piece.is_empty());
                    // Row-major position of the piece's corner: contiguous pieces in order leave no gap.
                    let at = piece.start.iter().zip(&shape).fold(0, |at, (&start, &n)| at * n + start - 1);
                    assert_eq!(at, seen, "{region:?} cut at {elements_max}");
                    seen += piece.elements();
                }
                assert_eq!(seen, region.elements());
            }
        }
    }

    fn small_shapes() -> Vec<Vec<u64>> {
        let mut shapes = vec![vec![]];
        for dims in 1..=3u32 {
            for code in 0..4u64.pow(dims) {
                shapes.push((0..dims).map(|dim| code / 4u64.pow(dim) % 4).collect());
            }
        }
        shapes
    }
}
