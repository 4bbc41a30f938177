//! Listing a folder.

use super::{finished_name, is_absent};
use crate::error::{Error, Result};
use crate::storage::{Key, ObjectMeta};
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Deepest folder that a listing enters.
const DEPTH_MAX: u64 = 128;

/// Every finished object below `folder`, whose key is `key`, unsorted. Links are followed, but not to a folder that the
/// walk is within; what is neither folder nor ordinary file is no object.
pub(super) fn walk(folder: &Path, key: &Key) -> Result<Vec<ObjectMeta>> {
    let mut found = Vec::new();
    each_file(folder, key, &mut |_, child, metadata| {
        if finished_name(child.name()).is_none() {
            let modified = metadata.modified().ok();
            found.push(ObjectMeta { key: child, byte_len: metadata.len(), modified });
        }
    })?;
    Ok(found)
}

/// Visits every ordinary file below `folder`, unfinished ones too.
pub(super) fn each_file(
    folder: &Path,
    key: &Key,
    visit: &mut dyn FnMut(&Path, Key, &Metadata),
) -> Result<()> {
    match std::fs::metadata(folder) {
        Ok(metadata) if metadata.is_dir() => descend(folder, key, &mut vec![id(&metadata)], visit),
        Ok(_) => Ok(()),
        Err(error) if is_absent(&error) => Ok(()),
        Err(source) => Err(listing_failed(folder, source)),
    }
}

/// Keys of the folders directly in `folder`, unsorted.
pub(super) fn folders(folder: &Path, key: &Key) -> Result<Vec<Key>> {
    let mut found = Vec::new();
    each_entry(folder, key, |_, child, metadata| {
        if metadata.is_dir() {
            found.push(child);
        }
        Ok(())
    })?;
    Ok(found)
}

fn descend(
    folder: &Path,
    key: &Key,
    within: &mut Vec<(u64, u64)>,
    visit: &mut dyn FnMut(&Path, Key, &Metadata),
) -> Result<()> {
    if within.len() as u64 > DEPTH_MAX {
        let (object, what) = (folder.display().to_string(), "its depth in folders");
        return Err(Error::OverLimit { object, what, found: within.len() as u64, limit: DEPTH_MAX });
    }
    each_entry(folder, key, |path, child, metadata| {
        if metadata.is_file() {
            visit(path, child, metadata);
        } else if metadata.is_dir() && !within.contains(&id(metadata)) {
            within.push(id(metadata));
            descend(path, &child, within, visit)?;
            within.pop();
        }
        Ok(())
    })
}

/// Visits what is in a folder, with links resolved; what vanishes meanwhile, a dangling link and a missing folder are
/// nothing.
fn each_entry(
    folder: &Path,
    key: &Key,
    mut visit: impl FnMut(&Path, Key, &Metadata) -> Result<()>,
) -> Result<()> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if is_absent(&error) => return Ok(()),
        Err(source) => return Err(listing_failed(folder, source)),
    };
    for entry in entries {
        let entry = entry.map_err(|source| listing_failed(folder, source))?;
        let (path, name) = (entry.path(), entry.file_name());
        let metadata = match std::fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if is_absent(&error) => continue,
            Err(source) => return Err(listing_failed(&path, source)),
        };
        let why = "it is not UTF-8; rename it, or move it out of this folder";
        let name = name.to_str().ok_or_else(|| Error::BadKey { key: path.display().to_string(), why })?;
        visit(&path, key.join(name)?, &metadata)?;
    }
    Ok(())
}

/// What tells one folder from another, whatever its path.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn listing_failed(path: &Path, source: std::io::Error) -> Error {
    Error::Io { object: path.display().to_string(), action: "listing", source }
}
