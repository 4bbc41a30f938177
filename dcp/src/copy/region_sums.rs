//! Which placed regions are complete, and their CRCs, when they are written in strips of any order.

use crate::threads::lock;
use crc_fast::CrcAlgorithm;
use crc_fast::CrcAlgorithm::Crc32IsoHdlc;
use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// What was written of an object's placed regions.
#[derive(Debug, Default)]
pub(super) struct RegionSums(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Regions of which some bytes are there.
    open: HashMap<u32, Strips>,
    /// Regions of which all bytes are there, with their CRC.
    complete: HashMap<u32, u32>,
}

/// Bytes of a placed region that were written together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strip {
    /// Position in the region's bytes.
    pub(super) byte_offset: u64,
    pub(super) byte_len: u64,
    pub(super) crc32: Option<u32>,
}

/// The strips of one region.
#[derive(Debug)]
struct Strips {
    sums: Sums,
    written_bytes: u64,
}

impl Strips {
    fn new() -> Self {
        Strips { sums: Sums::new(Crc32IsoHdlc, u64::MAX), written_bytes: 0 }
    }

    fn crc32(&self) -> u32 {
        self.sums
            .iter()
            .fold(0, |crc, (_, byte_len, next)| crc_fast::checksum_combine(Crc32IsoHdlc, crc, next, byte_len))
            as u32
    }
}

/// CRCs of pieces of a stretch of bytes, which come in any order. Neighbours become one, so that there are no more than
/// gaps, and blocks.
#[derive(Debug)]
pub(super) struct Sums {
    algorithm: CrcAlgorithm,
    /// Pieces do not become one across multiples of this.
    block_bytes: u64,
    /// By position: length and CRC.
    pieces: BTreeMap<u64, (u64, u64)>,
}

impl Sums {
    pub(super) fn new(algorithm: CrcAlgorithm, block_bytes: u64) -> Self {
        Sums { algorithm, block_bytes, pieces: BTreeMap::new() }
    }

    /// Adds a piece of at least one byte that does not overlap another, and has no multiple of a block inside.
    pub(super) fn add(&mut self, mut byte_offset: u64, mut byte_len: u64, mut crc: u64) {
        let before = self.pieces.range(..byte_offset).next_back().map(|(&from, &piece)| (from, piece));
        if let Some((from, (before_len, before_crc))) = before
            && from + before_len == byte_offset
            && !byte_offset.is_multiple_of(self.block_bytes)
        {
            self.pieces.remove(&from);
            crc = crc_fast::checksum_combine(self.algorithm, before_crc, crc, byte_len);
            (byte_offset, byte_len) = (from, before_len + byte_len);
        }
        let end = byte_offset + byte_len;
        if !end.is_multiple_of(self.block_bytes)
            && let Some((after_len, after_crc)) = self.pieces.remove(&end)
        {
            crc = crc_fast::checksum_combine(self.algorithm, crc, after_crc, after_len);
            byte_len += after_len;
        }
        self.pieces.insert(byte_offset, (byte_len, crc));
    }

    /// Position, length and CRC of what the pieces have become, in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> + '_ {
        self.pieces.iter().map(|(&byte_offset, &(byte_len, crc))| (byte_offset, byte_len, crc))
    }
}

impl RegionSums {
    /// Notes a strip that was written, with its CRC where the region's is wanted. With the last strip of a region of
    /// `region_bytes` bytes, which exactly one call brings, gives the region's CRC, 0 without CRCs.
    pub(super) fn note(&self, placed: u32, strip: Strip, region_bytes: u64) -> Option<u32> {
        let mut state = lock(&self.0);
        let strips = state.open.entry(placed).or_insert_with(Strips::new);
        strips.written_bytes += strip.byte_len;
        if let Some(crc32) = strip.crc32.filter(|_| strip.byte_len > 0) {
            strips.sums.add(strip.byte_offset, strip.byte_len, u64::from(crc32));
        }
        if strips.written_bytes < region_bytes {
            return None;
        }
        let crc32 = state.open.remove(&placed)?.crc32();
        state.complete.insert(placed, crc32);
        Some(crc32)
    }

    /// The CRC of each of `count` regions, and whether it is complete. A region that no strip came of has the CRC of no
    /// bytes.
    pub(super) fn finish(&self, count: usize) -> Vec<(u32, bool)> {
        let state = std::mem::take(&mut *lock(&self.0));
        let crc32 = |placed: u32| match state.complete.get(&placed) {
            Some(&crc32) => (crc32, true),
            None => (state.open.get(&placed).map_or(0, Strips::crc32), false),
        };
        (0..count as u32).map(crc32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn strips_in_any_order_complete_their_region_once(
            bytes in prop::collection::vec(any::<u8>(), 0..60),
            cuts in prop::collection::vec(0usize..60, 0..6),
            order in any::<u64>(),
        ) {
            let mut edges: Vec<usize> =
                cuts.into_iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
            edges.sort_unstable();
            let mut strips: Vec<(usize, usize)> = edges.windows(2).map(|edge| (edge[0], edge[1])).collect();
            strips.retain(|(start, end)| start < end);
            strips.sort_by_key(|(start, _)| (*start as u64 + 1).wrapping_mul(order | 1));
            let sums = RegionSums::default();
            let crc = |bytes: &[u8]| crc_fast::checksum(Crc32IsoHdlc, bytes) as u32;
            let count = strips.len();
            for (number, (start, end)) in strips.into_iter().enumerate() {
                let crc32 = Some(crc(&bytes[start..end]));
                let strip = Strip { byte_offset: start as u64, byte_len: (end - start) as u64, crc32 };
                let complete = sums.note(1, strip, bytes.len() as u64);
                prop_assert_eq!(complete, (number + 1 == count).then(|| crc(&bytes)));
            }
            prop_assert_eq!(sums.finish(3), [(0, false), (crc(&bytes), !bytes.is_empty()), (0, false)]);
        }
    }
}
