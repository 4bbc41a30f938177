//! Which boxes a tensor is cut in on its way between two arrays that hold its elements in different orders.
//!
//! A box that is one run in the target is many short ones in the source, and the other way round. Both become long at
//! once only with the box: of `n` elements it has runs of about `sqrt(n)` on both sides, or of any length on one side
//! at the cost of the other. What is best depends on what a run costs on either side, so boxes between the two extremes
//! are compared by that.

use super::Runs;

/// What an element costs that is read and not wanted, beside one that is: so much that few are, whatever else it costs.
/// They are paid for on every way but the one out of the page cache.
const UNWANTED_COST: u64 = 1024;

/// Two arrays of one shape. Everything counts elements.
#[derive(Clone, Debug)]
pub struct Reorder<'a> {
    /// Distances in the source, one per dim.
    pub source_strides: &'a [u64],
    /// Size of the boxes in which the source has its elements at these distances.
    pub source_extent: &'a [u64],
    /// The shortest run that is read on its own.
    pub source_run_min: u64,
    /// What one more read costs: elements that could be read in the same time.
    pub source_run_cost: u64,
    /// What one more write to the target, which is row-major, costs.
    pub target_run_cost: u64,
    /// Most elements of a box, at least 1.
    pub elements_max: u64,
}

/// Whether walking dims in their order goes through an array with these strides forwards, apart from gaps.
pub fn in_order(extent: &[u64], strides: &[u64]) -> bool {
    let steps: Vec<u64> = (0..extent.len()).filter(|&dim| extent[dim] > 1).map(|dim| strides[dim]).collect();
    steps.is_sorted_by(|outer, inner| outer >= inner)
}

impl Reorder<'_> {
    /// The size of the boxes to cut a tensor or part of one of extent `whole`, not empty, in: at most
    /// `elements_max` elements.
    pub fn extent(&self, whole: &[u64]) -> Vec<u64> {
        let by_doubling = (0..64).map(|bits| 1u64 << bits).take_while(|&run| run < self.elements_max);
        let candidates = by_doubling.chain([self.elements_max.max(1)]).map(|run| self.candidate(whole, run));
        candidates.min_by_key(|extent| self.cost(whole, extent)).unwrap_or_else(|| vec![1; whole.len()])
    }

    /// A box with runs of about `run` elements in the target, as long ones in the source as there is then room for, and
    /// longer ones in the target with what is left.
    fn candidate(&self, whole: &[u64], run: u64) -> Vec<u64> {
        let target_order: Vec<usize> = (0..whole.len()).rev().collect();
        let mut source_order = target_order.clone();
        source_order.sort_by_key(|&dim| self.source_strides[dim]);
        let mut extent = vec![1; whole.len()];
        grow(&mut extent, whole, &target_order, run);
        grow(&mut extent, whole, &source_order, self.elements_max);
        grow(&mut extent, whole, &target_order, self.elements_max);
        (0..whole.len()).for_each(|dim| extent[dim] = self.fitted(extent[dim], whole[dim], dim));
        extent
    }

    /// Cuts a dim where the source is cut, or a piece of the source evenly: a box that has most of a run would have it
    /// all read.
    fn fitted(&self, extent: u64, whole: u64, dim: usize) -> u64 {
        let piece = self.piece(whole, dim);
        match extent {
            _ if extent == whole => extent,
            _ if extent >= piece => extent - extent % piece,
            _ => piece.div_ceil(piece.div_ceil(extent)),
        }
    }

    fn piece(&self, whole: u64, dim: usize) -> u64 {
        self.source_extent[dim].clamp(1, whole.max(1))
    }

    /// What copying everything in boxes of this size costs.
    fn cost(&self, whole: &[u64], extent: &[u64]) -> u128 {
        let product = |counts: &mut dyn Iterator<Item = u64>| counts.map(u128::from).product::<u128>();
        let dims = || 0..whole.len();
        let boxes = product(&mut dims().map(|dim| whole[dim].div_ceil(extent[dim])));
        let piece: Vec<u64> = dims().map(|dim| extent[dim].min(self.piece(whole[dim], dim))).collect();
        let pieces = product(&mut dims().map(|dim| extent[dim].div_ceil(piece[dim])));
        let source = Runs::new(&piece, self.source_strides);
        let (reads, read) = match source.are_apart(self.source_run_min) {
            true => (source.wanted / source.run, source.wanted),
            false => (1, source.span),
        };
        let target = Runs::in_row_major(extent, whole);
        let writes = u128::from(target.wanted / target.run);
        let read = source.wanted + (read - source.wanted) * UNWANTED_COST;
        let reading = u128::from(reads) * u128::from(self.source_run_cost) + u128::from(read);
        boxes * (pieces * reading + writes * u128::from(self.target_run_cost))
    }
}

/// Extends a box in the dims of `order`, one after the other, up to so many elements.
fn grow(extent: &mut [u64], whole: &[u64], order: &[usize], elements_max: u64) {
    for &dim in order {
        let others: u64 = extent.iter().product::<u64>() / extent[dim];
        extent[dim] = (elements_max / others).min(whole[dim]).max(extent[dim]);
        if extent[dim] < whole[dim] {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Region, Strips};
    use super::*;
    use proptest::prelude::*;

    /// As from a local disk to a local disk, in elements of 2 bytes.
    fn transposed<'a>(strides: &'a [u64], whole: &'a [u64], elements_max: u64) -> Reorder<'a> {
        Reorder {
            source_strides: strides,
            source_extent: whole,
            source_run_min: 2048,
            source_run_cost: 2048,
            target_run_cost: 4096,
            elements_max,
        }
    }

    /// Elements read over elements wanted, and the shortest read and write, of a reading in boxes of this size.
    fn measured(reorder: &Reorder, whole: &[u64], extent: &[u64]) -> (f64, u64, u64) {
        let (mut read, mut shortest) = (0, (u64::MAX, u64::MAX));
        for strip in Strips::new(Region::whole(whole), extent.to_vec()) {
            let source = Runs::new(&strip.extent, reorder.source_strides);
            let apart = source.are_apart(reorder.source_run_min);
            read += if apart { source.wanted } else { source.span };
            shortest.0 = shortest.0.min(if apart { source.run } else { source.span });
            shortest.1 = shortest.1.min(Runs::in_row_major(&strip.extent, whole).run);
        }
        (read as f64 / Region::whole(whole).elements() as f64, shortest.0, shortest.1)
    }

    #[test]
    fn an_expert_of_80_mib_is_read_once_in_any_budget() {
        let (whole, strides) = ([5120, 8192], [1, 5120]);
        // Bytes of a strip; then the least bytes of a read and of a write.
        for (strip_mib, read_bytes_min, write_bytes_min) in [
            (80, 80 << 20, 80 << 20),
            (64, 8 << 20, 8 << 10),
            (40, 8 << 20, 4 << 10),
            (10, 2 << 20, 1 << 10),
            (4, 1 << 20, 256),
        ] {
            let reorder = transposed(&strides, &whole, strip_mib << 19);
            let extent = reorder.extent(&whole);
            let (amplification, read, write) = measured(&reorder, &whole, &extent);
            assert!(amplification <= 1.1, "{extent:?} in {strip_mib} MiB: {amplification}");
            assert!(2 * read >= read_bytes_min, "{extent:?} in {strip_mib} MiB reads {}", 2 * read);
            assert!(2 * write >= write_bytes_min, "{extent:?} in {strip_mib} MiB writes {}", 2 * write);
        }
    }

    #[test]
    fn both_sides_have_long_runs_where_neither_can_have_whole_ones() {
        let (whole, strides) = ([65536, 65536], [1, 65536]);
        let reorder = transposed(&strides, &whole, 5 << 20);
        let extent = reorder.extent(&whole);
        let (amplification, read, write) = measured(&reorder, &whole, &extent);
        assert!(amplification <= 1.1 && read >= 1024 && write >= 1024, "{extent:?}");
    }

    #[test]
    fn reads_that_cost_much_are_whole() {
        let (whole, strides) = ([16384, 8192], [1, 16384]);
        let far = Reorder { source_run_cost: 1 << 19, ..transposed(&strides, &whole, 5 << 20) };
        let extent = far.extent(&whole);
        assert_eq!(extent[0], 16384, "{extent:?}");
    }

    #[test]
    fn boxes_end_where_the_sources_do() {
        let (whole, strides) = ([5120, 8192], [1, 1280]);
        let cut = Reorder { source_extent: &[1280, 8192], ..transposed(&strides, &whole, 5 << 20) };
        let extent = cut.extent(&whole);
        assert!(extent[0].is_multiple_of(1280) || 1280u64.is_multiple_of(extent[0]), "{extent:?}");
    }

    #[test]
    fn orders_are_compared_without_the_dims_of_one_element() {
        assert!(in_order(&[4, 3], &[3, 1]) && in_order(&[4, 3], &[100, 7]) && in_order(&[], &[]));
        assert!(!in_order(&[4, 3], &[1, 4]) && in_order(&[4, 1], &[1, 4]));
    }

    proptest! {
        #[test]
        fn boxes_fit_the_budget_and_the_tensor(
            dims in prop::collection::vec((1u64..5000, 1u64..5000, any::<u32>()), 0..5),
            elements_max in 1u64..1_000_000,
            costs in (1u64..10_000, 1u64..10_000, 1u64..10_000),
        ) {
            let whole: Vec<u64> = dims.iter().map(|dim| dim.0).collect();
            let source_extent: Vec<u64> = dims.iter().map(|dim| dim.1.min(dim.0)).collect();
            // A dense array of the source's boxes in a shuffled order of dims.
            let mut order: Vec<usize> = (0..dims.len()).collect();
            order.sort_by_key(|&dim| dims[dim].2);
            let mut strides = vec![0; dims.len()];
            order.iter().rev().fold(1, |stride, &dim| {
                strides[dim] = stride;
                stride * source_extent[dim]
            });
            let reorder = Reorder {
                source_strides: &strides,
                source_extent: &source_extent,
                source_run_min: costs.0,
                source_run_cost: costs.1,
                target_run_cost: costs.2,
                elements_max,
            };
            let extent = reorder.extent(&whole);
            prop_assert!(extent.iter().zip(&whole).all(|(extent, whole)| (1..=*whole).contains(extent)), "{:?}", extent);
            prop_assert!(extent.iter().product::<u64>() <= elements_max, "{:?}", extent);
        }
    }
}
