//! Everything that can go wrong, by meaning.

use crate::layout::LayoutError;
use std::path::PathBuf;
use std::time::Duration;

/// Result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong: what was found, what was expected, and what to do. The cause, where there is one, is the source.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)] // the messages are the documentation
pub enum Error {
    #[error("`{pattern}` is not a pattern; use `*` for any run of characters and `?` for one")]
    BadPattern { pattern: String, source: globset::Error },

    #[error("`{key}` is not a key: {why}; keys are relative paths without `..`")]
    BadKey { key: String, why: &'static str },

    #[error("`{url}` is not a place this program can reach: {why}")]
    BadUrl { url: String, why: String },

    #[error("{name}: {why}")]
    BadSetting { name: String, why: String },

    #[error("{store}: can only be read")]
    ReadOnly { store: String },

    #[error("{store}: what unfinished writes left cannot be listed: {why}")]
    UnfinishedUnlisted { store: String, why: &'static str },

    #[error("{object}: is being written, so it is not removed; wait until its writer ends, or end it")]
    InUse { object: String },

    #[error("{object}: {action} was refused: {why}")]
    NoAccess { object: String, action: &'static str, why: String },

    #[error(
        "{object}: {action} failed, since there is no such bucket; check its name and the endpoint, or create it first"
    )]
    NoBucket { object: String, action: &'static str },

    #[error(
        "{object}: {action} failed, since the store cannot be reached ({why}); check the endpoint, such as \
         AWS_ENDPOINT_URL, and the network"
    )]
    Unreachable { object: String, action: &'static str, why: String },

    #[error(
        "{object}: {action} failed, since no answer came in time, however often it was tried; where the network is \
         slow, allow more time, such as AWS_TIMEOUT=300s"
    )]
    NoAnswer { object: String, action: &'static str },

    #[error(
        "{object}: was replaced while it was read; objects of a checkpoint never change, so something else writes here"
    )]
    Changed { object: String },

    #[error("{root}: nothing is there")]
    NothingThere { root: String },

    #[error("{root}: no checkpoint: a save of it was given up, or it was removed")]
    Abandoned { root: String },

    #[error(
        "{root}: no checkpoint yet: the command that makes it is under way or was interrupted; the same command again \
         finishes it"
    )]
    Unfinished { root: String },

    #[error(
        "{root}: holds what another command began to make: {found}. Run that one again to finish it, remove the folder, or \
         choose another destination"
    )]
    OtherJob { root: String, found: String },

    #[error("{object}: no such object")]
    NotFound { object: String },

    #[error(
        "{object}: exists already, and nothing is overwritten; choose another destination or remove it first"
    )]
    AlreadyExists { object: String },

    #[error(
        "{object}: exists already and is not the same as {source_object}: {why}; nothing is overwritten, so choose another destination or remove it first"
    )]
    Differs { object: String, source_object: String, why: String },

    #[error(
        "{object}: belongs to a checkpoint that {source_root} does not have; two in one folder would be taken for one, so choose another destination"
    )]
    OtherCheckpoint { object: String, source_root: String },

    #[error("{object}: {action} failed")]
    Io { object: String, action: &'static str, source: std::io::Error },

    #[error("{object}: ends at byte {found}, but bytes up to {expected} are wanted; the object is truncated")]
    Truncated { object: String, found: u64, expected: u64 },

    #[error("{root}: no known checkpoint format ({why}); known: {known}")]
    UnknownFormat { root: String, why: String, known: String },

    #[error("unknown format `{name}`; known: {known}")]
    NoSuchFormat { name: String, known: String },

    /// Bytes that do not follow the format's rules.
    #[error("{object}: not valid {what}: {why}")]
    Malformed { object: String, what: &'static str, why: String },

    #[error(
        "{object}: version {found} is newer than version {known}, the last this program reads; update titan-ckpt"
    )]
    TooNew { object: String, found: String, known: String },

    #[error("{object}: {what} is {found}, over the limit of {limit}")]
    OverLimit { object: String, what: &'static str, found: u64, limit: u64 },

    #[error("{fqn}: {message}")]
    BadTensor { fqn: String, message: String },

    #[error("no tensor or value is named `{fqn}`{hint}")]
    NoSuchName { fqn: String, hint: String },

    /// Stored bytes that differ from their recorded checksum.
    #[error(
        "{object}: bytes {from} to {until} do not have the recorded checksum ({found}, expected {expected}){fqn_note}; the data is damaged"
    )]
    Damaged { object: String, from: u64, until: u64, found: String, expected: String, fqn_note: String },

    #[error(
        "{root}: {count} damaged or missing parts, the first: {first}; `titan-ckpt verify` lists them all"
    )]
    Unsound { root: String, count: usize, first: String },

    #[error("{format} cannot hold {what}: {names}; {hint}")]
    Inexpressible { format: &'static str, what: &'static str, names: String, hint: &'static str },

    #[error("the memory budget of {budget} bytes is too small; at least {needed} bytes are needed")]
    BudgetTooSmall { budget: u64, needed: u64 },

    #[error(
        "the system gives no {byte_len} bytes of memory; a smaller memory budget or fewer threads need less"
    )]
    NoMemory { byte_len: usize, source: std::io::Error },

    #[error("{path}: only {available} bytes are free, {needed} are needed", path = path.display())]
    NoSpace { path: PathBuf, available: u64, needed: u64 },

    #[error(
        "`{tag}`: {} of {ranks} did not come within {waited:?}; they have ended, or hang, or wait for yet another: their logs say which",
        ranks_in_words(missing)
    )]
    RanksMissing { tag: String, missing: Vec<u32>, ranks: u32, waited: Duration },

    #[error("`{tag}`: {why}; all ranks must run the same program with the same settings")]
    RanksDisagree { tag: String, why: String },

    #[error("{address}: no store that this rank can use: {why}")]
    NotAPeer { address: String, why: String },

    #[error(
        "the ranks' store had no room in its {room_bytes} bytes until the deadline; a rank no longer takes what is sent to it"
    )]
    StoreFull { room_bytes: u64 },

    #[error("{root}: saved already, and the format has no place for a second save; save to another folder")]
    AlreadySaved { root: String },

    /// Another writer's checkpoint is there in place of ours.
    #[error(
        "{slot}: another writer committed this step first; its checkpoint stands. Are two jobs saving to one folder?"
    )]
    LostRace { slot: String },

    #[error(
        "{slot}: this save was given up for dead and fenced off by `prune` before it finished; save again, and prune with a longer --older-than"
    )]
    Fenced { slot: String },

    #[error("{root}: not committed, {object} {found}; expected {expected}. The step before it stands")]
    Incomplete { root: String, object: String, found: String, expected: String },

    /// The store answered neither to the commit nor to the question what became of it.
    #[error(
        "{slot}: the store does not say whether it was written ({last}); `titan-ckpt ls` will tell once it answers"
    )]
    Unknown { slot: String, last: String },

    #[error("rank {rank} failed, so {so}: {message}")]
    RankFailed { rank: u32, so: &'static str, message: String },

    #[error(
        "`{fqn}` changed between its snapshot and {when}; was it trained on before `wait_staged` returned?"
    )]
    Torn { fqn: String, when: &'static str },

    /// A tensor that is stored with another shape, or in a type that does not convert.
    #[error(
        "`{fqn}` is {found} in the checkpoint, {expected} is wanted; shapes must be equal and only floating-point types \
         convert, so it is of another model, or of another version of this one"
    )]
    OtherTensor { fqn: String, found: String, expected: String },

    #[error("{root}: there is no step {step}; there is {found}. Name one of these, or none for the newest")]
    NoSuchStep { root: String, step: u64, found: String },

    #[error("{root}: no complete checkpoint{tried}")]
    NoneComplete { root: String, tried: String },

    #[error("{0}")]
    Usage(String),

    #[error("interrupted by an earlier error in another thread")]
    Interrupted,

    #[error(transparent)]
    Layout(#[from] LayoutError),
}

/// What kind of trouble an [`Error`] is, for exit codes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ErrorKind {
    /// The request makes no sense.
    Usage,
    /// The data is missing, damaged or not understood.
    Data,
    /// A disk or network failed.
    Io,
}

impl Error {
    /// The error with all that caused it, in one line: for those who get a text and no error.
    pub fn with_causes(&self) -> String {
        let causes = std::iter::successors(std::error::Error::source(self), |cause| cause.source());
        std::iter::once(self.to_string())
            .chain(causes.map(ToString::to_string))
            .collect::<Vec<_>>()
            .join(": ")
    }

    /// An [`Error::Malformed`].
    pub fn malformed(object: impl Into<String>, what: &'static str, why: impl Into<String>) -> Self {
        Error::Malformed { object: object.into(), what, why: why.into() }
    }

    /// Which kind of trouble it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            // Steps that were looked at and are damaged, or no step.
            Error::NoneComplete { tried, .. } if !tried.is_empty() => ErrorKind::Data,
            Error::BadPattern { .. }
            | Error::BadKey { .. }
            | Error::BadUrl { .. }
            | Error::BadSetting { .. }
            | Error::ReadOnly { .. }
            | Error::UnfinishedUnlisted { .. }
            | Error::InUse { .. }
            | Error::NothingThere { .. }
            | Error::NoBucket { .. }
            | Error::AlreadyExists { .. }
            | Error::Differs { .. }
            | Error::OtherCheckpoint { .. }
            | Error::OtherJob { .. }
            | Error::NoSuchFormat { .. }
            | Error::NoSuchName { .. }
            | Error::Inexpressible { .. }
            | Error::BudgetTooSmall { .. }
            | Error::RanksDisagree { .. }
            | Error::NotAPeer { .. }
            | Error::AlreadySaved { .. }
            | Error::NoneComplete { .. }
            | Error::NoSuchStep { .. }
            | Error::OtherTensor { .. }
            | Error::Usage(_)
            | Error::Layout(_) => ErrorKind::Usage,
            Error::NotFound { .. }
            | Error::Abandoned { .. }
            | Error::Unfinished { .. }
            | Error::Changed { .. }
            | Error::Truncated { .. }
            | Error::UnknownFormat { .. }
            | Error::Malformed { .. }
            | Error::TooNew { .. }
            | Error::OverLimit { .. }
            | Error::BadTensor { .. }
            | Error::Unsound { .. }
            | Error::Torn { .. }
            | Error::Damaged { .. } => ErrorKind::Data,
            Error::Io { .. }
            | Error::NoAccess { .. }
            | Error::Unreachable { .. }
            | Error::NoAnswer { .. }
            | Error::NoMemory { .. }
            | Error::NoSpace { .. }
            | Error::LostRace { .. }
            | Error::Fenced { .. }
            | Error::Incomplete { .. }
            | Error::Unknown { .. }
            | Error::RankFailed { .. }
            | Error::RanksMissing { .. }
            | Error::StoreFull { .. }
            | Error::Interrupted => ErrorKind::Io,
        }
    }
}

/// Ranks for an error: all of a few, the first of many.
fn ranks_in_words(ranks: &[u32]) -> String {
    const SHOWN_MAX: usize = 16;
    let shown: Vec<String> = ranks.iter().take(SHOWN_MAX).map(u32::to_string).collect();
    let word = if ranks.len() == 1 { "rank" } else { "ranks" };
    match ranks.len().saturating_sub(SHOWN_MAX) {
        0 => format!("{word} {}", shown.join(", ")),
        more => format!("{word} {} and {more} more", shown.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_ranks_are_named_as_far_as_a_line_goes() {
        let missing = |missing: &[u32]| {
            let waited = Duration::from_secs(600);
            Error::RanksMissing { tag: "save".into(), missing: missing.to_vec(), ranks: 99, waited }
                .to_string()
        };
        assert!(missing(&[7]).starts_with("`save`: rank 7 of 99 did not come within 600s; "));
        assert!(missing(&[1, 2]).contains(" ranks 1, 2 of 99 "));
        let many: Vec<u32> = (0..20).collect();
        assert!(missing(&many).contains(" 14, 15 and 4 more of 99 "), "{}", missing(&many));
    }
}
