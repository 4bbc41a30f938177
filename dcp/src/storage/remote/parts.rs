//! Which bytes of a multipart upload are there: writes in any order in, whole parts out. No I/O.
//!
//! An object is cut in parts of equal length, the last one shorter. A write that fills a whole part passes through; any
//! other is kept until its part is full: the engine fills an object from front to back, so that few parts are open.

use std::collections::BTreeMap;

/// S3 takes at most this many parts of an object.
const PARTS_MAX: u64 = 10_000;
/// The least length of a part: few requests, yet many in flight at once.
const PART_BYTES_MIN: u64 = 16 << 20;
/// Parts are multiples of this.
const PART_BYTES_STEP: u64 = 1 << 20;

/// The length of parts for an object of `byte_len` bytes, or of unknown length.
pub(super) fn part_bytes(byte_len: Option<u64>) -> u64 {
    // Nine tenths of what is allowed, as a margin for stores that count differently.
    let least = byte_len.unwrap_or(0).div_ceil(PARTS_MAX * 9 / 10);
    least.max(PART_BYTES_MIN).next_multiple_of(PART_BYTES_STEP)
}

/// The most bytes that parts of this length can hold.
pub(super) fn object_bytes_max(part_bytes: u64) -> u64 {
    part_bytes.saturating_mul(PARTS_MAX)
}

/// A part whose bytes are all there.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Its number, from 0.
    pub(super) index: u64,
    /// Its bytes.
    pub(super) bytes: Vec<u8>,
}

/// The parts that are being filled.
#[derive(Debug)]
pub(super) struct Parts {
    part_bytes: u64,
    /// Length of the object; the parts of an object of unknown length are as long as any.
    byte_len: Option<u64>,
    open: BTreeMap<u64, Open>,
    /// End of the last write.
    end: u64,
}

#[derive(Debug)]
struct Open {
    bytes: Vec<u8>,
    filled_bytes: u64,
}

impl Parts {
    pub(super) fn new(part_bytes: u64, byte_len: Option<u64>) -> Self {
        Parts { part_bytes, byte_len, open: BTreeMap::new(), end: 0 }
    }

    /// Whether some but not all bytes of a part have been written.
    pub(super) fn is_open(&self, index: u64) -> bool {
        self.open.contains_key(&index)
    }

    /// End of the bytes written so far.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// Takes a write, which overlaps no other; gives the parts that are full with it.
    pub(super) fn write(&mut self, byte_offset: u64, bytes: &[u8]) -> Vec<Part> {
        if !bytes.is_empty() {
            self.end = self.end.max(byte_offset + bytes.len() as u64);
        }
        let (mut full, mut at, mut rest) = (Vec::new(), byte_offset, bytes);
        while !rest.is_empty() {
            let index = at / self.part_bytes;
            let within = at % self.part_bytes;
            let part_len = self.part_len(index);
            let (piece, after) = rest.split_at(rest.len().min((part_len - within) as usize));
            full.extend(self.fill(index, within, piece, part_len));
            at += piece.len() as u64;
            rest = after;
        }
        full
    }

    /// The parts that are not full, holes as zeros, for an object that ends at `end`. Nothing is written after.
    pub(super) fn rest(mut self, end: u64, uploaded: impl Fn(u64) -> bool) -> impl Iterator<Item = Part> {
        let count = end.div_ceil(self.part_bytes);
        (0..count).filter(move |&index| !uploaded(index)).map(move |index| {
            let part_len = self.part_bytes.min(end - index * self.part_bytes) as usize;
            let mut bytes = self.open.remove(&index).map_or_else(Vec::new, |open| open.bytes);
            bytes.resize(part_len, 0);
            Part { index, bytes }
        })
    }

    fn part_len(&self, index: u64) -> u64 {
        let start = index * self.part_bytes;
        self.byte_len.map_or(self.part_bytes, |byte_len| self.part_bytes.min(byte_len.saturating_sub(start)))
    }

    fn fill(&mut self, index: u64, within: u64, piece: &[u8], part_len: u64) -> Option<Part> {
        let piece_len = piece.len() as u64;
        if piece_len == part_len {
            return Some(Part { index, bytes: piece.to_vec() });
        }
        let empty = || Open { bytes: vec![0; part_len as usize], filled_bytes: 0 };
        let open = self.open.entry(index).or_insert_with(empty);
        open.bytes[within as usize..][..piece.len()].copy_from_slice(piece);
        open.filled_bytes += piece_len;
        if open.filled_bytes < part_len {
            return None;
        }
        self.open.remove(&index).map(|open| Part { index, bytes: open.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parts_are_as_short_as_their_number_allows() {
        assert_eq!(part_bytes(None), 16 << 20);
        assert_eq!(part_bytes(Some(100 << 30)), 16 << 20);
        let tera = part_bytes(Some(2 << 40));
        assert!(tera > 200 << 20 && (2u64 << 40).div_ceil(tera) <= PARTS_MAX, "{tera}");
        assert_eq!(part_bytes(Some(u64::MAX)) % PART_BYTES_STEP, 0);
    }

    proptest! {
        #[test]
        fn every_order_of_writes_gives_the_object(
            byte_len in 0usize..200,
            part_bytes in 1u64..50,
            cuts in prop::collection::vec(0usize..200, 0..12),
            order in any::<u64>(),
            known in any::<bool>(),
            hole in 0usize..4,
        ) {
            let whole: Vec<u8> = (0..byte_len).map(|at| at as u8 + 1).collect();
            let mut edges: Vec<usize> = cuts.into_iter().map(|cut| cut % (byte_len + 1)).chain([0, byte_len]).collect();
            edges.sort_unstable();
            let mut writes: Vec<(usize, usize)> = edges.windows(2).map(|edge| (edge[0], edge[1])).collect();
            writes.sort_by_key(|(start, end)| (*start as u64 + 1).wrapping_mul(order | 1).rotate_left(*end as u32));
            let mut expected = whole.clone();
            // One of the writes may never come: its bytes are zeros, unless the object then ends before it.
            if hole == 0 && !writes.is_empty() {
                let (start, end) = writes.pop().unwrap();
                expected[start..end].fill(0);
            }
            let mut parts = Parts::new(part_bytes, known.then_some(byte_len as u64));
            let mut got: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
            for (start, end) in writes {
                for part in parts.write(start as u64, &whole[start..end]) {
                    prop_assert!(got.insert(part.index, part.bytes).is_none(), "a part twice");
                }
            }
            let end = if known { byte_len as u64 } else { parts.end() };
            expected.truncate(end as usize);
            let sent: Vec<u64> = got.keys().copied().collect();
            for part in parts.rest(end, |index| sent.contains(&index)) {
                got.insert(part.index, part.bytes);
            }
            let object: Vec<u8> = got.values().flatten().copied().collect();
            prop_assert_eq!(object, expected);
            let short = got.values().rev().skip(1).find(|bytes| bytes.len() as u64 != part_bytes);
            prop_assert!(short.is_none(), "only the last part may be short");
        }
    }
}
