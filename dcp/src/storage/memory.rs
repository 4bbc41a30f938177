//! Objects in memory, for tests.

use super::{Key, ObjectMeta, ObjectWriter, ReadAt, Storage, Unfinished};
use crate::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

type Objects = Arc<Mutex<BTreeMap<Key, Stored>>>;

#[derive(Debug)]
struct Stored {
    bytes: Arc<[u8]>,
    modified: SystemTime,
}

/// A store that lasts as long as the process. Clones share their objects.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    objects: Objects,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    fn object_at(&self, key: &Key) -> Option<Arc<[u8]>> {
        lock(&self.objects).get(key).map(|stored| stored.bytes.clone())
    }
}

impl Storage for MemoryStore {
    fn display(&self, key: &Key) -> String {
        format!("memory://{key}")
    }

    fn canonical(&self, key: &Key) -> Result<String> {
        Ok(format!("memory://{:p}/{key}", Arc::as_ptr(&self.objects)))
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let objects = lock(&self.objects);
        let below = objects.iter().filter(|(key, _)| key.below(prefix).is_some());
        let meta = |(key, stored): (&Key, &Stored)| ObjectMeta {
            key: key.clone(),
            byte_len: stored.bytes.len() as u64,
            modified: Some(stored.modified),
        };
        Ok(below.map(meta).collect())
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        let objects = lock(&self.objects);
        let folders = objects.keys().filter_map(|key| Some(key.below(prefix)?.split_once('/')?.0));
        folders.collect::<BTreeSet<_>>().into_iter().map(|name| prefix.join(name)).collect()
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.object_at(key).map(|bytes| bytes.len() as u64))
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        let object = self.display(key);
        match self.object_at(key) {
            Some(bytes) => Ok(Arc::new(MemoryObject::new(object, bytes))),
            None => Err(Error::NotFound { object }),
        }
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let object = self.display(key);
        if key.is_root() {
            return Err(Error::BadKey { key: key.to_string(), why: "it is the root and not an object" });
        }
        if self.object_at(key).is_some() {
            return Err(Error::AlreadyExists { object });
        }
        let mut bytes = Vec::new();
        grow(&mut bytes, byte_len.unwrap_or(0), &object)?;
        let (objects, key) = (self.objects.clone(), key.clone());
        Ok(Box::new(MemoryWriter { objects, key, object, byte_len, bytes: Mutex::new(bytes) }))
    }

    /// What a writer has not finished is in its own memory.
    fn unfinished(&self, _prefix: &Key) -> Result<Vec<Unfinished>> {
        Ok(Vec::new())
    }

    fn discard(&self, _unfinished: &Unfinished) -> Result<()> {
        Ok(())
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        Ok(lock(&self.objects).remove(key).is_some())
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }
}

/// Bytes to read from, without a store: for tests of parsers.
#[derive(Debug)]
pub struct MemoryObject {
    object: String,
    bytes: Arc<[u8]>,
}

impl MemoryObject {
    /// An object that errors call `object`.
    pub fn new(object: impl Into<String>, bytes: impl Into<Arc<[u8]>>) -> Self {
        MemoryObject { object: object.into(), bytes: bytes.into() }
    }
}

impl ReadAt for MemoryObject {
    fn byte_len(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let end = byte_offset.saturating_add(target.len() as u64);
        if end > self.byte_len() {
            let (object, found) = (self.object.clone(), self.byte_len());
            return Err(Error::Truncated { object, found, expected: end });
        }
        target.copy_from_slice(&self.bytes[byte_offset as usize..end as usize]);
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryWriter {
    objects: Objects,
    key: Key,
    object: String,
    byte_len: Option<u64>,
    bytes: Mutex<Vec<u8>>,
}

impl ObjectWriter for MemoryWriter {
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        let end = byte_offset.saturating_add(bytes.len() as u64);
        if let Some(limit) = self.byte_len.filter(|limit| end > *limit) {
            let (object, what) = (self.object.clone(), "the end of a write");
            return Err(Error::OverLimit { object, what, found: end, limit });
        }
        if bytes.is_empty() {
            return Ok(());
        }
        let mut target = lock(&self.bytes);
        grow(&mut target, end, &self.object)?;
        target[byte_offset as usize..end as usize].copy_from_slice(bytes);
        Ok(())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "a store tells when an object was finished, as a disk does"
    )]
    fn finish(self: Box<Self>) -> Result<()> {
        let bytes = self.bytes.into_inner().unwrap_or_else(PoisonError::into_inner);
        let mut objects = lock(&self.objects);
        if objects.contains_key(&self.key) {
            return Err(Error::AlreadyExists { object: self.object });
        }
        objects.insert(self.key, Stored { bytes: bytes.into(), modified: SystemTime::now() });
        Ok(())
    }
}

/// Zero-fills up to `byte_len`, which may be more than there is.
fn grow(bytes: &mut Vec<u8>, byte_len: u64, object: &str) -> Result<()> {
    let no_space = || Error::NoSpace { path: PathBuf::from(object), available: 0, needed: byte_len };
    let byte_len = usize::try_from(byte_len).map_err(|_| no_space())?;
    if byte_len > bytes.len() {
        bytes.try_reserve(byte_len - bytes.len()).map_err(|_| no_space())?;
        bytes.resize(byte_len, 0);
    }
    Ok(())
}

/// A panic of another test thread leaves whole objects, so they stay usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::conformance;

    #[test]
    fn conforms() {
        conformance::all(&(Arc::new(MemoryStore::new()) as Arc<dyn Storage>));
    }

    #[test]
    fn refuses_what_memory_cannot_hold() {
        let key = Key::new("huge").unwrap();
        for byte_len in [u64::MAX, 1 << 62] {
            assert!(matches!(MemoryStore::new().create(&key, Some(byte_len)), Err(Error::NoSpace { .. })));
        }
    }
}
