//! Everything that can go wrong, by meaning.

use dcp::ErrorKind;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was found, what was expected, and what to do. The cause, where there is one, is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum Error {
    /// libtorch threw, or a closure in its graph failed or panicked.
    #[error("{call}: {message}")]
    Torch { call: String, message: String },

    #[error(
        "{op} in group `{group}` failed at rank {rank} of {size}: {message}. Another rank may have ended, or hang, or \
         run another program: its log says which"
    )]
    Collective { op: &'static str, group: String, rank: u32, size: u32, message: String },

    #[error("the ranks' store at {address}: {action} failed: {message}")]
    Store { address: String, action: String, message: String },

    #[error("{library}: cannot be used: {why}", library = library.display())]
    Library { library: PathBuf, why: String },

    /// A tensor operation failed.
    #[error("libtorch: {0}")]
    Tensor(#[from] tch::TchError),

    #[error(transparent)]
    Checkpoint(#[from] dcp::Error),

    #[error(transparent)]
    Family(#[from] convert::Error),

    #[error(transparent)]
    Job(#[from] job::Error),

    #[error(transparent)]
    Data(#[from] data::Error),

    #[error("{path}: {action} failed", path = path.display())]
    File { path: PathBuf, action: &'static str, source: std::io::Error },

    /// What a key names cannot be had.
    #[error("{key}: {source}")]
    OfKey { key: &'static str, source: Box<Error> },

    /// Another rank has failed, and says why itself.
    #[error("rank {rank} failed; its log says why")]
    Elsewhere { rank: u32, exit_code: u8 },

    /// A file of metrics. The training can go on without it.
    #[error(
        "{file}: {action} failed; metrics go there: make its folder writable and see that there is room, or turn off \
         metrics.{key}", file = file.display()
    )]
    Metrics {
        file: PathBuf,
        action: &'static str,
        /// The key of the configuration that turned it on.
        key: &'static str,
        source: std::io::Error,
    },

    #[error("{0}")]
    Usage(String),
}

impl Error {
    /// Exit code of a bug in this program, after sysexits.h.
    pub const EXIT_BUG: u8 = 70;

    /// The exit code of a process that ends by this: 2 wrong usage, 3 bad data, 4 a disk, a network, another rank or a
    /// device failed.
    pub fn exit_code(&self) -> u8 {
        let kind = match self {
            Error::Checkpoint(error) => error.kind(),
            Error::Family(error) => error.kind(),
            Error::Job(error) => error.kind(),
            Error::Data(error) => error.kind(),
            Error::Usage(_) => ErrorKind::Usage,
            Error::OfKey { source, .. } => return source.exit_code(),
            Error::Elsewhere { exit_code, .. } => return *exit_code,
            _ => ErrorKind::Io,
        };
        match kind {
            ErrorKind::Usage => 2,
            ErrorKind::Data => 3,
            ErrorKind::Io => 4,
        }
    }

    /// The same, of what a key of the configuration names.
    pub fn of_key(key: &'static str) -> impl Fn(Error) -> Error {
        move |error| match error {
            error if error.is_of_others() => error,
            error => Error::OfKey { key, source: Box::new(error) },
        }
    }

    /// Whether it is what a rank meets when another one has failed: that one's error is the cause.
    pub fn is_of_others(&self) -> bool {
        matches!(
            self,
            Error::Collective { .. }
                | Error::Store { .. }
                | Error::Elsewhere { .. }
                | Error::Checkpoint(dcp::Error::RankFailed { .. } | dcp::Error::RanksMissing { .. })
        )
    }

    /// The error with all that caused it, in one line.
    pub fn with_causes(&self) -> String {
        let mut told: &dyn std::error::Error = self;
        // It tells its source itself.
        while let Some(Error::OfKey { source, .. }) = told.downcast_ref::<Error>() {
            told = &**source;
        }
        let causes = std::iter::successors(told.source(), |cause| cause.source());
        let texts: Vec<String> =
            std::iter::once(self.to_string()).chain(causes.map(ToString::to_string)).collect();
        texts.join(": ")
    }
}
