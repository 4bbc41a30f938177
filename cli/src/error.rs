//! What a failed command prints, and the exit code it ends with.

use crate::ui;
use dcp::{Error, ErrorKind};
use std::fmt::Write;
use std::process::ExitCode;

/// Exit code of a bug in this program, after sysexits.h.
pub(crate) const EXIT_BUG: i32 = 70;

/// How a command that did its work ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    /// Nothing to complain about.
    Ok,
    /// A difference or damage was found.
    Found,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(match outcome {
            Outcome::Ok => 0,
            Outcome::Found => 1,
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The library's error, with a hint where this command knows a better one than the error's kind gives.
    #[error(transparent)]
    Dcp(#[from] Error),
    /// An error about models and their names.
    #[error(transparent)]
    Convert(#[from] convert::Error),
    /// An error about a training job.
    #[error(transparent)]
    Job(#[from] job::Error),
    /// The library's error, with a hint of the command.
    #[error("{error}")]
    Hinted { error: Box<Error>, hint: String },
    /// A request that makes no sense.
    #[error("{message}")]
    Usage { message: String, hint: Option<String> },
    /// Standard output could not be written.
    #[error("standard output: write failed")]
    Output(#[from] std::io::Error),
}

/// Result of a command.
pub(crate) type Result<T, E = CliError> = std::result::Result<T, E>;

impl CliError {
    /// A usage error without a hint.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        CliError::Usage { message: message.into(), hint: None }
    }

    /// Prints the error, its causes and a hint, and gives the exit code.
    pub(crate) fn report(&self) -> ExitCode {
        if let CliError::Output(error) = self
            && error.kind() == std::io::ErrorKind::BrokenPipe
        {
            // The reader (`head`, a pager) has seen enough.
            return ExitCode::SUCCESS;
        }
        ui::note(format_args!("{}", self.text()));
        ExitCode::from(self.exit_code())
    }

    fn text(&self) -> String {
        let mut text = format!("error: {self}");
        let mut cause = match self {
            CliError::Hinted { error, .. } => std::error::Error::source(&**error),
            other => std::error::Error::source(other),
        };
        while let Some(inner) = cause {
            let _ = write!(text, "\ncaused by: {inner}");
            cause = inner.source();
        }
        if let Some(hint) = self.hint() {
            let _ = write!(text, "\nhint: {hint}");
        }
        text
    }

    fn hint(&self) -> Option<String> {
        match self {
            CliError::Dcp(error) | CliError::Convert(convert::Error::Dcp(error)) => {
                hint(error).map(str::to_owned)
            }
            CliError::Hinted { hint, .. } => Some(hint.clone()),
            CliError::Usage { hint, .. } => hint.clone(),
            CliError::Convert(_) | CliError::Job(_) | CliError::Output(_) => None,
        }
    }

    fn exit_code(&self) -> u8 {
        match self {
            CliError::Dcp(error) => exit_code(error.kind()),
            CliError::Convert(error) => exit_code(error.kind()),
            CliError::Job(error) => exit_code(error.kind()),
            CliError::Hinted { error, .. } => exit_code(error.kind()),
            CliError::Usage { .. } => 2,
            CliError::Output(_) => 4,
        }
    }
}

fn exit_code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Usage => 2,
        ErrorKind::Data => 3,
        ErrorKind::Io => 4,
    }
}

/// What to do next, for errors whose message does not say it.
fn hint(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::NothingThere { .. } => {
            "check the spelling; `titan-ckpt ls FOLDER` lists the checkpoints of a run"
        }
        Error::UnknownFormat { .. } => {
            "name the folder of one step, or one file; `titan-ckpt ls FOLDER` lists the checkpoints of a run"
        }
        Error::BadTensor { .. }
        | Error::Malformed { .. }
        | Error::Truncated { .. }
        | Error::Damaged { .. } => "`titan-ckpt verify URL` lists everything that is damaged",
        Error::BudgetTooSmall { .. } => "give more with --memory",
        Error::NoSpace { .. } => "free space or choose another destination",
        _ => return None,
    })
}
