//! An object in the making, by a process that may die.

use super::faults::{Course, Operation, Process};
use crate::error::{Error, Result};
use crate::storage::{Key, ObjectWriter};
use std::fs::File;
use std::sync::Arc;

/// Around any writer.
#[derive(Debug)]
pub(super) struct FaultyWriter {
    /// Taken when it ends.
    inner: Option<Box<dyn ObjectWriter>>,
    process: Arc<Process>,
    key: Key,
    object: String,
}

impl FaultyWriter {
    pub(super) fn new(inner: Box<dyn ObjectWriter>, process: Arc<Process>, key: Key, object: String) -> Self {
        FaultyWriter { inner: Some(inner), process, key, object }
    }

    fn perform<T>(
        &self,
        operation: Operation,
        act: impl FnOnce(&dyn ObjectWriter, Course) -> Result<T>,
    ) -> Result<T> {
        let inner = self.inner.as_deref().ok_or(Error::Interrupted)?;
        let act = |course| act(inner, course);
        self.process.perform(operation, &self.key, || self.object.clone(), act)
    }
}

impl ObjectWriter for FaultyWriter {
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        self.perform(Operation::WriteAt, |inner, course| match course {
            Course::Torn => inner.write_at(byte_offset, &bytes[..bytes.len() / 2]),
            Course::Once | Course::Twice | Course::Flipped => inner.write_at(byte_offset, bytes),
        })
    }

    fn copy_from(&self, source: &File, source_offset: u64, byte_offset: u64, byte_len: u64) -> Result<bool> {
        self.perform(Operation::CopyFrom, |inner, course| {
            let byte_len = if course == Course::Torn { byte_len / 2 } else { byte_len };
            inner.copy_from(source, source_offset, byte_offset, byte_len)
        })
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        let (process, key, object) = (self.process.clone(), self.key.clone(), self.object.clone());
        // Taken only when it is carried out: otherwise what becomes of it is decided as for any that is dropped.
        let act = |course| {
            self.inner.take().ok_or(Error::Interrupted)?.finish()?;
            match course {
                Course::Once | Course::Torn | Course::Flipped => Ok(()),
                Course::Twice => Err(Error::AlreadyExists { object: object.clone() }),
            }
        };
        process.perform(Operation::Finish, &key, || object.clone(), act)
    }

    fn abandon(mut self: Box<Self>) {
        if let Some(inner) = self.inner.take() {
            inner.abandon();
        }
    }
}

impl Drop for FaultyWriter {
    fn drop(&mut self) {
        match self.inner.take() {
            Some(inner) if self.process.is_dead() => inner.abandon(),
            inner => drop(inner),
        }
    }
}
