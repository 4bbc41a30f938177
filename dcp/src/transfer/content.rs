//! Contents by their CRC-64/NVME, which combines from pieces.

use crate::error::Result;
use crate::storage::{AlignedBuf, ReadAt};
use crc_fast::{CrcAlgorithm::Crc64Nvme, checksum, checksum_combine};
use std::ops::Range;

/// The checksum of some bytes, and how many they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Crc {
    pub(super) crc64: u64,
    pub(super) byte_len: u64,
}

impl Crc {
    pub(super) fn of(bytes: &[u8]) -> Self {
        Crc { crc64: checksum(Crc64Nvme, bytes), byte_len: bytes.len() as u64 }
    }

    /// Of these bytes with others after them.
    pub(super) fn then(self, after: Crc) -> Self {
        match (self.byte_len, after.byte_len) {
            (_, 0) => self,
            (0, _) => after,
            _ => Crc {
                crc64: checksum_combine(Crc64Nvme, self.crc64, after.crc64, after.byte_len),
                byte_len: self.byte_len + after.byte_len,
            },
        }
    }
}

/// A range in pieces of `piece_bytes`, the last one shorter.
pub(super) fn pieces(range: Range<u64>, piece_bytes: u64) -> impl Iterator<Item = Range<u64>> {
    let Range { start, end } = range;
    (start..end).step_by(piece_bytes as usize).map(move |at| at..end.min(at + piece_bytes))
}

/// Reads a range piece by piece.
pub(super) fn read_crc(
    object: &dyn ReadAt,
    range: Range<u64>,
    piece_bytes: u64,
    buffer: &mut AlignedBuf,
) -> Result<Crc> {
    let mut crc = Crc::default();
    for piece in pieces(range, piece_bytes) {
        crc = crc.then(Crc::of(read(object, &piece, buffer)?));
    }
    Ok(crc)
}

/// Reads a piece into memory that is aligned as its place in the object.
pub(super) fn read<'a>(
    object: &dyn ReadAt,
    piece: &Range<u64>,
    buffer: &'a mut AlignedBuf,
) -> Result<&'a [u8]> {
    let byte_len = (piece.end - piece.start) as usize;
    let ranges = buffer.lay_out(std::iter::once((piece.start, byte_len)))?;
    let bytes = buffer.bytes_mut(&ranges[0]);
    object.read_at(piece.start, bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::memory::MemoryObject;

    #[test]
    fn pieces_of_any_length_give_the_same() {
        let bytes: Vec<u8> = (0..1000u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
        let object = MemoryObject::new("object", bytes.clone());
        for piece_bytes in [1, 7, 999, 1000, 4096] {
            for range in [0..1000u64, 5..900, 10..10] {
                let found =
                    read_crc(&object, range.clone(), piece_bytes, &mut AlignedBuf::default()).unwrap();
                assert_eq!(found.byte_len, range.end - range.start);
                if !range.is_empty() {
                    assert_eq!(found, Crc::of(&bytes[range.start as usize..range.end as usize]));
                }
            }
        }
    }
}
