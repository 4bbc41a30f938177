//! Local files.
//!
//! A key is a path below the store's root. Objects are ordinary files; a link to one is one, and a linked folder is a
//! folder. Sockets, devices, dangling links and files never finished are no objects. A name that is not UTF-8 cannot be
//! a key: a listing that meets one is an error that names it, because a copy would lack it.
//!
//! A store need not be on a disk of one's own: where a file system has no preallocation, no direct writes, no
//! kernel-side copies or no hard links, the ordinary way is taken, with the same result.

#[cfg(test)]
mod fault;
mod leftovers;
mod reader;
mod syscalls;
#[cfg(test)]
mod tests;
mod unfinished;
mod walk;
mod writer;

use unfinished::finished_name;
pub use unfinished::is_unfinished;

use super::{Environment, Key, ObjectMeta, ObjectWriter, Place, ReadAt, Storage, Unfinished};
use crate::error::{Error, Result};
use percent_encoding::percent_decode_str;
use rustix::io::Errno;
use std::fs::Metadata;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

/// Opens the place that a path names, as typed: a relative path stays relative. The store's root is the folder that the
/// file or folder is in, so that its name can be shown and its neighbours reached.
pub fn open(path: &str) -> Result<Place> {
    if path.is_empty() {
        let why = "it is empty; write `.` for the current folder".to_owned();
        return Err(Error::BadUrl { url: path.to_owned(), why });
    }
    let typed = Path::new(path);
    // `/`, `.`, `..` and `a/..` have no name of their own: the folder itself is the root.
    let (root, key) = match (typed.parent(), typed.file_name().and_then(|name| name.to_str())) {
        (Some(parent), Some(name)) => (parent, Key::new(name)?),
        _ => (typed, Key::root()),
    };
    Ok(Place { store: Arc::new(LocalStore::new(root)), key })
}

/// Opens the place that the rest of a `file://` URL names: percent-encoded, absolute, without a host or with
/// `localhost`.
pub fn open_file_url(rest: &str, _environment: &Environment) -> Result<Place> {
    let bad = |why: &str| Error::BadUrl { url: format!("file://{rest}"), why: why.to_owned() };
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    if !path.starts_with('/') {
        return Err(bad("a file URL has three slashes and an absolute path, as in file:///data/run"));
    }
    let path =
        percent_decode_str(path).decode_utf8().map_err(|_| bad("its percent-encoding is not UTF-8"))?;
    open(&path)
}

/// The files below a folder.
#[derive(Debug)]
pub struct LocalStore {
    root: PathBuf,
    direct_io: bool,
}

impl LocalStore {
    /// The store of a folder, which is made when its first object is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        LocalStore { root: root.into(), direct_io: true }
    }

    /// The same, with every write through the page cache.
    pub fn without_direct_io(self) -> Self {
        LocalStore { direct_io: false, ..self }
    }

    /// The path as a person would type it.
    fn path(&self, key: &Key) -> PathBuf {
        match (key.is_root(), self.root.as_os_str().is_empty()) {
            (true, true) => PathBuf::from("."),
            (true, false) => self.root.clone(),
            _ => self.root.join(key.as_str()),
        }
    }

    /// What the key names, where it may be an object.
    fn metadata(&self, key: &Key) -> Result<Option<Metadata>> {
        if key.is_root() || is_unfinished(key.name()) {
            return Ok(None);
        }
        match std::fs::metadata(self.path(key)) {
            Ok(metadata) => Ok(Some(metadata)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(source) => Err(Error::Io { object: self.display(key), action: "looking up", source }),
        }
    }

    /// Removes a name, and the folders that are empty without it, durably; `false` where it is gone already.
    fn unlink(&self, key: &Key) -> Result<bool> {
        let failed = |action| move |source| Error::Io { object: self.display(key), action, source };
        match syscalls::unlink(&self.path(key)) {
            Ok(()) => {}
            Err(error) if is_absent(&error) => return Ok(false),
            Err(source) => return Err(failed("removing")(source)),
        }
        let mut folder = key.parent();
        while !folder.is_root() && syscalls::remove_directory(&self.path(&folder)).is_ok() {
            folder = folder.parent();
        }
        match syscalls::sync_directory(&self.path(&folder)) {
            // Removed by another at the same time, and what is above it with it.
            Err(error) if is_absent(&error) => Ok(true),
            synced => synced.map(|()| true).map_err(failed("fsync of the folder")),
        }
    }
}

impl Storage for LocalStore {
    fn display(&self, key: &Key) -> String {
        self.path(key).display().to_string()
    }

    fn canonical(&self, key: &Key) -> Result<String> {
        let resolved = std::path::absolute(self.path(key)).and_then(|path| resolve(&path));
        let failed = |source| Error::Io { object: self.display(key), action: "resolving", source };
        Ok(resolved.map_err(failed)?.display().to_string())
    }

    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let mut objects = walk::walk(&self.path(prefix), prefix)?;
        objects.sort_unstable();
        Ok(objects)
    }

    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        let mut folders = walk::folders(&self.path(prefix), prefix)?;
        folders.sort_unstable();
        Ok(folders)
    }

    fn head(&self, key: &Key) -> Result<Option<u64>> {
        Ok(self.metadata(key)?.filter(Metadata::is_file).map(|metadata| metadata.len()))
    }

    fn open(&self, key: &Key) -> Result<Arc<dyn ReadAt>> {
        if key.is_root() || is_unfinished(key.name()) {
            return Err(Error::NotFound { object: self.display(key) });
        }
        Ok(Arc::new(reader::LocalFile::open(&self.path(key), self.display(key))?))
    }

    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let why = match key.is_root() {
            true => "it is the root and not an object",
            false => "names of this form are for objects not finished",
        };
        if key.is_root() || is_unfinished(key.name()) {
            return Err(Error::BadKey { key: key.to_string(), why });
        }
        // Not `metadata`: a dangling link is no object, yet its name is taken.
        match std::fs::symlink_metadata(self.path(key)) {
            Ok(_) => return Err(Error::AlreadyExists { object: self.display(key) }),
            Err(error) if is_absent(&error) => {}
            Err(source) => return Err(Error::Io { object: self.display(key), action: "looking up", source }),
        }
        let (path, object) = (self.path(key), self.display(key));
        Ok(Box::new(writer::LocalWriter::create(path, object, byte_len, self.direct_io)?))
    }

    fn remove(&self, key: &Key) -> Result<bool> {
        if self.head(key)?.is_none() {
            return Ok(false);
        }
        self.unlink(key)
    }

    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        leftovers::find(&self.path(prefix), prefix)
    }

    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        let key = Key::new(unfinished.id.as_str())?;
        if !is_unfinished(key.name()) {
            let why = "it is not the name of an unfinished object";
            return Err(Error::BadKey { key: unfinished.id.clone(), why });
        }
        // Held until the name is gone, so that no writer begins with this file.
        let _lock = leftovers::lock(&self.path(&key), &self.display(&key))?;
        self.unlink(&key).map(drop)
    }

    fn free_bytes(&self) -> Result<Option<u64>> {
        let root = self.path(&Key::root());
        // The root may not be there yet: the folder it will be in is on the same file system.
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("."));
        syscalls::free_bytes(existing).map_err(|source| Error::Io {
            object: self.display(&Key::root()),
            action: "asking for free space",
            source,
        })
    }
}

/// The path with all links followed as far as it exists. What does not exist has no links, so `..` there is the folder
/// above by name.
fn resolve(path: &Path) -> io::Result<PathBuf> {
    for existing in path.ancestors() {
        let mut found = match existing.canonicalize() {
            Ok(found) => found,
            Err(error) if is_absent(&error) => continue,
            Err(error) => return Err(error),
        };
        let rest: Vec<_> = path.strip_prefix(existing).unwrap_or(Path::new("")).components().collect();
        for component in &rest {
            match component {
                Component::ParentDir => drop(found.pop()),
                component => found.push(component),
            }
        }
        // Such a step may lead back to what exists.
        return if rest.contains(&Component::ParentDir) { resolve(&found) } else { Ok(found) };
    }
    Ok(path.to_owned())
}

/// Whether an error says that nothing is at a path: no such name, no such folder, or links in a circle.
fn is_absent(error: &io::Error) -> bool {
    syscalls::is(error, &[Errno::NOENT, Errno::NOTDIR, Errno::LOOP])
}

/// The folder that a path is in; the current one for a bare name.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
