//! Places as they are typed, with the process's environment for stores that need one.

use dcp::storage::{Environment, Place, open_url_with};

/// Opens the place that a path or URL names.
pub(crate) fn open(url: &str) -> dcp::Result<Place> {
    open_url_with(url, &std::env::vars_os().collect::<Environment>())
}
