//! Reading a local file by positions.

use crate::error::{Error, Result};
use crate::storage::ReadAt;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// An open file.
#[derive(Debug)]
pub(super) struct LocalFile {
    object: String,
    file: File,
    byte_len: u64,
}

impl LocalFile {
    /// Opens an ordinary file; anything else is no object.
    pub(super) fn open(path: &Path, object: String) -> Result<Self> {
        // Without NONBLOCK, opening a FIFO would wait for its writer. It means nothing to an ordinary file.
        let opened = OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
        let opened = opened.and_then(|file| Ok((file.metadata()?, file)));
        match opened {
            Ok((metadata, file)) if metadata.is_file() => {
                Ok(LocalFile { object, file, byte_len: metadata.len() })
            }
            Ok(_) => Err(Error::NotFound { object }),
            Err(error) if super::is_absent(&error) || super::syscalls::is(&error, &[Errno::NXIO]) => {
                Err(Error::NotFound { object })
            }
            Err(source) => Err(Error::Io { object, action: "opening", source }),
        }
    }

    fn truncated(&self, found: u64, expected: u64) -> Error {
        Error::Truncated { object: self.object.clone(), found, expected }
    }
}

impl ReadAt for LocalFile {
    fn byte_len(&self) -> u64 {
        self.byte_len
    }

    fn read_at(&self, byte_offset: u64, target: &mut [u8]) -> Result<()> {
        let end = byte_offset.saturating_add(target.len() as u64);
        if end > self.byte_len {
            return Err(self.truncated(self.byte_len, end));
        }
        self.file.read_exact_at(target, byte_offset).map_err(|source| match source.kind() {
            // Somebody cut the file after it was opened.
            ErrorKind::UnexpectedEof => {
                self.truncated(self.file.metadata().map_or(byte_offset, |metadata| metadata.len()), end)
            }
            _ => Error::Io { object: self.object.clone(), action: "reading", source },
        })
    }

    fn file(&self) -> Option<&File> {
        Some(&self.file)
    }
}
