//! Shared libraries opened at run time.

use super::outcome::{message, take_text, text};
use super::sys;
use crate::error::{Error, Result};
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::{NonNull, null_mut};

/// An open library. It stays open until the process ends.
#[derive(Debug)]
pub(super) struct Library {
    raw: NonNull<c_void>,
    path: PathBuf,
}

// SAFETY: a handle of the dynamic linker, which locks for itself.
unsafe impl Send for Library {}
// SAFETY: as above.
unsafe impl Sync for Library {}

impl Library {
    /// Opens a library by its path, or by its name where the linker's own paths have it.
    ///
    /// # Safety
    ///
    /// Its initialisers run in this process: it is one that belongs to it.
    pub(super) unsafe fn open(path: &Path) -> Result<Library> {
        let wrong = |why: String| Error::Library { library: path.to_owned(), why };
        let name = path.to_str().ok_or_else(|| wrong("the path is not UTF-8".into()))?;
        let name = text(name)?;
        let mut raw = null_mut();
        // SAFETY: text and out pointer outlive the call, the message is taken at once; the library belongs here by
        // contract.
        unsafe { message(sys::titan_library_open(name.as_ptr(), &mut raw)) }.map_err(wrong)?;
        Ok(Library { raw: super::outcome::handle(raw), path: path.to_owned() })
    }

    /// The address of a symbol.
    pub(super) fn symbol(&self, name: &str) -> Result<NonNull<c_void>> {
        let text = text(name)?;
        let mut symbol = null_mut();
        // SAFETY: the library stays open; text and out pointer outlive the call; the message is taken at once.
        unsafe { message(sys::titan_library_symbol(self.raw.as_ptr(), text.as_ptr(), &mut symbol)) }
            .map_err(|why| Error::Library { library: self.path.clone(), why })?;
        Ok(super::outcome::handle(symbol))
    }
}

/// The file of a library that is in this process already.
pub(super) fn path_of_loaded(name: &str) -> Result<Option<PathBuf>> {
    let name = text(name)?;
    let mut path = null_mut();
    // SAFETY: text and out pointer outlive the call.
    let answer = unsafe { message(sys::titan_library_path(name.as_ptr(), &mut path)) };
    answer.map_err(|message| Error::Torch { call: "path_of_loaded".into(), message })?;
    // SAFETY: not null where it is taken, and then handed out by the shim.
    Ok((!path.is_null()).then(|| PathBuf::from(unsafe { take_text(path) })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libtorch_is_found_where_it_was_loaded_from() {
        let path = path_of_loaded("libtorch_cpu.so").unwrap().unwrap();
        assert!(path.is_file() && path.ends_with("libtorch_cpu.so"), "{}", path.display());
        assert_eq!(path_of_loaded("libnowhere.so").unwrap(), None);
    }

    #[test]
    fn what_is_not_there_is_an_error() {
        // SAFETY: there is no such file.
        let error = unsafe { Library::open(Path::new("/nowhere/libx.so")) }.unwrap_err();
        assert!(error.to_string().starts_with("/nowhere/libx.so: cannot be used: "), "{error}");
        // SAFETY: the C library is in every process already.
        let libc = unsafe { Library::open(Path::new("libc.so.6")) }.unwrap();
        libc.symbol("malloc").unwrap();
        assert!(libc.symbol("no_such_symbol").unwrap_err().to_string().contains("no_such_symbol"));
    }
}
