//! Bytes under keys. Knows nothing of tensors.
//!
//! A [`Storage`] is a tree of immutable objects. Semantics that every implementation keeps, and that the conformance
//! suite pins:
//!
//! 1. An object becomes visible under its key whole and durable, by [`ObjectWriter::finish`], or not at all.
//! 2. A key that exists is never overwritten: creating it again is [`Error::AlreadyExists`], and of two writers that
//!    race for one key exactly one wins.
//! 3. Reads are exact: a range past the end is [`Error::Truncated`], a missing key [`Error::NotFound`].
//! 4. Listings are sorted by key and show finished objects only.

mod aligned;
#[cfg(any(test, feature = "testing"))]
pub mod conformance;
mod environment;
#[cfg(any(test, feature = "testing"))]
pub mod faulty;
mod key;
pub mod local;
pub mod memory;
mod meta;
pub mod remote;
mod url;

pub use aligned::{ALIGNMENT_BYTES, AlignedBuf};
pub use environment::Environment;
pub use key::Key;
pub use meta::{ObjectMeta, StoredPart, Unfinished, WriterState};
pub use url::{Place, open_url, open_url_with};

use crate::error::{Error, Result};
use std::fmt::Debug;
use std::fs::File;
use std::sync::Arc;

/// A tree of immutable objects.
pub trait Storage: Send + Sync + Debug {
    /// How a person names the object: a full path or URL.
    fn display(&self, key: &Key) -> String;

    /// The one name of a place, whatever way leads to it: two stores give the same for the same place. Nothing needs to
    /// exist there.
    fn canonical(&self, key: &Key) -> Result<String> {
        Ok(self.display(key))
    }

    /// Every finished object below `prefix`, at any depth, sorted by key; empty when there is none. The empty key is
    /// the whole store.
    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>>;

    /// Whole keys of the direct children of `prefix` that are themselves prefixes (folders), sorted. A folder without
    /// finished objects may be among them.
    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>>;

    /// Length of an object; `None` where there is none (a prefix is not an object).
    fn head(&self, key: &Key) -> Result<Option<u64>>;

    /// Opens an object for reading.
    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>>;

    /// Starts a new object of exactly `byte_len` bytes, or of unknown length when `None`. Space is reserved where the
    /// store can. Fails early with [`Error::AlreadyExists`] when the key exists.
    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>>;

    /// Continues an object of exactly `byte_len` bytes that an earlier writer of this method did not finish, or starts
    /// it. Where the store keeps parts, [`ObjectWriter::stored`] names those already there, and a writer that is
    /// dropped unfinished leaves its own for the next. Elsewhere it is [`Storage::create`].
    fn resume(&self, key: &Key, byte_len: u64) -> Result<Box<dyn ObjectWriter>> {
        self.create(key, Some(byte_len))
    }

    /// Everything below `prefix` that a writer began and has not finished, sorted by key; no listing shows it.
    ///
    /// Errors: [`Error::UnfinishedUnlisted`] where the store has no way to tell.
    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>>;

    /// Removes what a writer left. Only for what is provably of no use to anyone: a writer that is not as dead as it
    /// seems can then not finish. What is gone already is no error.
    ///
    /// Errors: [`Error::InUse`] where its writer is known to be alive.
    fn discard(&self, unfinished: &Unfinished) -> Result<()>;

    /// Whether of two writers that create one small object only the first succeeds, as this trait promises: some object
    /// stores ignore the condition and overwrite. Tried once per store, below `home`, where nothing is left of it.
    fn creates_exclusively(&self, home: &Key) -> Result<bool> {
        let _ = home;
        Ok(true)
    }

    /// Removes a finished object, durably; `false` where there is none. Only for what is provably of no use to anyone:
    /// nothing but `prune` calls it, and a conversion that has finished, for the marks that it made itself. Folders that
    /// are empty without it go too.
    fn remove(&self, key: &Key) -> Result<bool>;

    /// Bytes free for new objects, where the store can tell.
    fn free_bytes(&self) -> Result<Option<u64>>;

    /// Creates an object from memory; visible whole or not at all, never over an existing one.
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let writer = self.create(key, Some(bytes.len() as u64))?;
        writer.write_at(0, bytes)?;
        writer.finish()
    }

    /// Reads a whole object of at most `byte_len_max` bytes.
    ///
    /// Errors: [`Error::OverLimit`] for a larger one.
    fn get(&self, key: &Key, byte_len_max: u64) -> Result<Vec<u8>> {
        let object = self.open(key)?;
        if object.byte_len() > byte_len_max {
            let (object, found) = (self.display(key), object.byte_len());
            return Err(Error::OverLimit { object, what: "its length in bytes", found, limit: byte_len_max });
        }
        let mut bytes = vec![0; object.byte_len() as usize];
        object.read_at(0, &mut bytes)?;
        Ok(bytes)
    }
}

/// An open object. Reads may come from any thread.
pub trait ReadAt: Send + Sync + Debug {
    /// Length in bytes.
    fn byte_len(&self) -> u64;

    /// Fills `target` from the bytes at `byte_offset` on.
    ///
    /// Errors: [`Error::Truncated`] past the end; [`Error::Damaged`] where the reader checks checksums.
    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()>;

    /// The file behind it, for kernel-side copies; `None` where bytes must pass through this reader.
    fn file(&self) -> Option<&File> {
        None
    }

    /// All of its bytes, where they are in this process's memory and stay as they are.
    fn memory(&self) -> Option<&[u8]> {
        None
    }

    /// The smallest number of bytes one read costs: 1 where any range is as cheap as its length, the block size where
    /// a reader must fetch whole blocks to check them.
    fn granularity(&self) -> u64 {
        1
    }

    /// What one more read costs, whatever its length: bytes that could be read in that time. A system call takes as long
    /// as copying a page.
    fn read_cost_bytes(&self) -> u64 {
        4096
    }
}

/// An object being written. Writes may come from any thread in any order and must not overlap; bytes never written
/// are zero. A write past a length given to [`Storage::create`] is [`Error::OverLimit`]. Dropping it without
/// [`finish`](ObjectWriter::finish) leaves nothing behind, except after [`Storage::resume`].
pub trait ObjectWriter: Send + Sync + Debug {
    /// The parts that an earlier writer stored, in order. A part counts as written, by [`finish`](ObjectWriter::finish)
    /// too; one that is written again, which must then be done whole, is replaced. The caller compares checksums with
    /// what it would write; a part without one is not to be trusted.
    fn stored(&self) -> Vec<StoredPart> {
        Vec::new()
    }

    /// Writes `bytes` at `byte_offset`.
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()>;

    /// Copies bytes from a file without bringing them to this process. Returns `false`, having written nothing that
    /// counts, where the store or the file cannot do so; the caller then copies by hand.
    fn copy_from(&self, source: &File, source_offset: u64, byte_offset: u64, byte_len: u64) -> Result<bool> {
        let _ = (source, source_offset, byte_offset, byte_len);
        Ok(false)
    }

    /// Makes the object durable and visible.
    ///
    /// Errors: [`Error::AlreadyExists`] when another writer finished the key first.
    fn finish(self: Box<Self>) -> Result<()>;

    /// Lets go of it as the death of the process would: what is there stays, nothing is cleaned up, and what only a
    /// process holds (descriptors, locks) is given back where it can be.
    #[cfg(any(test, feature = "testing"))]
    fn abandon(self: Box<Self>) {
        std::mem::forget(self);
    }
}

/// One kind of store, chosen by the scheme of a URL.
pub struct Scheme {
    /// URL scheme: `file` for `file:///path`.
    pub name: &'static str,
    /// Opens the place the URL names, scheme removed, with settings from the environment.
    pub open: fn(&str, &Environment) -> Result<Place>,
}

/// Every kind of store. To add one: a file here, a line here. A path without a scheme is a local one.
pub static STORES: &[Scheme] = &[
    Scheme { name: "file", open: local::open_file_url },
    Scheme { name: "s3", open: remote::open_s3 },
    Scheme { name: "gs", open: remote::open_google },
    Scheme { name: "az", open: remote::open_azure },
    Scheme { name: "https", open: remote::open_https },
    Scheme { name: "http", open: remote::open_http },
];
