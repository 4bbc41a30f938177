//! Host memory for snapshots, kept from save to save so that its pages are there when they are written to.
//!
//! Tensors are packed into slabs: a large one has a slab of its own, small ones share. The same state gives the same
//! slabs, so that from the second save on nothing is allocated.

use crate::error::{Error, Result};
use crate::storage::{ALIGNMENT_BYTES, AlignedBuf, ReadAt};
use std::ops::Range;
use std::sync::Arc;

/// Small tensors share a slab of this size: a few huge pages.
const SLAB_BYTES: u64 = 16 << 20;

/// Slabs that no save uses now.
#[derive(Debug, Default)]
pub(super) struct Pool {
    free: Vec<(u64, AlignedBuf)>,
}

/// What a slab holds: pieces by their index, with their place in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SlabPlan {
    pub(super) byte_len: u64,
    /// Index of the piece, its first byte, its length.
    pub(super) pieces: Vec<(usize, u64, u64)>,
}

/// Packs pieces of these lengths, in order, as far as they fit; gives the slabs, and the pieces without room.
pub(super) fn pack(byte_lens: &[u64], bytes_max: u64) -> (Vec<SlabPlan>, Vec<usize>) {
    let (mut slabs, mut without): (Vec<SlabPlan>, _) = (Vec::new(), Vec::new());
    let (mut used, mut shared): (u64, Option<SlabPlan>) = (0, None);
    for (index, &byte_len) in byte_lens.iter().enumerate() {
        let padded = byte_len.next_multiple_of(ALIGNMENT_BYTES as u64);
        if padded >= SLAB_BYTES {
            match used.checked_add(padded).filter(|&used| used <= bytes_max) {
                Some(now) => {
                    used = now;
                    slabs.push(SlabPlan { byte_len: padded, pieces: vec![(index, 0, byte_len)] });
                }
                None => without.push(index),
            }
            continue;
        }
        if shared.as_ref().is_none_or(|slab| filled(slab) + padded > SLAB_BYTES) {
            if used + SLAB_BYTES > bytes_max {
                without.push(index);
                continue;
            }
            used += SLAB_BYTES;
            slabs.extend(shared.replace(SlabPlan { byte_len: SLAB_BYTES, pieces: Vec::new() }));
        }
        if let Some(slab) = &mut shared {
            let at = filled(slab);
            slab.pieces.push((index, at, byte_len));
        }
    }
    slabs.extend(shared);
    (slabs, without)
}

/// Where the next piece of a slab goes.
fn filled(slab: &SlabPlan) -> u64 {
    slab.pieces
        .last()
        .map_or(0, |&(_, at, byte_len)| (at + byte_len).next_multiple_of(ALIGNMENT_BYTES as u64))
}

impl Pool {
    /// Memory for these slabs, from earlier saves where there is some. Lets go of what is not needed any more, so that
    /// what is held never exceeds what was planned.
    ///
    /// Errors: [`Error::NoMemory`].
    pub(super) fn take_all(&mut self, plans: &[SlabPlan]) -> Result<Vec<Slab>> {
        let mut free = std::mem::take(&mut self.free);
        let found: Vec<Option<AlignedBuf>> = plans
            .iter()
            .map(|plan| {
                let at = free.iter().position(|(byte_len, _)| *byte_len == plan.byte_len)?;
                Some(free.swap_remove(at).1)
            })
            .collect();
        drop(free);
        let slab = |(plan, memory): (&SlabPlan, Option<AlignedBuf>)| {
            let (mut memory, byte_len) = (memory.unwrap_or_default(), plan.byte_len);
            let range = memory.lay_out([(0, byte_len as usize)].into_iter())?.remove(0);
            Ok(Slab { byte_len, memory, range })
        };
        plans.iter().zip(found).map(slab).collect()
    }

    /// Takes a slab back.
    pub(super) fn give(&mut self, slab: Slab) {
        self.free.push((slab.byte_len, slab.memory));
    }
}

/// Memory for pieces of a snapshot.
#[derive(Debug)]
pub(super) struct Slab {
    byte_len: u64,
    memory: AlignedBuf,
    range: Range<usize>,
}

impl Slab {
    pub(super) fn bytes(&self) -> &[u8] {
        self.memory.bytes(&self.range)
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory.bytes_mut(&self.range)
    }
}

/// A piece of a snapshot, for the engine to read.
#[derive(Clone, Debug)]
pub(super) struct Staged {
    pub(super) slab: Arc<Slab>,
    pub(super) range: Range<usize>,
}

impl Staged {
    fn bytes(&self) -> &[u8] {
        &self.slab.bytes()[self.range.clone()]
    }
}

impl ReadAt for Staged {
    fn byte_len(&self) -> u64 {
        self.range.len() as u64
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let end = byte_offset.saturating_add(target.len() as u64);
        let from = self.bytes().get(byte_offset as usize..end as usize);
        let from = from.ok_or_else(|| Error::Truncated {
            object: "a snapshot".to_owned(),
            found: self.byte_len(),
            expected: end,
        })?;
        target.copy_from_slice(from);
        Ok(())
    }

    fn memory(&self) -> Option<&[u8]> {
        Some(self.bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_piece_has_its_own_aligned_room_within_the_budget(
            byte_lens in prop::collection::vec(prop_oneof![0u64..10_000, 0u64..(40 << 20)], 0..40),
            bytes_max in 0u64..(400 << 20),
        ) {
            let (slabs, without) = pack(&byte_lens, bytes_max);
            prop_assert!(slabs.iter().map(|slab| slab.byte_len).sum::<u64>() <= bytes_max);
            let mut seen = without.clone();
            for slab in &slabs {
                let mut end = 0;
                for &(index, at, byte_len) in &slab.pieces {
                    prop_assert!(at >= end && at % ALIGNMENT_BYTES as u64 == 0);
                    prop_assert_eq!(byte_len, byte_lens[index]);
                    end = at + byte_len;
                    seen.push(index);
                }
                prop_assert!(end <= slab.byte_len);
            }
            seen.sort_unstable();
            prop_assert_eq!(seen, (0..byte_lens.len()).collect::<Vec<_>>());
            if byte_lens.iter().map(|len| len + (32 << 20)).sum::<u64>() <= bytes_max {
                prop_assert_eq!(without, Vec::<usize>::new());
            }
        }
    }

    #[test]
    fn memory_is_used_again_and_no_more_is_held_than_needed() {
        let plan = |byte_len| SlabPlan { byte_len, pieces: Vec::new() };
        let mut pool = Pool::default();
        let mut slabs = pool.take_all(&[plan(SLAB_BYTES), plan(3 * SLAB_BYTES)]).unwrap();
        slabs[0].bytes_mut()[5] = 7;
        let address = slabs[0].bytes().as_ptr();
        slabs.into_iter().for_each(|slab| pool.give(slab));
        let slabs = pool.take_all(&[plan(SLAB_BYTES)]).unwrap();
        assert_eq!((slabs[0].bytes().as_ptr(), slabs[0].bytes()[5]), (address, 7));
        assert!(pool.free.is_empty());
    }
}
