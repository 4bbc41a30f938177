//! The committer as a state machine: integers in, integers out. No I/O, clock or thread, so that `cargo xtask sim` can
//! run it against every order of events.
//!
//! ```text
//! Check -> Put -> Created -------------------------------> Committed
//!           |---> Exists, Unclear -> ReadBack -> Ours ----> Committed
//!           ^                           |------> Other ----> Lost
//!           |                           |------> Abandoned -> Fenced
//!           |                           |------> Nothing --+
//!           +----------- (bounded) ------------------------+
//!                                       |------> Unclear -> ReadBack (bounded) -> Unknown
//! ```

/// How often the slot is tried, and read back, before the outcome is left open.
pub const TRIES_MAX: u32 = 4;

/// What to do about a step that is saved already.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Existing {
    /// The new save takes its place once it is complete.
    #[default]
    Supersede,
    /// It stands, and saving is an error.
    Refuse,
}

/// The slot a new attempt commits with: the one after the newest that is filled, which no other attempt that can still
/// commit waits for unless it began at the same time. `newest` is `(generation, whether it is abandoned)`.
pub fn next_generation(newest: Option<(u32, bool)>, existing: Existing) -> Option<u32> {
    match newest {
        None => Some(0),
        Some((_, false)) if existing == Existing::Refuse => None,
        Some((generation, _)) => generation.checked_add(1),
    }
}

/// What the committer is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Task {
    /// See that every object and record is there.
    Check,
    /// Create the slot if it is absent.
    Put,
    /// Read the slot.
    ReadBack,
    /// Nothing more.
    Done(Outcome),
}

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The checkpoint exists.
    Committed,
    /// Another attempt's exists.
    Lost,
    /// The slot was abandoned by whoever cleaned up.
    Fenced,
    /// The store took none of the tries, and says that nothing is there.
    Refused,
    /// It may exist.
    Unknown,
}

/// The store's answer to a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Created.
    Created,
    /// It was there already, perhaps through an earlier try of our own.
    Exists,
    /// An error; it may have been created.
    Unclear,
}

/// What reading the slot showed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Found {
    /// Exactly our bytes.
    Ours,
    /// Another attempt's checkpoint, or something that cannot be read.
    Other,
    /// A slot that was abandoned.
    Abandoned,
    /// No such object.
    Nothing,
    /// An error.
    Unclear,
}

/// The committer of one attempt.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Committer {
    task: Task,
    tries: u32,
    reads: u32,
}

impl Default for Committer {
    fn default() -> Self {
        Committer { task: Task::Check, tries: 0, reads: 0 }
    }
}

impl Committer {
    /// What to do next.
    pub fn task(&self) -> Task {
        self.task
    }

    /// Everything is there.
    pub fn checked(&mut self) {
        if self.task == Task::Check {
            self.task = Task::Put;
        }
    }

    /// The answer to [`Task::Put`].
    pub fn answered(&mut self, answer: Answer) {
        if self.task != Task::Put {
            return;
        }
        self.tries += 1;
        self.task = match answer {
            Answer::Created => Task::Done(Outcome::Committed),
            Answer::Exists | Answer::Unclear => Task::ReadBack,
        };
    }

    /// The answer to [`Task::ReadBack`].
    pub fn found(&mut self, found: Found) {
        if self.task != Task::ReadBack {
            return;
        }
        self.reads += 1;
        self.task = match found {
            Found::Ours => Task::Done(Outcome::Committed),
            Found::Other => Task::Done(Outcome::Lost),
            Found::Abandoned => Task::Done(Outcome::Fenced),
            Found::Nothing if self.tries < TRIES_MAX => Task::Put,
            Found::Nothing => Task::Done(Outcome::Refused),
            Found::Unclear if self.reads < TRIES_MAX => Task::ReadBack,
            Found::Unclear => Task::Done(Outcome::Unknown),
        };
    }
}
