//! What writers began and did not finish: who left it, and whether it may go.

use super::{finished_name, is_absent, syscalls, walk};
use crate::error::{Error, Result};
use crate::storage::{Key, Unfinished, WriterState};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::path::Path;

/// Every unfinished file below `folder`, whose key is `prefix`, sorted by key.
pub(super) fn find(folder: &Path, prefix: &Key) -> Result<Vec<Unfinished>> {
    let mut found = Vec::new();
    walk::each_file(folder, prefix, &mut |path, key, metadata| {
        if let Some(name) = finished_name(key.name()) {
            found.push((path.to_owned(), key.parent().join(name), key.to_string(), metadata.clone()));
        }
    })?;
    let mut unfinished = Vec::with_capacity(found.len());
    for (path, key, id, metadata) in found {
        let Some(writer) = writer(&path)? else { continue };
        let (byte_len, modified) = (Some(metadata.len()), metadata.modified().ok());
        unfinished.push(Unfinished { key: key?, id, byte_len, modified, writer });
    }
    unfinished.sort_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    Ok(unfinished)
}

/// Whether the file's writer is alive; `None` where the file has been finished or removed meanwhile.
fn writer(path: &Path) -> Result<Option<WriterState>> {
    Ok(match locked(path) {
        Ok((_, Some(true))) => Some(WriterState::Dead),
        Ok((_, Some(false))) => Some(WriterState::Alive),
        Ok((_, None)) => Some(WriterState::Unknown),
        Err(error) if is_absent(&error) => None,
        // Somebody else's file, which cannot be opened, may be removable all the same.
        Err(error) if syscalls::is(&error, &[Errno::ACCESS, Errno::PERM]) => Some(WriterState::Unknown),
        Err(source) => return Err(failed(&path.display().to_string(), source)),
    })
}

/// Takes the lock beside which the file has no writer, where the file system has locks and the file can be opened.
///
/// Errors: [`Error::InUse`] where it has a writer.
pub(super) fn lock(path: &Path, object: &str) -> Result<Option<File>> {
    match locked(path) {
        Ok((_, Some(false))) => Err(Error::InUse { object: object.to_owned() }),
        Ok((file, _)) => Ok(Some(file)),
        Err(error) if is_absent(&error) || syscalls::is(&error, &[Errno::ACCESS, Errno::PERM]) => Ok(None),
        Err(source) => Err(failed(object, source)),
    }
}

fn locked(path: &Path) -> io::Result<(File, Option<bool>)> {
    let file = File::open(path)?;
    let locked = syscalls::lock_against_writers(&file)?;
    Ok((file, locked))
}

fn failed(object: &str, source: io::Error) -> Error {
    Error::Io { object: object.to_owned(), action: "asking for a lock", source }
}
