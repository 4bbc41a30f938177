//! Places as they are typed, with the process's environment for stores that need one.

use dcp::storage::{Environment, Place, open_url_with};

/// Opens the place that a path or URL names.
pub(crate) fn open(url: &str) -> dcp::Result<Place> {
    // A variable that is not UTF-8 is no setting of any store.
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    open_url_with(url, &variables.collect::<Environment>())
}
