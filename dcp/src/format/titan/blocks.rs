//! One box of a safetensors shard, every block of which is checked as it is read.

use super::crc64;
use super::part::{Part, PartObject};
use super::recent::Recent;
use crate::error::{Error, Result};
use crate::model::Fqn;
use crate::storage::ReadAt;
use std::sync::Arc;

/// The bytes of one box. Whole blocks are read straight into the caller's memory and checked there; only blocks at
/// the edges of a read pass through memory of their own.
#[derive(Debug)]
pub(crate) struct CheckedBox {
    pub(crate) fqn: Fqn,
    /// Names the object in errors.
    pub(crate) name: String,
    /// Position of the object among all objects.
    pub(crate) object: u32,
    pub(crate) source: Arc<dyn ReadAt>,
    pub(crate) part: Arc<Part>,
    pub(crate) sequence: u16,
    /// Position of the box's first block among those of the object.
    pub(crate) first_block: u32,
    /// First byte of the box in the object.
    pub(crate) byte_offset: u64,
    pub(crate) byte_len: u64,
    pub(crate) block_bytes: u64,
    pub(crate) recent: Arc<Recent>,
}

impl CheckedBox {
    /// Checks blocks from block `first` on that fill `bytes`.
    fn check(&self, first: u64, bytes: &[u8]) -> Result<()> {
        let sums = match self.part.objects.get(self.sequence as usize) {
            Some(PartObject::Plain { blocks, .. }) => &blocks[..],
            _ => &[],
        };
        for (block, bytes) in (first..).zip(bytes.chunks(self.block_bytes as usize)) {
            let from = self.byte_offset + block * self.block_bytes;
            let expected = sums.get((u64::from(self.first_block) + block) as usize).copied();
            let found = crc64(bytes);
            if expected != Some(found) {
                return Err(Error::Damaged {
                    object: self.name.clone(),
                    from,
                    until: from + bytes.len() as u64,
                    found: format!("CRC-64 {found:016x}"),
                    expected: expected.map_or("none".to_owned(), |sum| format!("{sum:016x}")),
                    fqn_note: format!(", part of {}", self.fqn),
                });
            }
        }
        Ok(())
    }

    /// One block, read and checked or still known.
    fn block(&self, block: u64) -> Result<Arc<Vec<u8>>> {
        let from = block * self.block_bytes;
        self.recent.get((self.object, self.byte_offset + from), || {
            let mut bytes = vec![0; self.block_bytes.min(self.byte_len - from) as usize];
            self.source.read_at(self.byte_offset + from, &mut bytes)?;
            self.check(block, &bytes)?;
            Ok(bytes)
        })
    }
}

impl ReadAt for CheckedBox {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let until = byte_offset.saturating_add(target.len() as u64);
        if until > self.byte_len {
            let (object, found) = (self.name.clone(), self.byte_offset + self.byte_len);
            return Err(Error::Truncated { object, found, expected: self.byte_offset.saturating_add(until) });
        }
        let (mut at, mut rest) = (byte_offset, target);
        while !rest.is_empty() {
            let block = at / self.block_bytes;
            let whole = if until == self.byte_len { until } else { until - until % self.block_bytes };
            let taken = if at.is_multiple_of(self.block_bytes) && at < whole {
                let bytes = &mut rest[..(whole - at) as usize];
                self.source.read_at(self.byte_offset + at, bytes)?;
                self.check(block, bytes)?;
                bytes.len()
            } else {
                let bytes = self.block(block)?;
                let skip = (at % self.block_bytes) as usize;
                let taken = rest.len().min(bytes.len() - skip);
                rest[..taken].copy_from_slice(&bytes[skip..skip + taken]);
                taken
            };
            at += taken as u64;
            rest = &mut std::mem::take(&mut rest)[taken..];
        }
        Ok(())
    }

    fn granularity(&self) -> u64 {
        self.block_bytes
    }

    fn read_cost_bytes(&self) -> u64 {
        // Blocks are read whole, so that a read has up to one more than it wants.
        self.source.read_cost_bytes() + self.block_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// An object in memory that remembers its reads.
    #[derive(Debug)]
    struct Memory {
        bytes: Vec<u8>,
        reads: Mutex<Vec<(u64, usize)>>,
    }

    impl ReadAt for Memory {
        fn byte_len(&self) -> u64 {
            self.bytes.len() as u64
        }

        fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
            self.reads.lock().unwrap().push((byte_offset, target.len()));
            let from = byte_offset as usize;
            target.copy_from_slice(&self.bytes[from..from + target.len()]);
            Ok(())
        }
    }

    const BLOCK: usize = 16;
    const START: usize = 64;

    /// A box of 70 bytes, 4 blocks and a short one, as the second box of its object.
    fn sample() -> (CheckedBox, Arc<Memory>) {
        let bytes: Vec<u8> = (0..START + 70).map(|at| (at * 37) as u8).collect();
        let mut blocks = vec![0; 3];
        blocks.extend(bytes[START..].chunks(BLOCK).map(crc64));
        let memory = Arc::new(Memory { bytes, reads: Mutex::default() });
        let checked = CheckedBox {
            fqn: "w".into(),
            name: "mem/object".to_owned(),
            object: 7,
            source: memory.clone(),
            part: Arc::new(Part { objects: vec![PartObject::Plain { header_crc64: 0, blocks }] }),
            sequence: 0,
            first_block: 3,
            byte_offset: START as u64,
            byte_len: 70,
            block_bytes: BLOCK as u64,
            recent: Arc::default(),
        };
        (checked, memory)
    }

    #[test]
    fn every_range_reads_right_and_whole_blocks_only() {
        for from in 0..=70 {
            for until in from..=70 {
                let (checked, memory) = sample();
                let mut target = vec![0; until - from];
                checked.read_at(from as u64, &mut target).unwrap();
                assert_eq!(target, memory.bytes[START + from..START + until]);
                for (byte_offset, byte_len) in memory.reads.lock().unwrap().drain(..) {
                    let relative = byte_offset as usize - START;
                    assert_eq!(relative % BLOCK, 0);
                    assert!(byte_len % BLOCK == 0 || relative + byte_len == 70);
                }
            }
        }
        let (checked, _) = sample();
        assert!(matches!(checked.read_at(60, &mut [0; 11]), Err(Error::Truncated { expected: 135, .. })));
        assert!(matches!(checked.read_at(u64::MAX, &mut [0; 11]), Err(Error::Truncated { .. })));
    }

    #[test]
    fn whole_blocks_are_read_at_once_and_edges_only_once() {
        let (checked, memory) = sample();
        checked.read_at(0, &mut [0; 70]).unwrap();
        assert_eq!(*memory.reads.lock().unwrap(), [(64, 70)]);
        memory.reads.lock().unwrap().clear();
        for at in 0..10 {
            checked.read_at(at, &mut [0; 4]).unwrap();
        }
        assert_eq!(*memory.reads.lock().unwrap(), [(64, 16)]);
    }

    #[test]
    fn a_flipped_bit_is_found_by_every_read_that_touches_its_block() {
        let (mut checked, memory) = sample();
        let mut bytes = memory.bytes.clone();
        bytes[START + 20] ^= 4;
        checked.source = Arc::new(Memory { bytes, reads: Mutex::default() });
        for (from, len) in [(0, 70), (16, 16), (31, 1), (10, 7)] {
            match checked.read_at(from, &mut vec![0; len]) {
                Err(Error::Damaged { object, from: 80, until: 96, fqn_note, .. }) => {
                    assert_eq!((&object[..], &fqn_note[..]), ("mem/object", ", part of w"));
                }
                other => panic!("{other:?}"),
            }
        }
        checked.read_at(0, &mut [0; 16]).unwrap();
        checked.read_at(32, &mut [0; 38]).unwrap();
    }
}
