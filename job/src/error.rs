//! What can be wrong with a job.

use dcp::ErrorKind;
use std::fmt;
use std::path::PathBuf;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was found, what was expected, and what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum Error {
    #[error("the configuration has {}:{}", counted(problems.len()), listed(problems))]
    BadConfig { problems: Vec<Problem> },

    #[error("{path}: the configuration could not be read; give the path of a TOML file, or `preset:NAME`")]
    Unreadable { path: PathBuf, source: std::io::Error },

    #[error(
        "parallelism.pipeline_parallel_schedule_csv = {path:?}: it could not be read; give the path of a CSV file, or remove \
         it and name a schedule"
    )]
    UnreadableSchedule { path: PathBuf, source: std::io::Error },

    #[error(
        "model.flavor: {path} could not be read; give the name of a flavor, or the path of a transformers config.json or of the \
         folder with it"
    )]
    UnreadableModel { path: PathBuf, source: std::io::Error },

    #[error("no preset is named `{name}`; known: {known}")]
    NoSuchPreset { name: String, known: String },

    #[error("{model}: {why}")]
    NoFlops { model: String, why: String },

    #[error("{why}")]
    NotModelled { why: String },

    #[error(transparent)]
    Step(#[from] crate::step::StepError),

    /// A program that is wrong, of a rank of the pipeline: a bug of what made it.
    #[error("rank {rank} of the pipeline: the step's program: {fault}")]
    Program { rank: u32, fault: crate::program::Fault },

    /// Ranks that would wait for ever.
    #[error(transparent)]
    Stuck(#[from] crate::simulate::Stuck),

    /// A trace that does not go with what is predicted.
    #[error("rank {rank}'s trace: {why}")]
    BadTrace { rank: u32, why: String },

    /// What launchers say of this process makes no sense.
    #[error("{why}")]
    Environment { why: String },
}

impl Error {
    /// Which kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::BadConfig { .. }
            | Error::NoSuchPreset { .. }
            | Error::NoFlops { .. }
            | Error::NotModelled { .. }
            | Error::Step(_)
            | Error::Program { .. }
            | Error::Stuck(_)
            | Error::Environment { .. } => ErrorKind::Usage,
            Error::BadTrace { .. } => ErrorKind::Data,
            Error::Unreadable { .. } | Error::UnreadableSchedule { .. } | Error::UnreadableModel { .. } => {
                ErrorKind::Io
            }
        }
    }
}

/// One thing that is wrong with a configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where it was read.
    pub place: Place,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Where a value or a mistake was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Place {
    /// In a TOML file, counted from 1; columns in characters.
    File {
        /// As it was given.
        path: PathBuf,
        /// Line.
        line: usize,
        /// Column.
        column: usize,
    },
    /// On the command line.
    Flag,
    /// Nowhere: values that are each right do not fit together.
    Whole,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::File { path, line, column } => write!(f, "{}:{line}:{column}: ", path.display())?,
            Place::Flag => f.write_str("command line: ")?,
            Place::Whole => {}
        }
        f.write_str(&self.message)
    }
}

fn counted(count: usize) -> String {
    if count == 1 { "a problem".to_owned() } else { format!("{count} problems") }
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}
