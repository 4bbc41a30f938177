//! One-to-one maps between elements of two tensors: what every rearrangement of a conversion is made of.
//!
//! A [`Link`] has a box of indices of its own. At each [`End`] every index dim steps along one dim of that end's tensor, by
//! a fixed number of elements. So one link says for all of a rotary permutation, with head `a`, half `p`, pair `i` and
//! column `c`:
//!
//! ```text
//! extent            H          2          d/2       columns
//! native    row = a * d  +  p * 1   +  i * 2        column = c
//! outside   row = a * d  +  p * d/2 +  i * 1        column = c
//! ```
//!
//! Both directions are read off it. To read one end as a view of the other it is cut in [`Piece`]s: boxes of the target
//! whose elements lie in the source at fixed distances. Integers in, integers out.

use dcp::layout::Region;

/// One tensor's side of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct End {
    /// The tensor's name.
    pub name: String,
    /// Its element at index zero.
    pub start: Vec<u64>,
    /// For each dim of the indices, the tensor's dim along which it steps, and by how much.
    pub steps: Vec<(usize, u64)>,
}

impl End {
    /// The least shape that holds its elements.
    pub fn shape(&self, extent: &[u64]) -> Vec<u64> {
        let mut shape: Vec<u64> = self.start.iter().map(|start| start + 1).collect();
        for (&(dim, step), &extent) in self.steps.iter().zip(extent) {
            shape[dim] += extent.saturating_sub(1) * step;
        }
        shape
    }
}

/// A one-to-one map between elements of a native tensor and of an outside one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The box of indices.
    pub extent: Vec<u64>,
    /// Where they are in the native tensor.
    pub native: End,
    /// Where they are in the outside one.
    pub outside: End,
}

/// A box of the target, and where its elements are in the source.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The box.
    pub region: Region,
    /// The source's element of the box's first.
    pub source_start: Vec<u64>,
    /// For each dim of the target, the source's dim along which it steps, and by how much; `None` where the box is one
    /// element wide.
    pub steps: Vec<Option<(usize, u64)>>,
}

impl Link {
    /// The same tensor under two names.
    pub fn same(native: impl Into<String>, outside: impl Into<String>, shape: &[u64]) -> Self {
        let end = |name| End {
            name,
            start: vec![0; shape.len()],
            steps: (0..shape.len()).map(|dim| (dim, 1)).collect(),
        };
        Link { extent: shape.to_vec(), native: end(native.into()), outside: end(outside.into()) }
    }

    /// Part of the native tensor: its first element there.
    pub fn native_from(mut self, start: &[u64]) -> Self {
        self.native.start = start.to_vec();
        self
    }

    /// Part of the outside tensor: its first element there.
    pub fn outside_from(mut self, start: &[u64]) -> Self {
        self.outside.start = start.to_vec();
        self
    }

    /// The outside tensor has the last two dims the other way round.
    pub fn transposed(mut self) -> Self {
        let rank = self.outside.start.len();
        for (dim, _) in &mut self.outside.steps {
            *dim = match rank - *dim {
                1 => rank - 2,
                2 => rank - 1,
                _ => *dim,
            };
        }
        self
    }

    /// The native tensor is one of a stack: number `index` along a new first dim.
    pub fn in_native_stack(mut self, index: u64) -> Self {
        self.native.start.insert(0, index);
        self.native.steps.iter_mut().for_each(|(dim, _)| *dim += 1);
        self
    }

    /// Rows of heads that are pairs of neighbours natively, and two halves outside: the layouts of rotary embeddings that
    /// multiply complex numbers, and of those that rotate halves. `shape` is `[heads * head_dim, ...]`.
    pub fn rotary(native: impl Into<String>, outside: impl Into<String>, shape: &[u64], heads: u64) -> Self {
        let head_dim = shape[0] / heads;
        let rest = || (1..shape.len()).map(|dim| (dim, 1));
        let end = |name, steps: [u64; 3]| End {
            name,
            start: vec![0; shape.len()],
            steps: steps.into_iter().map(|step| (0, step)).chain(rest()).collect(),
        };
        Link {
            extent: [heads, 2, head_dim / 2].into_iter().chain(shape[1..].iter().copied()).collect(),
            native: end(native.into(), [head_dim, 1, 2]),
            outside: end(outside.into(), [head_dim, head_dim / 2, 1]),
        }
    }

    /// The outside tensor as pieces of the native one.
    pub fn outward(&self) -> Pieces {
        Pieces::new(&self.extent, &self.outside, &self.native)
    }

    /// The native tensor as pieces of the outside one.
    pub fn inward(&self) -> Pieces {
        Pieces::new(&self.extent, &self.native, &self.outside)
    }
}

/// One index dim between target and source.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Step {
    extent: u64,
    target: (usize, u64),
    source: (usize, u64),
}

/// The pieces of a target, in the order of the indices; computed when asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pieces {
    target_start: Vec<u64>,
    source_start: Vec<u64>,
    /// Index dims that make the boxes.
    inner: Vec<Step>,
    /// Index dims that step from box to box.
    outer: Vec<Step>,
}

impl Pieces {
    fn new(extent: &[u64], target: &End, source: &End) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        for ((&extent, &target), &source) in extent.iter().zip(&target.steps).zip(&source.steps) {
            let step = Step { extent, target, source };
            match steps.last_mut() {
                // Two dims that follow each other without a gap on both sides are one.
                Some(last) if last.is_continued_by(&step) => {
                    *last = Step { extent: last.extent * extent, ..step };
                }
                _ => steps.push(step),
            }
        }
        let (mut inner, mut outer) = (Vec::<Step>::new(), Vec::new());
        for step in steps.into_iter().rev() {
            let is_taken = |taken: &Step| taken.target.0 == step.target.0 || taken.source.0 == step.source.0;
            match step.target.1 == 1 && !inner.iter().any(is_taken) {
                true => inner.push(step),
                false => outer.insert(0, step),
            }
        }
        Pieces { target_start: target.start.clone(), source_start: source.start.clone(), inner, outer }
    }

    /// Calls `visit` with each piece that overlaps `wanted`, a box of the target. Takes time for those alone.
    pub fn visit<E>(&self, wanted: &Region, visit: &mut dyn FnMut(Piece) -> Result<(), E>) -> Result<(), E> {
        self.descend(0, &mut self.target_start.clone(), &mut self.source_start.clone(), wanted, visit)
    }

    fn descend<E>(
        &self,
        level: usize,
        start: &mut [u64],
        source_start: &mut [u64],
        wanted: &Region,
        visit: &mut dyn FnMut(Piece) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(step) = self.outer.get(level) else {
            let piece = self.piece(start.to_vec(), source_start.to_vec());
            return if piece.region.overlaps(wanted) { visit(piece) } else { Ok(()) };
        };
        let (dim, distance) = step.target;
        // What lies between the first and the last element of all pieces below this one.
        let below = self.outer[level + 1..].iter().chain(&self.inner).filter(|below| below.target.0 == dim);
        let span: u64 = below.map(|below| below.extent.saturating_sub(1) * below.target.1).sum();
        let (first, source_first) = (start[dim], source_start[step.source.0]);
        let from = wanted.start[dim].saturating_sub(first + span).div_ceil(distance);
        let until = wanted.end(dim).saturating_sub(first).div_ceil(distance).min(step.extent);
        for at in from..until {
            start[dim] = first + at * distance;
            source_start[step.source.0] = source_first + at * step.source.1;
            self.descend(level + 1, start, source_start, wanted, visit)?;
        }
        (start[dim], source_start[step.source.0]) = (first, source_first);
        Ok(())
    }

    /// How many there are.
    pub fn count(&self) -> u64 {
        self.outer.iter().map(|step| step.extent).product()
    }

    /// Number `index` of them.
    pub fn get(&self, mut index: u64) -> Piece {
        let (mut start, mut source_start) = (self.target_start.clone(), self.source_start.clone());
        for step in self.outer.iter().rev() {
            let at = index % step.extent.max(1);
            index /= step.extent.max(1);
            start[step.target.0] += at * step.target.1;
            source_start[step.source.0] += at * step.source.1;
        }
        self.piece(start, source_start)
    }

    fn piece(&self, start: Vec<u64>, source_start: Vec<u64>) -> Piece {
        let (mut extent, mut steps) = (vec![1; start.len()], vec![None; start.len()]);
        for step in &self.inner {
            extent[step.target.0] = step.extent;
            steps[step.target.0] = Some(step.source);
        }
        Piece { region: Region { start, extent }, source_start, steps }
    }
}

impl Step {
    fn is_continued_by(&self, next: &Step) -> bool {
        let is_continued =
            |outer: (usize, u64), inner: (usize, u64)| outer.0 == inner.0 && outer.1 == inner.1 * next.extent;
        is_continued(self.target, next.target) && is_continued(self.source, next.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    /// Where each element of the target is in the source, by the pieces.
    fn elements(pieces: &Pieces) -> BTreeMap<Vec<u64>, Vec<u64>> {
        let mut found = BTreeMap::new();
        for index in 0..pieces.count() {
            let piece = pieces.get(index);
            for number in 0..piece.region.elements() {
                let (mut rest, mut target, mut source) =
                    (number, piece.region.start.clone(), piece.source_start.clone());
                for dim in (0..target.len()).rev() {
                    let at = rest % piece.region.extent[dim];
                    rest /= piece.region.extent[dim];
                    target[dim] += at;
                    if let Some((source_dim, step)) = piece.steps[dim] {
                        source[source_dim] += at * step;
                    }
                }
                assert!(found.insert(target, source).is_none(), "an element is there twice");
            }
        }
        found
    }

    fn check(link: &Link) {
        let (outward, inward) = (elements(&link.outward()), elements(&link.inward()));
        let back: BTreeMap<_, _> =
            outward.iter().map(|(outside, native)| (native.clone(), outside.clone())).collect();
        assert_eq!(back, inward, "one direction is the other's inverse");
        assert_eq!(outward.len() as u64, link.extent.iter().product::<u64>());
    }

    #[test]
    fn rotary_is_that_of_the_reference() {
        // hf-side row a*d + p*(d/2) + i is native row a*d + 2i + p, as in transformers' convert_llama_weights_to_hf.
        let (heads, head_dim) = (3, 8);
        let link = Link::rotary("n", "o", &[heads * head_dim, 2], heads);
        check(&link);
        for (outside, native) in elements(&link.outward()) {
            let (a, p, i) = (outside[0] / head_dim, outside[0] % head_dim / 4, outside[0] % 4);
            assert_eq!(native, [a * head_dim + 2 * i + p, outside[1]]);
        }
        assert_eq!(link.outward().count(), heads * 2);
        assert_eq!(link.inward().count(), heads * head_dim / 2);
        assert_eq!(link.outside.shape(&link.extent), [24, 2]);
        assert_eq!(link.native.shape(&link.extent), [24, 2]);
    }

    #[test]
    fn a_transposed_stack_is_one_piece() {
        let link = Link::same("n", "o", &[4, 3, 5]).transposed();
        check(&link);
        assert_eq!(link.outside.shape(&link.extent), [4, 5, 3]);
        assert_eq!(link.outward().count(), 1);
        let piece = link.outward().get(0);
        assert_eq!(piece.steps, [Some((0, 1)), Some((2, 1)), Some((1, 1))]);
    }

    #[test]
    fn one_of_a_stack_is_one_piece() {
        let link = Link::same("n", "o", &[3, 5]).in_native_stack(7);
        check(&link);
        assert_eq!(link.native.shape(&link.extent), [8, 3, 5]);
        assert_eq!((link.outward().count(), link.inward().count()), (1, 1));
        assert_eq!(link.outward().get(0).source_start, [7, 0, 0]);
    }

    proptest! {
        #[test]
        fn each_element_has_one_place(
            heads in 1u64..4, half in 1u64..4, columns in 1u64..4,
            native in (0u64..3, 0u64..3), outside in (0u64..3, 0u64..3),
            transpose in any::<bool>(), stack in prop::option::of(0u64..3),
        ) {
            let mut link = Link::rotary("n", "o", &[heads * half * 2, columns], heads);
            link = link.native_from(&[native.0, native.1]).outside_from(&[outside.0, outside.1]);
            if transpose {
                link = link.transposed();
            }
            if let Some(index) = stack {
                link = link.in_native_stack(index);
            }
            check(&link);
            for pieces in [link.outward(), link.inward()] {
                let all: Vec<Piece> = (0..pieces.count()).map(|index| pieces.get(index)).collect();
                for wanted in all.iter().map(|piece| piece.region.clone()).chain([Region::whole(&[5; 3][..all[0].region.rank()])]) {
                    let mut found = Vec::new();
                    pieces.visit::<()>(&wanted, &mut |piece| { found.push(piece); Ok(()) }).unwrap();
                    let expected: Vec<Piece> = all.iter().filter(|piece| piece.region.overlaps(&wanted)).cloned().collect();
                    prop_assert_eq!(found, expected);
                }
            }
            let inside = |shape: Vec<u64>, at: &[u64]| at.iter().zip(&shape).all(|(at, len)| at < len);
            let pairs = elements(&link.outward());
            let natives: BTreeSet<_> = pairs.values().collect();
            prop_assert_eq!(natives.len(), pairs.len());
            for (outside, native) in &pairs {
                prop_assert!(inside(link.outside.shape(&link.extent), outside));
                prop_assert!(inside(link.native.shape(&link.extent), native));
            }
        }
    }
}
