//! Reusable memory whose pieces sit at chosen addresses, so that large writes can bypass the page cache.

use std::ops::Range;

/// Direct I/O wants memory and file position to agree in their low 12 bits.
const ALIGN: usize = 4096;

/// One growing allocation, cut anew for every strip.
#[derive(Default, Debug)]
pub(crate) struct Staging {
    memory: Vec<u8>,
}

impl Staging {
    /// Lays out pieces of `(byte_offset, byte_len)`: the memory of each begins at an address congruent to its
    /// `byte_offset` modulo 4096. The contents are whatever was there before.
    pub(crate) fn lay_out(
        &mut self,
        pieces: impl Iterator<Item = (u64, usize)> + Clone,
    ) -> Vec<Range<usize>> {
        let needed: usize = pieces.clone().map(|(_, byte_len)| byte_len + ALIGN).sum();
        if self.memory.len() < needed {
            self.memory = vec![0; needed];
        }
        let base = self.memory.as_ptr() as usize % ALIGN;
        let mut at = 0;
        pieces
            .map(|(byte_offset, byte_len)| {
                let want = byte_offset as usize % ALIGN;
                at += (want + ALIGN - (base + at) % ALIGN) % ALIGN;
                let range = at..at + byte_len;
                at += byte_len;
                range
            })
            .collect()
    }

    /// The memory.
    pub(crate) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.memory[range.clone()]
    }

    /// The memory, for writing.
    pub(crate) fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        &mut self.memory[range.clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_congruent_to_their_offsets_and_disjoint() {
        let mut staging = Staging::default();
        let pieces = [(5u64, 10usize), (4096, 0), (8191, 5000), (64, 1)];
        for _ in 0..2 {
            let ranges = staging.lay_out(pieces.iter().copied());
            for (range, (byte_offset, byte_len)) in ranges.iter().zip(pieces) {
                assert_eq!(range.len(), byte_len);
                let address = staging.bytes(range).as_ptr() as usize;
                assert_eq!(address % ALIGN, byte_offset as usize % ALIGN);
            }
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
