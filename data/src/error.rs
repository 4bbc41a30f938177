//! Everything that can go wrong, by meaning.

use dcp::ErrorKind;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum Error {
    #[error(transparent)]
    Storage(#[from] dcp::Error),

    #[error("no dataset is named `{name}`; known: {known}")]
    NoSuchDataset { name: String, known: String },

    #[error(
        "dataset `{name}` is {origin}, and nothing is downloaded; get a copy and name its folder or URL by \
         --training.dataset_path"
    )]
    NoPath { name: &'static str, origin: &'static str },

    #[error("{place}: no documents: {found}; expected {expected}")]
    NoDocuments { place: String, found: String, expected: String },

    /// One line or row that is no document.
    #[error("{object}: {record}: {found}; {remedy}")]
    BadDocument { object: String, record: String, found: String, remedy: &'static str },

    /// An object that ends before its format says so.
    #[error(
        "{object}: the {format} stream ends after {records} lines without its end mark; the object is truncated, so \
         copy it again"
    )]
    Cut { object: String, format: &'static str, records: u64 },

    /// An object whose bytes do not follow the rules of its format.
    #[error("{object}: not valid {format}, {place}: {why}; the object is damaged or of another format")]
    BadObject { object: String, format: &'static str, place: String, why: String },

    #[error("{object}: {found}; {remedy}")]
    BadTokenizer { object: String, found: String, remedy: &'static str },

    #[error("{folder}: no tokenizer: {found}; expected tokenizer.json, or vocab.json or vocab.txt")]
    NoTokenizer { folder: String, found: String },

    #[error(
        "{object}: {record}: the tokenizer fails on its text: {why}; the tokenizer is of another kind of text"
    )]
    NotEncoded { object: String, record: String, why: String },

    #[error(
        "virtual shard {shard} gives no token in a whole epoch ({holds}); remove what is empty, or set fewer virtual \
         shards"
    )]
    NoTokens { shard: u64, holds: String },

    #[error("{name} is {found}; expected {expected}")]
    BadOption { name: &'static str, found: String, expected: String },

    #[error("not a state of a data loader: {why}")]
    BadState { why: String },

    /// A state that was taken of something else.
    #[error(
        "the state of the data loader is of another {what}: it has {found}, this run {expected}; {remedy}"
    )]
    OtherState { what: &'static str, found: String, expected: String, remedy: &'static str },

    #[error("the loader ended by an earlier error, or one of its threads did")]
    Ended,
}

impl Error {
    /// Which kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::Storage(error) => error.kind(),
            Error::NoSuchDataset { .. }
            | Error::NoPath { .. }
            | Error::NoDocuments { .. }
            | Error::BadOption { .. }
            | Error::OtherState { .. } => ErrorKind::Usage,
            Error::BadDocument { .. }
            | Error::Cut { .. }
            | Error::BadObject { .. }
            | Error::BadTokenizer { .. }
            | Error::NoTokenizer { .. }
            | Error::NotEncoded { .. }
            | Error::NoTokens { .. }
            | Error::BadState { .. } => ErrorKind::Data,
            Error::Ended => ErrorKind::Io,
        }
    }
}
