//! The name a file has until it is finished, and the lock that its writer holds until then: a file of this name without
//! a lock was left by a writer that is gone.

use super::folder_of;
use super::syscalls::{self, is};
use crate::error::{Error, Result};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use uuid::Uuid;

const SUFFIX: &str = ".titan-tmp";
/// Room for dots, uuid and suffix within the 255 bytes that a file name may have.
const NAME_BYTES_MAX: usize = 255 - 2 - 32 - SUFFIX.len();
/// How often a folder may vanish, removed by a writer that gave up, before its file is made.
const RACES_MAX: usize = 64;

/// Whether a file name is that of an object never finished: `.NAME.<uuid>.titan-tmp`. One whose process is gone is safe
/// to remove.
pub fn is_unfinished(name: &str) -> bool {
    finished_name(name).is_some()
}

/// The name that a file of this unfinished name would have got, cut where it is very long.
pub(super) fn finished_name(name: &str) -> Option<&str> {
    let (finished, uuid) = name.strip_prefix('.')?.strip_suffix(SUFFIX)?.rsplit_once('.')?;
    (uuid.len() == 32 && Uuid::try_parse(uuid).is_ok()).then_some(finished)
}

/// A file under its unfinished name, and the folders made for it. Dropping it removes the name, and those folders if
/// nothing else is in them.
#[derive(Debug)]
pub(super) struct Unfinished {
    path: PathBuf,
    made_folders: Vec<PathBuf>,
}

impl Unfinished {
    pub(super) fn create(target: &Path, object: &str) -> Result<(Self, File)> {
        let name = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let name = &name[..name.floor_char_boundary(NAME_BYTES_MAX)];
        let path = target.with_file_name(format!(".{name}.{}{SUFFIX}", Uuid::new_v4().simple()));
        let mut unfinished = Unfinished { path, made_folders: Vec::new() };
        let failed = |action| move |source| Error::Io { object: object.to_owned(), action, source };
        for race in 1.. {
            unfinished.make_folders(folder_of(target))?;
            match syscalls::create_file(&unfinished.path) {
                Ok(file) => {
                    syscalls::lock_as_writer(&file).map_err(failed("locking"))?;
                    // Who cleans up may have come between the two, found no lock and removed the file.
                    let links = file.metadata().map_err(failed("looking up"))?.nlink();
                    if links > 0 || race == RACES_MAX {
                        return Ok((unfinished, file));
                    }
                }
                Err(error) if is(&error, &[Errno::NOENT]) && race < RACES_MAX => {}
                Err(source) => return Err(failed("creating")(source)),
            }
        }
        unreachable!("the last race returns")
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes missing folders, each durable in its parent.
    fn make_folders(&mut self, folder: &Path) -> Result<()> {
        let failed =
            |path: &Path, action, source| Error::Io { object: path.display().to_string(), action, source };
        let mut missing = Vec::new();
        let mut ancestor = folder;
        loop {
            match std::fs::metadata(ancestor) {
                Ok(metadata) if metadata.is_dir() => break,
                Ok(_) => return Err(Error::AlreadyExists { object: ancestor.display().to_string() }),
                // The current folder itself was removed.
                Err(source) if ancestor == Path::new(".") => {
                    return Err(failed(ancestor, "looking up", source));
                }
                Err(error) if is(&error, &[Errno::NOENT, Errno::NOTDIR]) => missing.push(ancestor),
                Err(source) => return Err(failed(ancestor, "looking up", source)),
            }
            ancestor = folder_of(ancestor);
        }
        for path in missing.into_iter().rev() {
            match syscalls::make_directory(path) {
                Ok(()) => self.made_folders.push(path.to_owned()),
                Err(error) if is(&error, &[Errno::EXIST]) => {}
                // Its parent was removed meanwhile: the caller starts over.
                Err(error) if is(&error, &[Errno::NOENT]) => return Ok(()),
                Err(source) => return Err(failed(path, "making the folder", source)),
            }
            match syscalls::sync_directory(folder_of(path)) {
                Err(error) if !is(&error, &[Errno::NOENT]) => {
                    return Err(failed(path, "fsync of the folder above", error));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the file its name in place of the unfinished one, unless the name exists.
    pub(super) fn publish(mut self, target: &Path, object: &str) -> Result<()> {
        let published = match syscalls::link(&self.path, target) {
            Err(error) if is(&error, &[Errno::PERM, Errno::OPNOTSUPP, Errno::NOSYS, Errno::MLINK]) => {
                syscalls::rename_new(&self.path, target)
            }
            other => other,
        };
        match published {
            // Over NFS a lost reply makes the client ask again and be refused by its own success.
            Err(error) if is(&error, &[Errno::EXIST]) && !self.is_same_file(target) => {
                return Err(Error::AlreadyExists { object: object.to_owned() });
            }
            Err(source) if !is(&source, &[Errno::EXIST]) => {
                let action = "publishing without overwriting";
                return Err(Error::Io { object: object.to_owned(), action, source });
            }
            _ => {}
        }
        self.made_folders.clear();
        Ok(())
    }

    fn is_same_file(&self, target: &Path) -> bool {
        let id = |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
        id(&self.path).is_some_and(|unfinished| id(target) == Some(unfinished))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // What cannot be removed stays recognisable by its name; an error here has nobody to go to.
        let _ = syscalls::unlink(&self.path);
        for folder in self.made_folders.iter().rev() {
            if syscalls::remove_directory(folder).is_err() {
                break;
            }
        }
    }
}
