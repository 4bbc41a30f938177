//! Memory that is aligned as the file it goes to, so that large writes can bypass the page cache, in huge pages where
//! the system has them: a disk takes a limited number of separate pieces of memory per request (254 for virtio), so that
//! from pages of 4 KiB a request cannot be larger than 1 MiB, and large direct writes take twice as long.

use crate::error::{Error, Result};
use memmap2::MmapMut;
use std::ops::Range;

/// The alignment that direct writes ask of memory and file position: the largest block of common disks, and a page of
/// most machines.
pub const ALIGNMENT_BYTES: usize = 4096;

/// A huge page of x86-64, and of arm64 with pages of 4 KiB.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// One growing allocation, cut anew whenever it is laid out.
#[derive(Default, Debug)]
pub struct AlignedBuf {
    memory: Option<MmapMut>,
}

impl AlignedBuf {
    /// Lays out pieces of `(byte_offset, byte_len)`: the memory of each begins at an address congruent to its
    /// `byte_offset` modulo [`ALIGNMENT_BYTES`]. The contents are whatever was there before.
    ///
    /// Errors: [`Error::NoMemory`] where the system gives no more.
    pub fn lay_out(
        &mut self,
        pieces: impl Iterator<Item = (u64, usize)> + Clone,
    ) -> Result<Vec<Range<usize>>> {
        let needed: usize = pieces.clone().map(|(_, byte_len)| byte_len + ALIGNMENT_BYTES).sum();
        let base = self.grow(needed)? % ALIGNMENT_BYTES;
        let mut at = 0;
        Ok(pieces
            .map(|(byte_offset, byte_len)| {
                let want = byte_offset as usize % ALIGNMENT_BYTES;
                at += (want + ALIGNMENT_BYTES - (base + at) % ALIGNMENT_BYTES) % ALIGNMENT_BYTES;
                let range = at..at + byte_len;
                at += byte_len;
                range
            })
            .collect())
    }

    /// Has at least so many bytes; returns the address of the first.
    fn grow(&mut self, byte_len: usize) -> Result<usize> {
        let memory = match self.memory.take() {
            Some(memory) if memory.len() >= byte_len => memory,
            _ => map(byte_len)?,
        };
        Ok(self.memory.insert(memory).as_ptr().addr())
    }

    /// The memory.
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        self.memory.as_deref().map_or(&[], |memory| &memory[range.clone()])
    }

    /// The memory, for writing.
    pub fn bytes_mut(&mut self, range: &Range<usize>) -> &mut [u8] {
        self.memory.as_deref_mut().map_or(&mut [], |memory| &mut memory[range.clone()])
    }
}

fn map(byte_len: usize) -> Result<MmapMut> {
    let byte_len = byte_len.max(1).next_multiple_of(HUGE_PAGE_BYTES);
    let memory = MmapMut::map_anon(byte_len).map_err(|source| Error::NoMemory { byte_len, source })?;
    // Only a wish: without huge pages the same bytes are written, in more requests.
    #[cfg(target_os = "linux")]
    let _ = memory.advise(memmap2::Advice::HugePage);
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_congruent_to_their_offsets_and_disjoint() {
        let mut buffer = AlignedBuf::default();
        let pieces = [(5u64, 10usize), (4096, 0), (8191, 5000), (64, 1)];
        for _ in 0..2 {
            let ranges = buffer.lay_out(pieces.iter().copied()).unwrap();
            for (range, (byte_offset, byte_len)) in ranges.iter().zip(pieces) {
                assert_eq!(range.len(), byte_len);
                let address = buffer.bytes(range).as_ptr() as usize;
                assert_eq!(address % ALIGNMENT_BYTES, byte_offset as usize % ALIGNMENT_BYTES);
            }
            assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start));
        }
    }
}
