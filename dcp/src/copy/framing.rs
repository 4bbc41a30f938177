//! When the fixed bytes of an object are written: as late as the data beside them.
//!
//! An upload is cut in parts, and a part is kept in memory until all of it is there. Headers that are written long
//! before their neighbours would keep every part of a large object half-filled at once. So only what stands before the
//! first region is written at the start; the bytes between two regions follow the first of the two that is complete.

use crate::format::{ObjectDraft, Patch};
use crate::threads::lock;
use std::ops::RangeInclusive;
use std::sync::Mutex;

/// The fixed patches that are not written yet.
#[derive(Debug)]
pub(super) struct Framing<'a> {
    object: &'a ObjectDraft,
    /// For each placed region, how many stand before it in the object.
    ranks: Vec<u32>,
    /// The patches, by number, before the first region, between each two, and behind the last.
    gaps: Mutex<Vec<Vec<u32>>>,
}

impl<'a> Framing<'a> {
    pub(super) fn new(object: &'a ObjectDraft) -> Self {
        let mut order: Vec<u32> = (0..object.placed.len() as u32).collect();
        order.sort_by_key(|&placed| object.placed[placed as usize].byte_offset);
        let mut ranks = vec![0; order.len()];
        (0..).zip(&order).for_each(|(rank, &placed)| ranks[placed as usize] = rank);
        let mut gaps = vec![Vec::new(); order.len() + 1];
        for (number, patch) in (0..).zip(&object.fixed) {
            let starts_before =
                |&placed: &u32| object.placed[placed as usize].byte_offset <= patch.byte_offset;
            gaps[order.partition_point(starts_before)].push(number);
        }
        Framing { object, ranks, gaps: Mutex::new(gaps) }
    }

    /// What is written before any data.
    pub(super) fn first(&self) -> Vec<&'a Patch> {
        self.take(0..=0)
    }

    /// What stands on either side of a region and is not written yet.
    pub(super) fn around(&self, placed: u32) -> Vec<&'a Patch> {
        let rank = self.ranks[placed as usize] as usize;
        self.take(rank..=rank + 1)
    }

    /// All that is not written yet.
    pub(super) fn rest(&self) -> Vec<&'a Patch> {
        self.take(0..=self.ranks.len())
    }

    fn take(&self, gaps: RangeInclusive<usize>) -> Vec<&'a Patch> {
        let numbers = lock(&self.gaps)[gaps].iter_mut().flat_map(std::mem::take).collect::<Vec<u32>>();
        numbers.into_iter().map(|number| &self.object.fixed[number as usize]).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::PlacedRegion;
    use crate::layout::Region;
    use crate::storage::Key;

    #[test]
    fn every_patch_is_given_once_beside_its_region() {
        let place = |byte_offset| PlacedRegion { tensor: 0, region: Region::whole(&[10]), byte_offset };
        let patch = |byte_offset| Patch { byte_offset, bytes: vec![1] };
        let object = ObjectDraft {
            key: Key::root(),
            writer: 0,
            byte_len: 50,
            // Neither need be in the order of the object.
            fixed: [40, 0, 15, 17, 33].map(patch).into(),
            placed: [20, 5, 35].map(place).into(),
        };
        let offsets = |found: Vec<&Patch>| found.iter().map(|patch| patch.byte_offset).collect::<Vec<_>>();
        let framing = Framing::new(&object);
        assert_eq!(offsets(framing.first()), [0]);
        assert_eq!(offsets(framing.around(0)), [15, 17, 33]);
        assert!(framing.around(1).is_empty());
        assert_eq!(offsets(framing.rest()), [40]);
        assert!(framing.rest().is_empty());
        let none = ObjectDraft { placed: Vec::new(), ..object };
        assert_eq!(offsets(Framing::new(&none).first()), [40, 0, 15, 17, 33]);
    }
}
