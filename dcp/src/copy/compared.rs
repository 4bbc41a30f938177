//! An object that is there already, in place of a writer: what would be written is compared with what it holds.
//!
//! So checksums of an object that another process wrote come from the one loop that writes objects, and are of bytes that
//! the object was seen to hold.

use crate::error::{Error, Result};
use crate::storage::{Key, ObjectWriter, ReadAt, Storage};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes read back at once.
const PIECE_BYTES: usize = 1 << 20;

#[derive(Debug)]
pub(super) struct Compared {
    object: Arc<dyn ReadAt>,
    name: String,
    /// Where the last write ended.
    end: AtomicU64,
    /// The length where it is known before the bytes are.
    byte_len: Option<u64>,
}

impl Compared {
    pub(super) fn open(store: &dyn Storage, key: &Key, byte_len: Option<u64>) -> Result<Self> {
        Ok(Compared { object: store.open(key)?, name: store.display(key), end: AtomicU64::new(0), byte_len })
    }

    fn differs(&self, why: String) -> Error {
        Error::Differs { object: self.name.clone(), source_object: "what this command makes".to_owned(), why }
    }
}

impl ObjectWriter for Compared {
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        let mut found = vec![0; bytes.len().min(PIECE_BYTES)];
        let mut at = byte_offset;
        for expected in bytes.chunks(PIECE_BYTES) {
            let found = &mut found[..expected.len()];
            self.object.read_at(at, found)?;
            if let Some(first) = found.iter().zip(expected).position(|(found, expected)| found != expected) {
                return Err(self.differs(format!("byte {} is another", at + first as u64)));
            }
            at += expected.len() as u64;
        }
        self.end.fetch_max(at, Ordering::Relaxed);
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let expected = self.byte_len.unwrap_or(self.end.load(Ordering::Relaxed));
        match self.object.byte_len() {
            found if found == expected => Ok(()),
            found => Err(self.differs(format!("it has {found} bytes, expected {expected}"))),
        }
    }
}
