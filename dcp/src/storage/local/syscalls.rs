//! The calls that change a disk, one function each, so that a test can make any one of them fail.

use rustix::fs::{CWD, FallocateFlags, FlockOperation, OFlags, RenameFlags};
use rustix::io::Errno;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

#[cfg(test)]
use super::fault;

/// Bytes per `copy_file_range`: few calls, yet a failure elsewhere is noticed soon.
const KERNEL_COPY_BYTES: u64 = 64 << 20;

fn call<T>(name: &'static str, body: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    #[cfg(test)]
    fault::before(name)?;
    #[cfg(not(test))]
    let _ = name;
    body()
}

pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    call("mkdir", || std::fs::create_dir(path))
}

/// Removes a directory if it is empty.
pub(super) fn remove_directory(path: &Path) -> io::Result<()> {
    call("rmdir", || std::fs::remove_dir(path))
}

/// Makes the entries of a directory durable. File systems that cannot say so for a directory (`EINVAL`) order their
/// metadata themselves; PostgreSQL's `fsync_fname_ext` makes the same exception.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    match call("fsync directory", || File::open(path)?.sync_all()) {
        Err(error) if is(&error, &[Errno::INVAL]) => Ok(()),
        other => other,
    }
}

pub(super) fn create_file(path: &Path) -> io::Result<File> {
    call("create", || OpenOptions::new().write(true).create_new(true).open(path))
}

/// Waits for the lock that says that this file's writer is alive; it goes with the description of the file, so also when
/// the process is killed. `false` where the file system has no locks.
pub(super) fn lock_as_writer(file: &File) -> io::Result<bool> {
    loop {
        match call("flock", || Ok(rustix::fs::flock(file, FlockOperation::LockExclusive)?)) {
            Ok(()) => return Ok(true),
            Err(error) if is(&error, &[Errno::INTR]) => {}
            Err(error) if is(&error, NO_LOCKS) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// Takes a lock beside which no writer can hold its own; `None` where the file system has no locks, `Some(false)` where
/// a writer holds its own.
pub(super) fn lock_against_writers(file: &File) -> io::Result<Option<bool>> {
    loop {
        match rustix::fs::flock(file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => return Ok(Some(true)),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(Some(false)),
            Err(errno) if NO_LOCKS.contains(&errno) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Answers of `flock` on file systems without locks, or without a server that keeps them.
const NO_LOCKS: &[Errno] = &[Errno::NOLCK, Errno::OPNOTSUPP, Errno::NOSYS, Errno::INVAL, Errno::BADF];

/// A second description of the file that bypasses the page cache; `None` where the file system refuses (tmpfs before
/// Linux 6.6, some FUSE and network file systems).
pub(super) fn open_direct(path: &Path) -> io::Result<Option<File>> {
    let direct = OFlags::DIRECT.bits() as i32;
    match call("open direct", || OpenOptions::new().write(true).custom_flags(direct).open(path)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if is(&error, &[Errno::INVAL, Errno::OPNOTSUPP]) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Gives a new file its length with its blocks reserved, or only its length where the file system has no preallocation.
pub(super) fn reserve(file: &File, byte_len: u64) -> io::Result<()> {
    loop {
        match call("fallocate", || Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, byte_len)?)) {
            Err(error) if is(&error, &[Errno::INTR]) => {}
            Err(error) if is(&error, &[Errno::OPNOTSUPP]) => {
                return call("ftruncate", || file.set_len(byte_len));
            }
            other => return other,
        }
    }
}

pub(super) fn write_all_at(file: &File, bytes: &[u8], byte_offset: u64) -> io::Result<()> {
    call("write", || file.write_all_at(bytes, byte_offset))
}

/// Writes as much as one call takes.
pub(super) fn write_direct_at(file: &File, bytes: &[u8], byte_offset: u64) -> io::Result<usize> {
    #[cfg(test)]
    let bytes = &bytes[..fault::direct_bytes(bytes.len())];
    call("write direct", || file.write_at(bytes, byte_offset))
}

/// What became of a kernel-side copy.
pub(super) enum KernelCopy {
    Done,
    /// The two files cannot be copied between, or the source gave nothing although it is long enough.
    Refused,
    /// The source ends after so many bytes.
    SourceEndsAt(u64),
}

/// Copies a range between files without bringing the bytes here; shares blocks where the file system can.
pub(super) fn copy_range(
    (source, mut source_offset): (&File, u64),
    (target, mut byte_offset): (&File, u64),
    byte_len: u64,
) -> io::Result<KernelCopy> {
    let source_end = source_offset.saturating_add(byte_len);
    while source_offset < source_end {
        let bytes = (source_end - source_offset).min(KERNEL_COPY_BYTES) as usize;
        let copied = call("copy_file_range", || {
            let (from, to) = (Some(&mut source_offset), Some(&mut byte_offset));
            Ok(rustix::fs::copy_file_range(source, from, target, to, bytes)?)
        });
        match copied {
            Ok(0) => {
                let found = source.metadata()?.len();
                return Ok(match found < source_end {
                    true => KernelCopy::SourceEndsAt(found),
                    false => KernelCopy::Refused,
                });
            }
            Ok(_) => {}
            Err(error) if is(&error, &[Errno::INTR]) => {}
            Err(error) if is(&error, COPY_REFUSALS) => return Ok(KernelCopy::Refused),
            Err(error) => return Err(error),
        }
    }
    Ok(KernelCopy::Done)
}

/// Answers of `copy_file_range` that mean "not between these two": other file system, odd file, no support, source
/// opened for direct or write-only access.
const COPY_REFUSALS: &[Errno] = &[
    Errno::XDEV,
    Errno::INVAL,
    Errno::OPNOTSUPP,
    Errno::NOSYS,
    Errno::BADF,
    Errno::PERM,
    Errno::ISDIR,
    Errno::TXTBSY,
];

pub(super) fn sync_file(file: &File) -> io::Result<()> {
    call("fsync", || file.sync_all())
}

pub(super) fn link(from: &Path, to: &Path) -> io::Result<()> {
    call("link", || std::fs::hard_link(from, to))
}

pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    call("rename", || Ok(rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE)?))
}

pub(super) fn unlink(path: &Path) -> io::Result<()> {
    call("unlink", || std::fs::remove_file(path))
}

/// Free bytes of the file system that holds `path`; `None` where it does not count them.
pub(super) fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    let usage = rustix::fs::statvfs(path)?;
    Ok((usage.f_blocks > 0).then(|| usage.f_bavail.saturating_mul(usage.f_frsize)))
}

/// Whether an error is one of these numbers.
pub(super) fn is(error: &io::Error, errnos: &[Errno]) -> bool {
    Errno::from_io_error(error).is_some_and(|found| errnos.contains(&found))
}
