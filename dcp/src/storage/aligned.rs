//! Buffers that are aligned as the file they go to.

/// The alignment that direct writes ask of a buffer: the largest block of common disks, and a page of most machines.
pub const ALIGNMENT_BYTES: usize = 4096;

/// Reusable memory whose address agrees with a file offset modulo [`ALIGNMENT_BYTES`], so that a store can hand it to
/// the disk without copying it.
#[derive(Debug, Default)]
pub struct AlignedBuf {
    memory: Vec<u8>,
    start: usize,
    byte_len: usize,
}

impl AlignedBuf {
    /// A buffer that holds ranges of up to `byte_len` bytes without allocating again.
    pub fn with_capacity(byte_len: usize) -> Self {
        AlignedBuf { memory: vec![0; byte_len + ALIGNMENT_BYTES - 1], start: 0, byte_len: 0 }
    }

    /// Makes the buffer one of `byte_len` bytes for the range at `byte_offset` of a file. Its contents are whatever was
    /// there before. Allocates only where it is too small.
    pub fn resize_for(&mut self, byte_offset: u64, byte_len: usize) -> &mut [u8] {
        if self.memory.len() < byte_len + ALIGNMENT_BYTES - 1 {
            *self = AlignedBuf::with_capacity(byte_len);
        }
        let wanted = (byte_offset % ALIGNMENT_BYTES as u64) as usize;
        let found = self.memory.as_ptr().addr() % ALIGNMENT_BYTES;
        self.start = (wanted + ALIGNMENT_BYTES - found) % ALIGNMENT_BYTES;
        self.byte_len = byte_len;
        self.as_mut_slice()
    }

    /// The bytes of the range last asked for.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[self.start..][..self.byte_len]
    }

    /// The same, to be filled.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..][..self.byte_len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_aligned_as_the_file_and_does_not_reallocate() {
        let mut buffer = AlignedBuf::with_capacity(10_000);
        let address = buffer.memory.as_ptr();
        for byte_offset in [0, 1, 511, 4095, 4096, 4097, (1 << 40) + 17, u64::MAX] {
            for byte_len in [0, 1, 4096, 10_000] {
                let bytes = buffer.resize_for(byte_offset, byte_len);
                assert_eq!(bytes.len(), byte_len);
                assert_eq!(bytes.as_ptr().addr() as u64 % 4096, byte_offset % 4096);
                bytes.fill(7);
                assert_eq!(buffer.as_slice(), vec![7; byte_len]);
                assert_eq!(buffer.memory.as_ptr(), address);
            }
        }
        assert_eq!(buffer.resize_for(3, 20_000).as_ptr().addr() % 4096, 3);
    }
}
