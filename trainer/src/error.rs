//! Everything that can go wrong, by meaning.

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
