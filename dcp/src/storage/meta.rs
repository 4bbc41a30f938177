//! What a store tells of an object, finished or not.

use super::Key;
use std::cmp::Ordering;
use std::ops::Range;
use std::time::SystemTime;

/// One listed object. Two are equal, and ordered, by key and length.
#[derive(Clone, Debug)]
pub struct ObjectMeta {
    /// Its key.
    pub key: Key,
    /// Its length in bytes.
    pub byte_len: u64,
    /// When it was last written by the store's clock, where it says so. Good for deciding when to *try* to clean up; no
    /// proof of anything.
    pub modified: Option<SystemTime>,
}

impl ObjectMeta {
    fn identity(&self) -> (&Key, u64) {
        (&self.key, self.byte_len)
    }
}

impl PartialEq for ObjectMeta {
    fn eq(&self, other: &Self) -> bool {
        self.identity() == other.identity()
    }
}

impl Eq for ObjectMeta {}

impl PartialOrd for ObjectMeta {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ObjectMeta {
    fn cmp(&self, other: &Self) -> Ordering {
        self.identity().cmp(&other.identity())
    }
}

/// Something that a writer began and has not finished.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unfinished {
    /// The object it would have become. A local name of more than 200 bytes is cut.
    pub key: Key,
    /// The store's own name of it: means something to the same store only.
    pub id: String,
    /// Bytes it occupies, where known.
    pub byte_len: Option<u64>,
    /// When it was last written to, or begun where nothing was written; by the store's clock.
    pub modified: Option<SystemTime>,
    /// Whether somebody still writes it.
    pub writer: WriterState,
}

/// What is known of the writer of something unfinished.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriterState {
    /// It holds its lock: it is at work.
    Alive,
    /// It has let go of its lock without having finished: it is gone.
    Dead,
    /// The store cannot tell. Only age speaks for its being gone.
    Unknown,
}

/// A part of an object that an earlier writer stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StoredPart {
    /// The bytes of the object that it holds.
    pub range: Range<u64>,
    /// Their CRC-64/NVME, which the store compared with what it received; `None` where it did not.
    pub crc64nvme: Option<u64>,
}
