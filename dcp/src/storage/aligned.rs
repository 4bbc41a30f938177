//! Memory that is aligned as the file it goes to, so that large writes can bypass the page cache.

use std::ops::Range;

/// The alignment that direct writes ask of memory and file position: the largest block of common disks, and a page of
/// most machines.
pub const ALIGNMENT_BYTES: usize = 4096;

/// One growing allocation, cut anew whenever it is laid out.
#[derive(Default, Debug)]
pub struct AlignedBuf {
    memory: Vec<u8>,
}

impl AlignedBuf {
    /// Lays out pieces of `(byte_offset, byte_len)`: the memory of each begins at an address congruent to its
    /// `byte_offset` modulo
    /// [`ALIGNMENT_BYTES`]. The contents are whatever was there before.
    pub fn lay_out(&mut self, pieces: impl Iterator<Item = (u64, usize)> + Clone) -> Vec<Range<usize>> {
        let needed: usize = pieces.clone().map(|(_, byte_len)| byte_len + ALIGNMENT_BYTES).sum();
        if self.memory.len() < needed {
            self.memory = vec![0; needed];
        }
        let base = self.memory.as_ptr() as usize % ALIGNMENT_BYTES;
        let mut at = 0;
        pieces
            .map(|(byte_offset, byte_len)| {
                let want = byte_offset as usize % ALIGNMENT_BYTES;
                at += (want + ALIGNMENT_BYTES - (base + at) % ALIGNMENT_BYTES) % ALIGNMENT_BYTES;
                let range = at..at + byte_len;
                at += byte_len;
                range
            })
            .collect()
    }

    /// The memory.
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.memory[range.clone()]
    }

    /// The memory, for writing.
    pub fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        &mut self.memory[range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_congruent_to_their_offsets_and_disjoint() {
        let mut buffer = AlignedBuf::default();
        let pieces = [(5u64, 10usize), (4096, 0), (8191, 5000), (64, 1)];
        for _ in 0..2 {
            let ranges = buffer.lay_out(pieces.iter().copied());
            for (range, (byte_offset, byte_len)) in ranges.iter().zip(pieces) {
                assert_eq!(range.len(), byte_len);
                let address = buffer.bytes(range).as_ptr() as usize;
                assert_eq!(address % ALIGNMENT_BYTES, byte_offset as usize % ALIGNMENT_BYTES);
            }
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
