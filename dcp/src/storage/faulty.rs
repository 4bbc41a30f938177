//! A store that fails as asked, around any other: for tests of what a save leaves behind.
//!
//! A [`FaultyStore`] stands for one process and what it does with the store; its clones are the same process. [`Faults`]
//! count operations and decide what goes wrong; stores made from the same faults share the count, so that "the process
//! that does operation 17 dies" can be tried for every number, whichever rank it hits.
//!
//! The dead do nothing more: every operation of a process that died fails with an error that [`injected`] tells apart,
//! and its writers are [abandoned](super::ObjectWriter::abandon), so that half-written files stay where they are.
//!
//! What it cannot show: deaths inside one operation of the store (the local store's own tests have those), and loss of
//! power, which takes back what was not yet durable.

mod faults;
#[cfg(test)]
mod tests;
mod writer;

pub use faults::{Call, Fault, Faults, Hit, Injected, Operation, injected};

use super::{Key, ObjectMeta, ObjectWriter, ReadAt, Storage, Unfinished};
use crate::error::Result;
use faults::{Course, Process};
use std::fs::File;
use std::sync::Arc;
use writer::FaultyWriter;

/// What one process sees of a store.
#[derive(Clone, Debug)]
pub struct FaultyStore {
    inner: Arc<dyn Storage>,
    process: Arc<Process>,
}

impl FaultyStore {
    /// A process of its own; it lives until a fault ends it.
    pub fn new(inner: Arc<dyn Storage>, faults: &Faults) -> Self {
        FaultyStore { inner, process: Arc::new(Process::new(faults.clone())) }
    }

    /// Whether a fault has ended the process.
    pub fn is_dead(&self) -> bool {
        self.process.is_dead()
    }

    fn perform<T>(
        &self,
        operation: Operation,
        key: &Key,
        act: impl FnOnce(Course) -> Result<T>,
    ) -> Result<T> {
        self.process.perform(operation, key, || self.display(key), act)
    }
}

impl Storage for FaultyStore {
    fn display(&self, key: &Key) -> String {
        self.inner.display(key)
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        self.perform(Operation::List, prefix, |_| self.inner.list(prefix))
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        self.perform(Operation::ListPrefixes, prefix, |_| self.inner.list_prefixes(prefix))
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.perform(Operation::Head, key, |_| self.inner.head(key))
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        self.perform(Operation::Open, key, |_| {
            let (inner, process) = (self.inner.open(key)?, self.process.clone());
            let (key, object) = (key.clone(), self.display(key));
            Ok(Arc::new(FaultyObject { inner, process, key, object }) as Arc<dyn ReadAt>)
        })
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let create = || {
            let inner = self.inner.create(key, byte_len)?;
            let writer = FaultyWriter::new(inner, self.process.clone(), key.clone(), self.display(key));
            Ok(Box::new(writer) as Box<dyn ObjectWriter>)
        };
        self.perform(Operation::Create, key, |course| {
            if course == Course::Twice {
                create()?;
            }
            create()
        })
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        self.perform(Operation::Remove, key, |course| {
            if course == Course::Twice {
                self.inner.remove(key)?;
            }
            self.inner.remove(key)
        })
    }

    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        self.perform(Operation::Unfinished, prefix, |_| self.inner.unfinished(prefix))
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.perform(Operation::Discard, &unfinished.key, |course| {
            if course == Course::Twice {
                self.inner.discard(unfinished)?;
            }
            self.inner.discard(unfinished)
        })
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        self.process.check_alive("asking for free space", || self.display(&Key::root()))?;
        self.inner.free_bytes()
    }

    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.perform(Operation::Put, key, |course| match course {
            Course::Once | Course::Flipped => self.inner.put(key, bytes),
            Course::Twice => self.inner.put(key, bytes).and_then(|()| self.inner.put(key, bytes)),
            Course::Torn => {
                let writer = self.inner.create(key, Some(bytes.len() as u64))?;
                let written = writer.write_at(0, &bytes[..bytes.len() / 2]);
                writer.abandon();
                written
            }
        })
    }
}

/// An open object of a process.
#[derive(Debug)]
struct FaultyObject {
    inner: Arc<dyn ReadAt>,
    process: Arc<Process>,
    key: Key,
    object: String,
}

impl ReadAt for FaultyObject {
    fn byte_len(&self) -> u64 {
        self.inner.byte_len()
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let act = |course| {
            self.inner.read_at(byte_offset, target)?;
            if let (Course::Flipped, Some(last)) = (course, target.last_mut()) {
                *last ^= 1;
            }
            Ok(())
        };
        self.process.perform(Operation::Read, &self.key, || self.object.clone(), act)
    }

    fn file(&self) -> Option<&File> {
        self.inner.file()
    }

    fn granularity(&self) -> u64 {
        self.inner.granularity()
    }

    fn read_cost_bytes(&self) -> u64 {
        self.inner.read_cost_bytes()
    }
}
