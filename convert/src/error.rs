//! What can go wrong with models and their names.

use dcp::ErrorKind;
use std::fmt;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum Error {
    #[error("no model is named `{name}`; known: {known}")]
    NoSuchModel { name: String, known: String },

    #[error("{object}: {why}")]
    BadConfig { object: String, why: String },

    #[error("{root}: the names are not those of {model}:{}", problems_in_words(problems))]
    WrongNames { root: String, model: String, problems: Vec<Problem> },

    #[error(
        "{root}: `{head}` and `{embedding}` differ, so that {model}, which ties them, cannot hold both; \
         export it as a model that is not tied"
    )]
    NotTied { root: String, head: String, embedding: String, model: String },

    #[error(transparent)]
    Dcp(#[from] dcp::Error),
}

/// One name that does not fit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Problem {
    /// The checkpoint has none of this name.
    Missing(String),
    /// The model has none of this name.
    Unmatched(String),
    /// It has another shape.
    Shape {
        /// Its name.
        name: String,
        /// In the checkpoint.
        found: Vec<u64>,
        /// In the model.
        expected: Vec<u64>,
    },
    /// Parts of one tensor have different types.
    Types(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing(name) => write!(f, "{name}: missing"),
            Problem::Unmatched(name) => write!(f, "{name}: not of this model"),
            Problem::Shape { name, found, expected } => {
                write!(f, "{name}: has shape {found:?}, expected {expected:?}")
            }
            Problem::Types(name) => write!(f, "{name}: its parts have different types"),
        }
    }
}

fn problems_in_words(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

impl Error {
    /// Which kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NoSuchModel { .. } => ErrorKind::Usage,
            Error::BadConfig { .. } | Error::WrongNames { .. } | Error::NotTied { .. } => ErrorKind::Data,
            Error::Dcp(error) => error.kind(),
        }
    }
}
