//! Keys: names of objects, relative to a store's root.

use crate::error::{Error, Result};
use std::fmt;

/// The name of an object or prefix: `/`-separated components, none empty, `.` or `..`. The empty key is the root.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key(String);

impl Key {
    /// The root.
    pub fn root() -> Self {
        Key(String::new())
    }

    /// Checks a name that may come from an untrusted file.
    ///
    /// Errors: [`Error::BadKey`] for an absolute name, an empty, `.` or `..` component, a backslash or a NUL.
    pub fn new(name: impl Into<String>) -> Result<Self> {
        let key = name.into();
        let why = if key.starts_with('/') {
            "it is absolute"
        } else if key.contains(['\\', '\0']) {
            "it contains a backslash or a NUL"
        } else if !key.is_empty() && key.split('/').any(|part| matches!(part, "" | "." | "..")) {
            "it has an empty, `.` or `..` component"
        } else {
            return Ok(Key(key));
        };
        Err(Error::BadKey { key, why })
    }

    /// The name as text; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the root.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The key of `child` below this one. `child` is checked as [`Key::new`] does.
    pub fn join(&self, child: &str) -> Result<Key> {
        let child = Key::new(child)?;
        Ok(match (self.is_root(), child.is_root()) {
            (true, _) => child,
            (_, true) => self.clone(),
            _ => Key(format!("{}/{}", self.0, child.0)),
        })
    }

    /// The last component.
    pub fn name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or("")
    }

    /// The key without its last component; the root for a single component.
    pub fn parent(&self) -> Key {
        Key(self.0.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned())
    }

    /// The part of this key below `prefix`; `None` where it is not below it.
    pub fn below<'a>(&'a self, prefix: &Key) -> Option<&'a str> {
        if prefix.is_root() {
            return Some(&self.0);
        }
        self.0.strip_prefix(&prefix.0)?.strip_prefix('/')
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_names_that_leave_the_root() {
        for bad in ["/etc/passwd", "../up", "a/../b", "a//b", "a/", "./a", "a\\b", "a\0"] {
            assert!(matches!(Key::new(bad), Err(Error::BadKey { .. })), "{bad:?}");
        }
        let key = Key::new("run/step-1").unwrap().join("__0_0.distcp").unwrap();
        assert_eq!(key.as_str(), "run/step-1/__0_0.distcp");
        assert_eq!(key.name(), "__0_0.distcp");
        assert_eq!(key.below(&Key::new("run").unwrap()), Some("step-1/__0_0.distcp"));
        assert_eq!(key.below(&Key::new("ru").unwrap()), None);
        assert_eq!(key.parent().parent().as_str(), "run");
    }
}
