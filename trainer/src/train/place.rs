//! Folders as a configuration names them.

use crate::error::Result;
use dcp::storage::{Environment, Place, open_url_with};

/// The place that a path or URL names, with the process's environment for stores that need one.
///
/// Errors: as [`open_url_with`].
pub(super) fn open(url: &str) -> Result<Place> {
    Ok(open_url_with(url, &std::env::vars_os().collect::<Environment>())?)
}

/// A folder of output: in `dump_folder`, unless it is an absolute path or a URL.
///
/// Errors: as [`open`].
pub(super) fn output(dump_folder: &str, folder: &str) -> Result<Place> {
    match folder.starts_with('/') || folder.contains("://") {
        true => open(folder),
        false => {
            let dump = open(dump_folder)?;
            Ok(Place { store: dump.store, key: dump.key.join(folder)? })
        }
    }
}
