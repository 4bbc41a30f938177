//! A box cut in boxes.

use super::Region;

/// Iterator over boxes of one size that tile a box, in row-major order of their corners; those at its ends are smaller.
#[derive(Clone, Debug)]
pub struct Strips {
    outer: Region,
    /// Most elements of a piece in each dim.
    extent: Vec<u64>,
    next: Option<Vec<u64>>,
}

impl Strips {
    /// Pieces of at most `extent[d]` elements, and of one at least, in each dim `d`.
    ///
    /// Panics: when the two differ in their number of dims.
    pub fn new(outer: Region, mut extent: Vec<u64>) -> Self {
        assert_eq!(outer.rank(), extent.len(), "outer and extent have the same number of dims");
        extent.iter_mut().for_each(|extent| *extent = (*extent).max(1));
        let next = (!outer.is_empty()).then(|| outer.start.clone());
        Strips { outer, extent, next }
    }

    fn advance(&self, mut start: Vec<u64>) -> Option<Vec<u64>> {
        for dim in (0..start.len()).rev() {
            start[dim] = start[dim].saturating_add(self.extent[dim]);
            if start[dim] < self.outer.end(dim) {
                return Some(start);
            }
            start[dim] = self.outer.start[dim];
        }
        None
    }
}

impl Iterator for Strips {
    type Item = Region;

    fn next(&mut self) -> Option<Region> {
        let start = self.next.take()?;
        let extent =
            (0..start.len()).map(|dim| self.extent[dim].min(self.outer.end(dim) - start[dim])).collect();
        let piece = Region { start, extent };
        self.next = self.advance(piece.start.clone());
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_is_one_strip() {
        let scalar = Region::whole(&[]);
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

    #[test]
    fn boxes_of_any_size_have_every_element_once() {
        for shape in small_shapes() {
            let region = Region::new(vec![2; shape.len()], shape.clone());
            for code in 0..4u64.pow(shape.len() as u32) {
                let extent: Vec<u64> = (0..shape.len()).map(|dim| code / 4u64.pow(dim as u32) % 4).collect();
                let pieces: Vec<Region> = Strips::new(region.clone(), extent.clone()).collect();
                assert_eq!(pieces.iter().map(Region::elements).sum::<u64>(), region.elements());
                assert!(pieces.is_sorted() && pieces.iter().all(|piece| region.contains(piece)));
                assert!(
                    pieces.iter().all(|piece| piece
                        .extent
                        .iter()
                        .zip(&extent)
                        .all(|(n, most)| n <= most.max(&1)))
                );
                for (index, piece) in pieces.iter().enumerate() {
                    assert!(
                        pieces[..index].iter().all(|other| !other.overlaps(piece)),
                        "{region:?} in {extent:?}"
                    );
                }
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
