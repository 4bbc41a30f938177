//! The temporary file of a writer whose half-filled parts take too much memory.

use crate::error::{Error, Result};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// A file without a name, made when first written to; it is gone with the process, however that ends.
#[derive(Debug, Default)]
pub(super) struct SpillFile(Option<File>);

impl SpillFile {
    /// Errors: [`Error::Io`], which names the object that is written.
    pub(super) fn write(&mut self, object: &str, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        let file = match self.0.take() {
            Some(file) => file,
            None => tempfile::tempfile()
                .map_err(|error| failure(object, "making a temporary file (its folder is TMPDIR)", error))?,
        };
        let written = file.write_all_at(bytes, byte_offset);
        self.0 = Some(file);
        written.map_err(|error| {
            failure(object, "keeping parts in a temporary file (its folder is TMPDIR)", error)
        })
    }

    /// Reads back what was written.
    pub(super) fn read(&self, object: &str, byte_offset: u64, byte_len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; byte_len as usize];
        let read = match &self.0 {
            Some(file) => file.read_exact_at(&mut bytes, byte_offset),
            None => Err(io::ErrorKind::NotFound.into()),
        };
        read.map_err(|error| failure(object, "reading parts back from a temporary file", error))?;
        Ok(bytes)
    }
}

fn failure(object: &str, action: &'static str, source: io::Error) -> Error {
    Error::Io { object: object.to_owned(), action, source }
}
