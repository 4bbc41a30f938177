//! A size within a model family, by its name or by what describes it.

use super::setting::{Setting, Value};
use crate::error::{Error, Result};
use std::io;
use std::path::{Path, PathBuf};

/// `model.flavor`: the name of a flavor, or the path of a transformers `config.json`, or of the folder with it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flavor {
    text: String,
    /// What the file says.
    description: Option<String>,
}

impl Flavor {
    /// A flavor as it is typed. No name of one looks like a path.
    pub fn new(text: impl Into<String>) -> Self {
        Flavor { text: text.into(), description: None }
    }

    /// As it is typed.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The file that describes it; none for a name.
    pub fn file(&self) -> Option<PathBuf> {
        let path = Path::new(&self.text);
        let is_file = self.text.ends_with(".json");
        (is_file || self.text.contains('/'))
            .then(|| if is_file { path.into() } else { path.join("config.json") })
    }

    /// The text of that file, once it is read.
    pub fn description(&self) -> Option<&str> {
        self.description.as_deref()
    }

    /// Reads the file, where there is one to read.
    ///
    /// Errors: [`Error::UnreadableModel`].
    pub(super) fn read(&mut self, read_file: impl Fn(&Path) -> io::Result<String>) -> Result<()> {
        let Some(path) = self.file() else { return Ok(()) };
        let text = read_file(&path).map_err(|source| Error::UnreadableModel { path, source })?;
        self.description = Some(text);
        Ok(())
    }
}

impl Setting for Flavor {
    fn expected() -> String {
        String::expected()
    }

    fn short() -> String {
        String::short()
    }

    fn take(value: &Value) -> Option<Self> {
        String::take(value).map(Flavor::new)
    }

    fn give(&self) -> Value {
        self.text.give()
    }
}
