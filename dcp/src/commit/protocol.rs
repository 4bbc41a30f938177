//! The committer as a state machine: integers in, integers out. No I/O, clock or thread, so that `cargo xtask sim` can
//! run it against every order of events.
//!
//! ```text
//! Check -> Put -> Created ----------------------------------------> Confirm
//!           |---> Exists, Refused, Unclear -> ReadBack -> Ours -----> Confirm
//!           ^                                    |------> Other ----> Lost
//!           |                                    |------> Abandoned -> Fenced
//!           |                                    |------> Nothing --+
//!           +----------- (bounded) ---------------------------------+-> Refused; Unknown after an Unclear
//!                                                |------> Unclear -> ReadBack (bounded) -> Unknown
//! Confirm -> Ours -> Committed
//!    |-----> Other -> Lost, Abandoned -> Fenced
//!    |-----> Unclear -> Confirm (bounded) -> Unknown
//! ```
//!
//! *Confirm*: slots below the newest are removed by `prune`, so that a creation which was under way for long can find its
//! slot free although another attempt had filled it. A newer slot is there then, for good.

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

/// Whether `prune` may remove the objects of an attempt that was to commit with slot `generation`: nothing that happens
/// later can make it the checkpoint. `newest` is the newest slot that was ever seen, `named` whether that slot is this
/// attempt's checkpoint.
///
/// An attempt commits with its own slot or not at all, a slot that is filled can be filled by nobody else, and the newest
/// is never removed: so what holds once holds for good, however long `prune` takes to act on it. An attempt of a higher
/// slot may be alive, whatever its age.
pub fn is_hopeless(generation: u32, newest: Option<(u32, bool)>, named: bool) -> bool {
    newest.is_some_and(|(newest, _)| generation <= newest) && !named
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
    /// List the slots: the newest of all must be ours.
    Confirm,
    /// Nothing more.
    Done(Outcome),
}

/// How a commit ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// The checkpoint exists: its slot was the newest after it was filled.
    Committed,
    /// Another attempt's exists, and ours can never take its place.
    Lost,
    /// The slot, or a newer one, was abandoned by whoever cleaned up; ours can never count.
    Fenced,
    /// The store refused every try, and says that nothing is there; nothing can come later.
    Refused,
    /// It may exist, or come to exist when a try that is still under way arrives.
    Unknown,
}

/// The store's answer to a creation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Created.
    Created,
    /// It was there already, perhaps through an earlier try of our own.
    Exists,
    /// An error; it was not created, and no try of it is under way.
    Refused,
    /// An error; it may have been created, or may yet be.
    Unclear,
}

/// What reading the slot, or for [`Task::Confirm`] the newest of all slots, showed.
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
    /// Whether a try may still be under way.
    open: bool,
}

impl Default for Committer {
    fn default() -> Self {
        Committer { task: Task::Check, tries: 0, reads: 0, open: false }
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
        self.open |= answer == Answer::Unclear;
        match answer {
            Answer::Created => self.confirm(),
            Answer::Exists | Answer::Refused | Answer::Unclear => self.task = Task::ReadBack,
        }
    }

    /// The answer to [`Task::ReadBack`] and [`Task::Confirm`].
    pub fn found(&mut self, found: Found) {
        let confirming = self.task == Task::Confirm;
        if !confirming && self.task != Task::ReadBack {
            return;
        }
        self.reads += 1;
        self.task = match found {
            Found::Ours if !confirming => return self.confirm(),
            Found::Ours => Task::Done(Outcome::Committed),
            Found::Other => Task::Done(Outcome::Lost),
            Found::Abandoned => Task::Done(Outcome::Fenced),
            // No slot at all after ours was filled: somebody removed the folder by hand.
            Found::Nothing if confirming => Task::Done(Outcome::Unknown),
            Found::Nothing if self.tries < TRIES_MAX => Task::Put,
            Found::Nothing if self.open => Task::Done(Outcome::Unknown),
            Found::Nothing => Task::Done(Outcome::Refused),
            Found::Unclear if self.reads < TRIES_MAX => self.task,
            Found::Unclear => Task::Done(Outcome::Unknown),
        };
    }

    fn confirm(&mut self) {
        self.task = Task::Confirm;
        self.reads = 0;
    }
}
