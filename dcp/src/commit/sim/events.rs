//! What happens, what goes wrong, how things end, and what must hold, with their names.

use super::store::{Op, Reply};
use std::fmt::{self, Debug, Display, Formatter};

/// Who asks the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Who {
    /// A rank that writes for an attempt.
    Rank {
        /// Position in the attempts of the run.
        attempt: u16,
        /// The rank.
        rank: u8,
    },
    /// The committer of a job.
    Committer(u8),
    /// `prune`, or the removal of the step.
    Cleaner(u8),
    /// A reader.
    Reader(u8),
}

/// What goes wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Fault {
    /// A request never arrives, and its caller sees an error.
    RequestLost,
    /// A request takes effect, and its caller sees an error.
    ReplyLost,
    /// A request takes effect long after its caller saw an error.
    Delayed,
    /// The client repeats a request that took effect: its caller sees the answer to the second.
    Repeated,
    /// The client repeats a request that takes effect long after the second.
    RepeatedDelayed,
    /// The store refuses a request, and says so.
    Refused,
    /// A listing, a look or a read fails.
    ReadFailed,
    /// A rank dies.
    RankDied,
    /// A rank stands still for long.
    RankStalled,
    /// A committer dies.
    CommitterDied,
    /// A committer stands still for long.
    CommitterStalled,
    /// A cleaner dies.
    CleanerDied,
    /// A cleaner stands still for long.
    CleanerStalled,
}

impl Fault {
    /// All.
    pub const ALL: [Fault; 13] = [
        Fault::RequestLost,
        Fault::ReplyLost,
        Fault::Delayed,
        Fault::Repeated,
        Fault::RepeatedDelayed,
        Fault::Refused,
        Fault::ReadFailed,
        Fault::RankDied,
        Fault::RankStalled,
        Fault::CommitterDied,
        Fault::CommitterStalled,
        Fault::CleanerDied,
        Fault::CleanerStalled,
    ];
}

/// How a save, a cleaning or a read ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Outcome {
    /// The committer says that the checkpoint exists.
    Committed,
    /// The committer says that another's does.
    Lost,
    /// The committer says that it was fenced.
    Fenced,
    /// The committer says that the store took nothing.
    Refused,
    /// The committer does not know.
    Unknown,
    /// Objects or records were missing, or a rank failed.
    Incomplete,
    /// The step was saved already, and was to stay.
    AlreadySaved,
    /// The store did not say which slots there are.
    NotBegun,
    /// The committer died before it could say anything.
    Died,
    /// A cleaner removed what it could.
    Cleaned,
    /// A cleaner gave up or died.
    CleaningFailed,
    /// A reader had all of a checkpoint.
    Read,
    /// A reader found no checkpoint.
    ReadNone,
    /// A reader gave up: the store failed, or what it read went away again and again.
    ReadFailed,
}

impl Outcome {
    /// All.
    pub const ALL: [Outcome; 14] = [
        Outcome::Committed,
        Outcome::Lost,
        Outcome::Fenced,
        Outcome::Refused,
        Outcome::Unknown,
        Outcome::Incomplete,
        Outcome::AlreadySaved,
        Outcome::NotBegun,
        Outcome::Died,
        Outcome::Cleaned,
        Outcome::CleaningFailed,
        Outcome::Read,
        Outcome::ReadNone,
        Outcome::ReadFailed,
    ];
}

/// What must hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invariant {
    /// 1. All that the newest slot's checkpoint names is there and of its attempt.
    NewestIsWhole,
    /// 2. Who is told "committed" was the checkpoint; who is told anything else but "unknown" is not and never will be;
    ///    who is told "refused" has no slot and never will have.
    TellsTheTruth,
    /// 3. Of the writers of one slot at most one is told "committed".
    OneWins,
    /// 4. A checkpoint goes only if a newer one takes its place or somebody removes the step.
    CommittedStays,
    /// 5. Nobody removes an object of the newest checkpoint.
    PruneSparesNewest,
    /// 6. Everything ends.
    Ends,
    /// 7. Without faults and cleaners the newest slot is a checkpoint, and its job was told so: a job alone commits.
    WithoutFaultsCommits,
}

/// Something that happened.
#[derive(Clone, Debug)]
pub struct Event(pub(super) What);

/// What an [`Event`] says.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    /// Somebody begins, or goes on after a time of nothing.
    Woke(Who),
    /// A request takes effect, whether anybody waits for it or not.
    Effect(Who, Op, Reply),
    /// A request goes wrong.
    Fault(Who, Fault),
    /// An answer arrives.
    Answer(Who, Op, Reply),
    /// A rank reports to its committer.
    Report(Who, bool),
    /// The committer waits no longer for reports.
    TimedOut(Who),
    /// An attempt begins: its position, and the slot it is to commit with.
    Began(Who, u16, u32),
    /// Somebody ends.
    Ended(Who, Outcome),
}

impl Display for Who {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Who::Rank { attempt, rank } => write!(f, "attempt {attempt} rank {rank}"),
            Who::Committer(job) => write!(f, "job {job} committer"),
            Who::Cleaner(cleaner) => write!(f, "cleaner {cleaner}"),
            Who::Reader(reader) => write!(f, "reader {reader}"),
        }
    }
}

impl Display for Event {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self.0 {
            What::Woke(who) => write!(f, "{who}: wakes"),
            What::Effect(who, op, reply) => write!(f, "store: {op:?} of {who}: {reply:?}"),
            What::Fault(who, fault) => write!(f, "fault: {fault:?} at {who}"),
            What::Answer(who, op, reply) => write!(f, "{who}: hears {reply:?} to {op:?}"),
            What::Report(who, ok) => {
                write!(f, "{who}: reports {}", if ok { "all written" } else { "a failure" })
            }
            What::TimedOut(who) => write!(f, "{who}: waits no longer for reports"),
            What::Began(who, attempt, slot) => write!(f, "{who}: begins attempt {attempt} for slot {slot}"),
            What::Ended(who, outcome) => write!(f, "{who}: ends as {outcome:?}"),
        }
    }
}
