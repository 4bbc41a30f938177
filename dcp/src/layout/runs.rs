//! How a box lies in an array.

use super::row_major;

/// Equal contiguous runs at regular distances. Counts elements.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Runs {
    /// Elements of a run.
    pub run: u64,
    /// Dims that step from run to run, the largest stride first.
    pub outer: Vec<usize>,
    /// From the first to the last element of the box, both included.
    pub span: u64,
    /// Elements of the box.
    pub wanted: u64,
}

impl Runs {
    /// The runs of a box of this extent, which is not empty, in an array with these strides, one per dim.
    pub fn new(extent: &[u64], strides: &[u64]) -> Self {
        let mut dims: Vec<usize> = (0..extent.len()).filter(|&dim| extent[dim] > 1).collect();
        dims.sort_by_key(|&dim| std::cmp::Reverse(strides[dim]));
        let last: u64 = dims.iter().map(|&dim| (extent[dim] - 1) * strides[dim]).sum();
        let mut run = 1;
        while let Some(&dim) = dims.last()
            && strides[dim] == run
        {
            run *= extent[dim];
            dims.pop();
        }
        Runs { run, outer: dims, span: last + 1, wanted: extent.iter().product() }
    }

    /// The runs of a box in a row-major array of extent `outer`.
    pub fn in_row_major(extent: &[u64], outer: &[u64]) -> Self {
        Runs::new(extent, &row_major(outer))
    }

    /// Whether the runs are best read one by one: long enough, and with more between them than in them. Otherwise the
    /// span is read at once and the box picked out of it.
    pub fn are_apart(&self, run_min: u64) -> bool {
        self.run >= run_min && self.span > 2 * self.wanted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_both_sides_allow() {
        let runs = Runs::in_row_major(&[2, 3, 5], &[4, 3, 5]);
        assert_eq!((runs.run, runs.outer.len(), runs.span), (30, 0, 30));
        let runs = Runs::in_row_major(&[2, 2, 5], &[4, 3, 5]);
        assert_eq!((runs.run, runs.outer, runs.span, runs.wanted), (10, vec![0], 25, 20));
        // A part of a transposed array: runs go down.
        let runs = Runs::new(&[4, 3], &[1, 100]);
        assert_eq!((runs.run, &runs.outer[..], runs.span), (4, &[1][..], 204));
        assert!(runs.are_apart(4) && !runs.are_apart(5));
        let scalar = Runs::new(&[], &[]);
        assert_eq!((scalar.run, scalar.span, scalar.wanted), (1, 1, 1));
    }
}
