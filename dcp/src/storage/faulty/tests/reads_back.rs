//! The caller that a store with lost replies asks for: what may be asked again is asked again, and after a doubtful
//! answer to a change the key is read back.

use super::super::*;
use crate::error::Error;
use crate::threads::lock;
use std::sync::Mutex;

/// Around a store whose processes live on.
#[derive(Clone, Debug)]
pub(super) struct ReadsBack(pub(super) FaultyStore);

/// Asks until the answer is the store's own.
fn ask<T>(mut question: impl FnMut() -> Result<T>) -> Result<T> {
    loop {
        match question() {
            Err(error) if injected(&error).is_some() => {}
            answer => return answer,
        }
    }
}

impl ReadsBack {
    /// What is under a key, if anything.
    fn found(&self, key: &Key) -> Result<Option<Vec<u8>>> {
        match self.get(key, u64::MAX) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes `bytes` be under `key`, by an attempt that may have to be repeated.
    fn settle(&self, key: &Key, bytes: &[u8], mut attempt: impl FnMut() -> Result<()>) -> Result<()> {
        loop {
            let doubt = match attempt() {
                Err(error) if injected(&error).is_some() || matches!(error, Error::AlreadyExists { .. }) => {
                    error
                }
                answer => return answer,
            };
            match self.found(key)? {
                Some(found) if found == bytes => return Ok(()),
                Some(_) => return Err(Error::AlreadyExists { object: self.display(key) }),
                None if injected(&doubt).is_some() => {}
                None => return Err(doubt),
            }
        }
    }
}

impl Storage for ReadsBack {
    fn display(&self, key: &Key) -> String {
        self.0.display(key)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        ask(|| self.0.list(prefix))
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        ask(|| self.0.list_prefixes(prefix))
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        ask(|| self.0.head(key))
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        Ok(Arc::new(Asked(ask(|| self.0.open(key))?)))
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let inner = ask(|| self.0.create(key, byte_len))?;
        let written = Mutex::new(vec![0; byte_len.unwrap_or(0) as usize]);
        Ok(Box::new(Remembering { store: self.clone(), key: key.clone(), inner, written }))
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        if self.head(key)?.is_none() {
            return Ok(false);
        }
        // Whatever the answers were, it was there and is gone.
        while self.head(key)?.is_some() {
            let _ = self.0.remove(key);
        }
        Ok(true)
    }

    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        ask(|| self.0.unfinished(prefix))
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        ask(|| self.0.discard(unfinished))
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.0.free_bytes()
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.settle(key, bytes, || self.0.put(key, bytes))
    }
}

/// An open object.
#[derive(Debug)]
struct Asked(Arc<dyn ReadAt>);

impl ReadAt for Asked {
    fn byte_len(&self) -> u64 {
        self.0.byte_len()
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        ask(|| self.0.read_at(byte_offset, target))
    }
}

/// A writer that knows what it wrote.
#[derive(Debug)]
struct Remembering {
    store: ReadsBack,
    key: Key,
    inner: Box<dyn ObjectWriter>,
    written: Mutex<Vec<u8>>,
}

impl ObjectWriter for Remembering {
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        ask(|| self.inner.write_at(byte_offset, bytes))?;
        if !bytes.is_empty() {
            let mut written = lock(&self.written);
            let (start, end) = (byte_offset as usize, byte_offset as usize + bytes.len());
            let byte_len = written.len().max(end);
            written.resize(byte_len, 0);
            written[start..end].copy_from_slice(bytes);
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let Remembering { store, key, inner, written } = *self;
        let written = lock(&written);
        let mut first = Some(inner);
        store.settle(&key, &written, || {
            let writer = match first.take() {
                Some(writer) => writer,
                None => {
                    let again = store.0.create(&key, Some(written.len() as u64))?;
                    ask(|| again.write_at(0, &written))?;
                    again
                }
            };
            writer.finish()
        })
    }
}
