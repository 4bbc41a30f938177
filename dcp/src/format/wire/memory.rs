//! Bytes in memory as an object to read.

use crate::error::{Error, Result};
use crate::storage::ReadAt;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An object held in memory: a decoded item, or bytes under test. Counts how often it is read.
#[derive(Debug, Default)]
pub struct Memory {
    bytes: Vec<u8>,
    reads: AtomicUsize,
}

impl Memory {
    /// Wraps the bytes.
    pub fn new(bytes: Vec<u8>) -> Self {
        Memory { bytes, reads: AtomicUsize::new(0) }
    }

    /// How many reads there were.
    pub fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }
}

impl ReadAt for Memory {
    fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let end = byte_offset.checked_add(target.len() as u64).filter(|&end| end <= self.byte_len());
        let Some(end) = end else {
            return Err(Error::Truncated {
                object: "memory".to_owned(),
                found: self.byte_len(),
                expected: byte_offset.saturating_add(target.len() as u64),
            });
        };
        target.copy_from_slice(&self.bytes[byte_offset as usize..end as usize]);
        Ok(())
    }
}
