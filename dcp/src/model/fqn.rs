//! Fully qualified names of tensors and values, and sets of them given by patterns.

use crate::error::{Error, Result};
use globset::{GlobBuilder, GlobSet, GlobSetBuilder};
use std::fmt;
use std::sync::Arc;

/// A fully qualified name (FQN): `layers.0.attention.wq.weight`. Never split at dots: a key may contain dots, so
/// nesting is recorded beside the name as a [`Path`](crate::model::Path).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fqn(Arc<str>);

impl Fqn {
    /// Wraps a name; any string is a legal name.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Fqn(name.into())
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Fqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Fqn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl From<&str> for Fqn {
    fn from(name: &str) -> Self {
        Fqn::new(name)
    }
}

impl std::borrow::Borrow<str> for Fqn {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Names chosen by include and exclude patterns, where `*` matches any run of characters, dots included.
#[derive(Clone, Debug, Default)]
pub struct FqnFilter {
    include: Option<GlobSet>,
    exclude: Option<GlobSet>,
}

impl FqnFilter {
    /// Compiles the patterns. With no include pattern every name is included; exclusion wins over inclusion.
    ///
    /// Errors: [`Error::BadPattern`] for a pattern that is not a glob.
    pub fn new(include: &[String], exclude: &[String]) -> Result<Self> {
        Ok(FqnFilter { include: compile(include)?, exclude: compile(exclude)? })
    }

    /// Whether the name is chosen.
    pub fn matches(&self, name: &str) -> bool {
        self.include.as_ref().is_none_or(|set| set.is_match(name))
            && !self.exclude.as_ref().is_some_and(|set| set.is_match(name))
    }
}

fn compile(patterns: &[String]) -> Result<Option<GlobSet>> {
    if patterns.is_empty() {
        return Ok(None);
    }
    let bad = |pattern: &str, source| Error::BadPattern { pattern: pattern.to_owned(), source };
    let mut set = GlobSetBuilder::new();
    for pattern in patterns {
        set.add(GlobBuilder::new(pattern).literal_separator(false).build().map_err(|e| bad(pattern, e))?);
    }
    set.build().map(Some).map_err(|e| bad(&patterns.join(", "), e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exclusion_wins_and_star_crosses_dots() {
        let filter = FqnFilter::new(&["layers.*".into()], &["*.bias".into()]).unwrap();
        assert!(filter.matches("layers.0.wq.weight"));
        assert!(!filter.matches("layers.0.wq.bias"));
        assert!(!filter.matches("norm.weight"));
        assert!(FqnFilter::default().matches("anything"));
        assert!(matches!(FqnFilter::new(&["a[".into()], &[]), Err(Error::BadPattern { .. })));
    }
}
