//! Writing a local file that appears whole or not at all.
//!
//! 1. Create `.NAME.<uuid>.titan-tmp` beside the target: the same file system, so that it can be linked there.
//! 2. Reserve its blocks, so that a full disk is noticed before the work and not after.
//! 3. Write in any order from any thread. Large pieces go past the page cache where buffer and file agree in alignment:
//!    as fast, at a sixth of the processor time, and the cache keeps what the user had in it.
//! 4. `fsync` the file: its bytes are durable before its name is.
//! 5. `link` it to its name, which fails if the name exists: of two writers one wins.
//! 6. `unlink` the first name and `fsync` the folder: the name is durable.
//!
//! # Why direct and buffered writes may mix
//!
//! Both kinds of descriptor are on one file. A piece is cut at multiples of a block that is at least a page: whole
//! blocks are written directly, the partial blocks at its ends through the page cache. Pieces do not overlap, so a page
//! that is written directly belongs to one piece alone and never has another writer's bytes in the cache, and a page
//! that two pieces share is only ever written through the cache, where the kernel orders writers. The kernel drops
//! cached pages of a range that is written directly, so later readers see what was written.

use super::syscalls::{self, KernelCopy};
use super::unfinished::Unfinished;
use crate::error::{Error, Result};
use crate::storage::ObjectWriter;
use crate::storage::aligned::ALIGNMENT_BYTES;
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The least whole blocks that go past the page cache; below it the wait for the disk costs more than the copy.
pub(super) const DIRECT_BYTES_MIN: usize = 1 << 20;
/// The most that a file system's block size may raise the cut between direct and buffered bytes.
const DIRECT_BLOCK_BYTES_MAX: u64 = 64 << 10;

/// A file in the making.
#[derive(Debug)]
pub(super) struct LocalWriter {
    object: String,
    target: PathBuf,
    unfinished: Unfinished,
    buffered: File,
    direct: Option<Direct>,
    byte_len: Option<u64>,
    failed: AtomicBool,
}

/// The way past the page cache.
#[derive(Debug)]
struct Direct {
    file: File,
    block_bytes: usize,
    /// The file system opened the file for direct writes, yet refuses them.
    refused: AtomicBool,
}

impl LocalWriter {
    /// Starts a file that will be `target`.
    pub(super) fn create(
        target: PathBuf,
        object: String,
        byte_len: Option<u64>,
        direct_io: bool,
    ) -> Result<Self> {
        let (unfinished, buffered) = Unfinished::create(&target, &object)?;
        let mut writer = LocalWriter {
            object,
            target,
            unfinished,
            buffered,
            direct: None,
            byte_len,
            failed: AtomicBool::new(false),
        };
        if let Some(byte_len) = byte_len {
            writer.reserve(byte_len)?;
        }
        if direct_io && byte_len.is_none_or(|byte_len| byte_len >= DIRECT_BYTES_MIN as u64) {
            writer.direct = writer.open_direct().map_err(|source| writer.failure("opening", 0, source))?;
        }
        Ok(writer)
    }

    fn reserve(&self, byte_len: u64) -> Result<()> {
        // Asked first, so that a request that cannot be met does not fill the disk for others on its way to failing.
        if let Some(available) = self.free_bytes().filter(|available| *available < byte_len) {
            return Err(Error::NoSpace { path: self.folder().to_owned(), available, needed: byte_len });
        }
        if byte_len == 0 {
            return Ok(());
        }
        syscalls::reserve(&self.buffered, byte_len)
            .map_err(|source| self.failure("reserving space", byte_len, source))
    }

    fn open_direct(&self) -> io::Result<Option<Direct>> {
        let Some(file) = syscalls::open_direct(self.unfinished.path())? else { return Ok(None) };
        let page_bytes = rustix::param::page_size() as u64;
        let fs_block_bytes = file.metadata()?.blksize().clamp(1, DIRECT_BLOCK_BYTES_MAX).next_power_of_two();
        let block_bytes = (ALIGNMENT_BYTES as u64).max(page_bytes).max(fs_block_bytes) as usize;
        Ok(Some(Direct { file, block_bytes, refused: AtomicBool::new(false) }))
    }

    fn folder(&self) -> &Path {
        super::folder_of(&self.target)
    }

    fn free_bytes(&self) -> Option<u64> {
        syscalls::free_bytes(self.folder()).ok().flatten()
    }

    fn failure(&self, action: &'static str, needed: u64, source: io::Error) -> Error {
        match syscalls::is(&source, &[Errno::NOSPC]) {
            true => Error::NoSpace {
                path: self.folder().to_owned(),
                available: self.free_bytes().unwrap_or(0),
                needed,
            },
            false => Error::Io { object: self.object.clone(), action, source },
        }
    }

    fn check_end(&self, byte_offset: u64, byte_len: u64) -> Result<()> {
        let limit = self.byte_len.unwrap_or(i64::MAX as u64);
        match byte_offset.checked_add(byte_len) {
            Some(end) if end <= limit => Ok(()),
            end => Err(Error::OverLimit {
                object: self.object.clone(),
                what: "the end of a write",
                found: end.unwrap_or(u64::MAX),
                limit,
            }),
        }
    }

    fn write_pieces(&self, byte_offset: u64, bytes: &[u8]) -> io::Result<()> {
        let Some((direct, head_len, body_len)) = self.direct_part(byte_offset, bytes) else {
            return syscalls::write_all_at(&self.buffered, bytes, byte_offset);
        };
        let (head, rest) = bytes.split_at(head_len);
        let (body, tail) = rest.split_at(body_len);
        let body_offset = byte_offset + head_len as u64;
        for (part, part_offset) in [(head, byte_offset), (tail, body_offset + body_len as u64)] {
            if !part.is_empty() {
                syscalls::write_all_at(&self.buffered, part, part_offset)?;
            }
        }
        let written = direct.write(body, body_offset)?;
        match &body[written..] {
            [] => Ok(()),
            left => syscalls::write_all_at(&self.buffered, left, body_offset + written as u64),
        }
    }

    /// Lengths of the partial block at the start and of the whole blocks after it, where the latter are worth a direct
    /// write and the buffer is aligned as the file is.
    fn direct_part(&self, byte_offset: u64, bytes: &[u8]) -> Option<(&Direct, usize, usize)> {
        let direct = self.direct.as_ref().filter(|direct| !direct.refused.load(Ordering::Relaxed))?;
        let alignment = ALIGNMENT_BYTES as u64;
        if bytes.as_ptr().addr() as u64 % alignment != byte_offset % alignment {
            return None;
        }
        let head_len =
            (byte_offset.checked_next_multiple_of(direct.block_bytes as u64)? - byte_offset) as usize;
        let body_len = bytes.len().checked_sub(head_len)? / direct.block_bytes * direct.block_bytes;
        (body_len >= DIRECT_BYTES_MIN).then_some((direct, head_len, body_len))
    }
}

impl Direct {
    /// Writes whole blocks; returns how many bytes were taken, less than all when the rest must go another way.
    fn write(&self, body: &[u8], body_offset: u64) -> io::Result<usize> {
        let mut written = 0;
        while written < body.len() {
            match syscalls::write_direct_at(&self.file, &body[written..], body_offset + written as u64) {
                // A count that is no whole block, zero included, cannot be continued directly.
                Ok(bytes) if bytes == 0 || bytes % self.block_bytes != 0 => return Ok(written + bytes),
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if syscalls::is(&error, &[Errno::INVAL]) => {
                    self.refused.store(true, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(written)
    }
}

impl ObjectWriter for LocalWriter {
    fn write_at(&self, byte_offset: u64, bytes: &[u8]) -> Result<()> {
        self.check_end(byte_offset, bytes.len() as u64)?;
        self.write_pieces(byte_offset, bytes).map_err(|source| {
            self.failed.store(true, Ordering::Relaxed);
            self.failure("writing", bytes.len() as u64, source)
        })
    }

    fn copy_from(&self, source: &File, source_offset: u64, byte_offset: u64, byte_len: u64) -> Result<bool> {
        self.check_end(byte_offset, byte_len)?;
        match syscalls::copy_range((source, source_offset), (&self.buffered, byte_offset), byte_len) {
            Ok(KernelCopy::Done) => Ok(true),
            Ok(KernelCopy::Refused) => Ok(false),
            Ok(KernelCopy::SourceEndsAt(found)) => {
                self.failed.store(true, Ordering::Relaxed);
                let object = format!("the source of {}", self.object);
                Err(Error::Truncated { object, found, expected: source_offset.saturating_add(byte_len) })
            }
            Err(error) => {
                self.failed.store(true, Ordering::Relaxed);
                Err(self.failure("copying", byte_len, error))
            }
        }
    }

    /// An error of the last step, `fsync` of the folder, leaves the object visible but perhaps not durable.
    fn finish(self: Box<Self>) -> Result<()> {
        if self.failed.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        // An error here is final: the kernel may have marked the lost pages clean, and a second call would succeed.
        syscalls::sync_file(&self.buffered).map_err(|source| self.failure("fsync", 0, source))?;
        let LocalWriter { object, target, unfinished, .. } = *self;
        unfinished.publish(&target, &object)?;
        syscalls::sync_directory(super::folder_of(&target)).map_err(|source| Error::Io {
            object,
            action: "fsync of the folder",
            source,
        })
    }

    #[cfg(any(test, feature = "testing"))]
    fn abandon(self: Box<Self>) {
        // The files are closed; only the name that would be removed is kept from it.
        std::mem::forget(self.unfinished);
    }
}
