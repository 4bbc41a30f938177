//! One syntax for every place: `/path`, `path`, `file:///path`, `s3://bucket/prefix`, ...

use super::{Environment, Key, STORES, Storage, local};
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

/// Opens the store that a path or URL names, with no settings. Nothing needs to exist there yet.
///
/// Errors: as of [`open_url_with`].
pub fn open_url(url: &str) -> Result<Place> {
    open_url_with(url, &Environment::default())
}

/// Opens the store that a path or URL names, with credentials and endpoints from the environment. Nothing needs to
/// exist there yet.
///
/// Errors: [`Error::BadUrl`] for an unknown scheme; [`Error::BadSetting`].
pub fn open_url_with(url: &str, environment: &Environment) -> Result<Place> {
    let Some((scheme, rest)) = url.split_once("://").filter(|(scheme, _)| is_scheme(scheme)) else {
        return local::open(url);
    };
    match STORES.iter().find(|store| store.name.eq_ignore_ascii_case(scheme)) {
        Some(store) => (store.open)(rest, environment),
        None => {
            let known: Vec<_> = STORES.iter().map(|store| store.name).collect();
            let why = format!("no store for scheme `{scheme}`; known: a local path, {}", known.join(", "));
            Err(Error::BadUrl { url: url.to_owned(), why })
        }
    }
}

/// Whether text is a scheme by RFC 3986; anything else before `://` is part of a path.
fn is_scheme(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|char| char.is_ascii_alphanumeric() || matches!(char, '+' | '-' | '.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_paths_and_file_urls() {
        for (url, shown) in [
            ("run/step-1", "run/step-1"),
            ("/data/run", "/data/run"),
            ("file:///data/run", "/data/run"),
            ("FILE://localhost/data/my%20run", "/data/my run"),
            ("file:///", "/"),
            ("./odd://name", "./odd:/name"),
        ] {
            assert_eq!(open_url(url).unwrap().display(), shown, "{url}");
        }
    }

    #[test]
    fn refuses_other_urls() {
        for (url, why) in [
            ("ftp://host/run", "no store for scheme `ftp`; known: a local path, file, s3"),
            ("file://host/run", "three slashes"),
            ("file://localhostess/run", "three slashes"),
            ("file:///caf%e9", "not UTF-8"),
            ("", "empty"),
        ] {
            let error = open_url(url).unwrap_err();
            assert!(matches!(error, Error::BadUrl { .. }) && error.to_string().contains(why), "{error}");
        }
    }
}
