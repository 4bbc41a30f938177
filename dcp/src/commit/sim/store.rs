//! The store as it is: one step's slots, and the objects of every attempt.

use super::events::Invariant;

/// Slots that a run can fill; a bit each in a listing.
pub(super) const SLOTS_MAX: u32 = 128;

/// Kinds of names that a rank writes: two objects and the record.
pub(super) const KINDS: usize = 3;

/// The kind that is the part record.
pub(super) const RECORD: usize = 2;

/// What fills a slot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Content {
    /// The manifest of an attempt.
    Commit(u16),
    /// Abandoned, by this cleaner.
    Abandoned {
        /// Who.
        cleaner: u8,
        /// Whether the step is being removed.
        removes: bool,
    },
}

/// An operation on the store.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Op {
    /// Creates one object or record if absent.
    PutObject { attempt: u16, rank: u8, kind: u8 },
    /// Fills a slot if absent.
    PutSlot { slot: u32, content: Content },
    /// Lists the slots.
    ListSlots,
    /// Reads a slot.
    GetSlot { slot: u32 },
    /// Lists which attempts have objects.
    ListAttempts,
    /// Looks whether all that a rank of an attempt has to write is there.
    LookRank { attempt: u16, rank: u8 },
    /// Removes all that a rank wrote for an attempt.
    RemoveRank { attempt: u16, rank: u8 },
    /// Removes a slot.
    RemoveSlot { slot: u32 },
}

impl Op {
    /// Whether it changes nothing.
    pub(super) fn only_reads(self) -> bool {
        matches!(self, Op::ListSlots | Op::GetSlot { .. } | Op::ListAttempts | Op::LookRank { .. })
    }
}

/// What the store, or its client, says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reply {
    /// Done.
    Done,
    /// Not created: the name is taken.
    Exists,
    /// Not done, and will not be.
    Refused,
    /// An error that leaves it open.
    Failed,
    /// The slots that are filled, a bit each.
    Slots(u128),
    /// What a slot holds.
    Slot(Option<Content>),
    /// The attempts with objects, a bit each.
    Attempts(u64),
    /// Whether all is there.
    There(bool),
}

/// What one attempt is to write, and a folder of what was written.
#[derive(Clone, Debug)]
pub(super) struct Folder {
    /// The slot of the attempt.
    pub(super) generation: u32,
    /// The ranks that write each kind.
    pub(super) needs: [u64; KINDS],
    /// The ranks whose object of each kind is there.
    there: [u64; KINDS],
    /// Whose it is, where it is there.
    owners: [[u16; 64]; KINDS],
    /// The folder that the attempt writes to; its own, unless names are shared.
    home: u16,
    /// Whether the attempt was the checkpoint at some time.
    pub(super) was_newest: bool,
    /// Its committer said that it is not and will not be the checkpoint.
    pub(super) never_newest: bool,
    /// Its committer said that it is not and will not be in its slot.
    pub(super) never_filled: bool,
}

/// The store.
#[derive(Debug, Default)]
pub(super) struct Store {
    slots: Vec<Option<Content>>,
    pub(super) folders: Vec<Folder>,
    pub(super) violation: Option<(Invariant, String)>,
}

impl Store {
    /// A new attempt's place; `shared` where attempts share their names.
    pub(super) fn add(&mut self, generation: u32, needs: [u64; KINDS], shared: bool) -> u16 {
        let attempt = self.folders.len() as u16;
        let folder = Folder {
            generation,
            needs,
            there: [0; KINDS],
            owners: [[0; 64]; KINDS],
            home: if shared { 0 } else { attempt },
            was_newest: false,
            never_newest: false,
            never_filled: false,
        };
        self.folders.push(folder);
        attempt
    }

    /// The newest slot and what it holds.
    pub(super) fn newest(&self) -> Option<(u32, Content)> {
        let last = self.slots.iter().rposition(Option::is_some)?;
        self.slots[last].map(|content| (last as u32, content))
    }

    /// What a slot holds.
    pub(super) fn slot(&self, slot: u32) -> Option<Content> {
        self.slots.get(slot as usize).copied().flatten()
    }

    pub(super) fn fail(&mut self, invariant: Invariant, found: impl FnOnce() -> String) {
        if self.violation.is_none() {
            self.violation = Some((invariant, found()));
        }
    }

    /// Does an operation.
    pub(super) fn apply(&mut self, op: Op) -> Reply {
        match op {
            Op::PutObject { attempt, rank, kind } => self.put_object(attempt, rank, kind),
            Op::PutSlot { slot, content } => self.put_slot(slot, content),
            Op::ListSlots => {
                let filled = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
                Reply::Slots(filled.fold(0, |mask, (slot, _)| mask | 1 << slot))
            }
            Op::GetSlot { slot } => Reply::Slot(self.slot(slot)),
            Op::ListAttempts => {
                let filled = self.folders.iter().enumerate();
                let filled = filled.filter(|(_, folder)| folder.there.iter().any(|ranks| *ranks != 0));
                Reply::Attempts(filled.fold(0, |mask, (attempt, _)| mask | 1 << attempt))
            }
            Op::LookRank { attempt, rank } => {
                let home = &self.folders[usize::from(self.folders[usize::from(attempt)].home)];
                let needs = &self.folders[usize::from(attempt)].needs;
                Reply::There((0..KINDS).all(|kind| (needs[kind] & !home.there[kind]) >> rank & 1 == 0))
            }
            Op::RemoveRank { attempt, rank } => self.remove_rank(attempt, rank),
            Op::RemoveSlot { slot } => {
                let before = self.newest();
                if let Some(filled) = self.slots.get_mut(slot as usize) {
                    *filled = None;
                }
                self.check_newest(before);
                Reply::Done
            }
        }
    }

    fn put_object(&mut self, attempt: u16, rank: u8, kind: u8) -> Reply {
        let home = self.folders[usize::from(attempt)].home;
        let (kind, bit) = (usize::from(kind), 1 << rank);
        let folder = &mut self.folders[usize::from(home)];
        if folder.there[kind] & bit != 0 {
            return Reply::Exists;
        }
        folder.there[kind] |= bit;
        folder.owners[kind][usize::from(rank)] = attempt;
        if let Some((_, Content::Commit(newest))) = self.newest()
            && self.folders[usize::from(newest)].home == home
        {
            self.check_whole(newest);
        }
        Reply::Done
    }

    fn put_slot(&mut self, slot: u32, content: Content) -> Reply {
        if self.slot(slot).is_some() {
            return Reply::Exists;
        }
        let before = self.newest();
        if self.slots.len() <= slot as usize {
            self.slots.resize(slot as usize + 1, None);
        }
        self.slots[slot as usize] = Some(content);
        if let Content::Commit(attempt) = content
            && self.folders[usize::from(attempt)].never_filled
        {
            let found = || format!("attempt {attempt} was told `refused`, and slot {slot} now holds it");
            self.fail(Invariant::TellsTheTruth, found);
        }
        self.check_newest(before);
        Reply::Done
    }

    fn remove_rank(&mut self, attempt: u16, rank: u8) -> Reply {
        let folder = &mut self.folders[usize::from(attempt)];
        let bit = 1_u64 << rank;
        let removed = folder.there.iter().any(|ranks| ranks & bit != 0);
        folder.there.iter_mut().for_each(|ranks| *ranks &= !bit);
        if removed
            && let Some((slot, Content::Commit(newest))) = self.newest()
            && self.folders[usize::from(newest)].home == attempt
        {
            let found = || format!("rank {rank}'s objects were removed, and slot {slot} names them");
            self.fail(Invariant::PruneSparesNewest, found);
        }
        Reply::Done
    }

    /// Compares the newest slot with the one before the operation.
    fn check_newest(&mut self, before: Option<(u32, Content)>) {
        let after = self.newest();
        if before == after {
            return;
        }
        let removed = matches!(after, Some((_, Content::Abandoned { removes: true, .. })));
        match (before, after) {
            (_, Some((slot, Content::Commit(attempt)))) => {
                self.check_whole(attempt);
                let folder = &mut self.folders[usize::from(attempt)];
                folder.was_newest = true;
                if folder.never_newest {
                    let found = || {
                        format!("attempt {attempt} was told that it lost, and now is slot {slot}, the newest")
                    };
                    self.fail(Invariant::TellsTheTruth, found);
                }
            }
            (Some((slot, Content::Commit(attempt))), _) if !removed => {
                let found = || {
                    format!("slot {slot} was the checkpoint (attempt {attempt}), now the newest is {after:?}")
                };
                self.fail(Invariant::CommittedStays, found);
            }
            _ => {}
        }
        // An older checkpoint that comes to be the newest again would be a step back.
        if let (Some((before, _)), after) = (before, after)
            && after.is_none_or(|(after, _)| after < before)
        {
            self.fail(Invariant::CommittedStays, || {
                format!("slot {before} was the newest, now {after:?} is")
            });
        }
    }

    fn check_whole(&mut self, attempt: u16) {
        let folder = &self.folders[usize::from(attempt)];
        let home = &self.folders[usize::from(folder.home)];
        for kind in 0..KINDS {
            let missing = folder.needs[kind] & !home.there[kind];
            if missing != 0 {
                let found = || {
                    format!("attempt {attempt} is the checkpoint without kind {kind} of ranks {missing:#x}")
                };
                return self.fail(Invariant::NewestIsWhole, found);
            }
            for rank in (0..64).filter(|rank| folder.needs[kind] >> rank & 1 == 1) {
                let owner = home.owners[kind][rank];
                if owner != attempt {
                    let found = || {
                        format!("attempt {attempt} is the checkpoint with rank {rank}'s objects of {owner}")
                    };
                    return self.fail(Invariant::NewestIsWhole, found);
                }
            }
        }
    }
}
