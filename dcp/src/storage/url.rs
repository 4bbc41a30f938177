//! One syntax for every place: `/path`, `path`, `file:///path`.

use super::{Key, STORES, Storage};
use crate::error::{Error, Result};
use std::sync::Arc;

/// A place in a store: a checkpoint's folder, a run's folder, or a single file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The store.
    pub store: Arc<dyn Storage>,
    /// The folder or object within it.
    pub key: Key,
}

impl Place {
    /// How a person names it.
    pub fn display(&self) -> String {
        self.store.display(&self.key)
    }
}

/// Opens the store that a path or URL names. Nothing needs to exist there yet.
///
/// Errors: [`Error::BadUrl`] for an unknown scheme.
pub fn open_url(url: &str) -> Result<Place> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return (STORES[0].open)(url);
    };
    match STORES.iter().find(|store| store.name.eq_ignore_ascii_case(scheme)) {
        Some(store) => (store.open)(rest),
        None => {
            let known: Vec<_> = STORES.iter().map(|store| store.name).collect();
            let why = format!("no store for scheme `{scheme}`; known: a local path, {}", known.join(", "));
            Err(Error::BadUrl { url: url.to_owned(), why })
        }
    }
}
