//! `prune`, and the removal of a step, as if every age limit had passed.

use super::super::protocol::{Existing, is_hopeless, next_generation};
use super::Variant;
use super::events::{Fault, Outcome, Who};
use super::store::{Content, Op, Reply, SLOTS_MAX};
use super::world::World;

/// Looks at the slots before a cleaner gives up; each may fill a slot.
const LOOKS_MAX: u32 = 5;

/// What a cleaner waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Its beginning.
    Idle,
    /// The listing of the slots.
    Slots,
    /// What the newest slot holds.
    Kind(u32),
    /// The listing of attempts.
    Attempts,
    /// Whether its slot was filled.
    Fence,
    /// So many removals.
    Removing(u32),
    /// Nothing more.
    Over,
}

/// A cleaner.
#[derive(Debug)]
pub(super) struct Cleaner {
    number: u8,
    /// Whether the step is to go, or only what nobody needs.
    removes: bool,
    phase: Phase,
    ticket: u32,
    looks: u32,
    /// The slots that are filled, and what the newest holds.
    slots: u128,
    newest: Option<(u32, Content)>,
    stalled: Option<Reply>,
}

impl Cleaner {
    pub(super) fn new(number: u8, removes: bool) -> Self {
        Cleaner {
            number,
            removes,
            phase: Phase::Idle,
            ticket: 0,
            looks: 0,
            slots: 0,
            newest: None,
            stalled: None,
        }
    }

    fn fences(&self) -> bool {
        !matches!(self.newest, Some((_, Content::Commit(_))))
    }

    fn newest_kind(&self) -> Option<(u32, bool)> {
        self.newest.map(|(slot, content)| (slot, matches!(content, Content::Abandoned { .. })))
    }
}

impl World<'_> {
    fn cleaner(&mut self, cleaner: u8) -> &mut Cleaner {
        &mut self.cleaners[usize::from(cleaner)]
    }

    fn cleaner_asks(&mut self, cleaner: u8, phase: Phase, op: Op) {
        let state = self.cleaner(cleaner);
        state.phase = phase;
        state.ticket += 1;
        let ticket = state.ticket;
        self.send(Who::Cleaner(cleaner), ticket, op);
    }

    fn cleaner_ends(&mut self, cleaner: u8, outcome: Outcome) {
        self.cleaner(cleaner).phase = Phase::Over;
        self.ended(Who::Cleaner(cleaner), outcome);
    }

    pub(super) fn cleaner_wakes(&mut self, cleaner: u8) {
        match self.cleaner(cleaner).stalled.take() {
            Some(reply) => self.cleaner_goes_on(cleaner, reply),
            None => self.cleaner_looks(cleaner),
        }
    }

    fn cleaner_looks(&mut self, cleaner: u8) {
        let state = self.cleaner(cleaner);
        state.looks += 1;
        match state.looks > LOOKS_MAX {
            true => self.cleaner_ends(cleaner, Outcome::CleaningFailed),
            false => self.cleaner_asks(cleaner, Phase::Slots, Op::ListSlots),
        }
    }

    pub(super) fn cleaner_hears(&mut self, cleaner: u8, ticket: u32, reply: Reply) {
        let per_mille = self.faults_per_mille;
        let state = self.cleaner(cleaner);
        if ticket != state.ticket || state.phase == Phase::Over {
            return;
        }
        let removing = matches!(state.phase, Phase::Removing(_));
        if self.random.chance(if removing { per_mille / 10 } else { per_mille * 2 }) {
            if removing || self.random.chance(200) {
                self.fault(Who::Cleaner(cleaner), Fault::CleanerDied);
                return self.cleaner_ends(cleaner, Outcome::CleaningFailed);
            }
            self.fault(Who::Cleaner(cleaner), Fault::CleanerStalled);
            self.cleaner(cleaner).stalled = Some(reply);
            return self.wake_later(Who::Cleaner(cleaner));
        }
        self.cleaner_goes_on(cleaner, reply);
    }

    fn cleaner_goes_on(&mut self, cleaner: u8, reply: Reply) {
        let state = self.cleaner(cleaner);
        match (state.phase, reply) {
            (Phase::Slots, Reply::Slots(0)) => {
                (state.slots, state.newest) = (0, None);
                self.cleaner_decides(cleaner);
            }
            (Phase::Slots, Reply::Slots(mask)) => {
                let slot = 127 - mask.leading_zeros();
                state.slots = mask;
                self.cleaner_asks(cleaner, Phase::Kind(slot), Op::GetSlot { slot });
            }
            (Phase::Kind(slot), Reply::Slot(Some(content))) => {
                state.newest = Some((slot, content));
                self.cleaner_decides(cleaner);
            }
            (Phase::Attempts, Reply::Attempts(mask)) => self.cleaner_sweeps(cleaner, mask),
            (Phase::Removing(left), _) => match left {
                0 | 1 => self.cleaner_ends(cleaner, Outcome::Cleaned),
                _ => state.phase = Phase::Removing(left - 1),
            },
            // Whatever became of the slot: what is there now decides.
            _ => self.cleaner_looks(cleaner),
        }
    }

    /// The newest slot is known: a step that is to go is fenced first.
    fn cleaner_decides(&mut self, cleaner: u8) {
        let state = self.cleaner(cleaner);
        match state.removes && (!state.fences() || state.newest.is_none()) {
            true => self.cleaner_fences(cleaner),
            false => self.cleaner_asks(cleaner, Phase::Attempts, Op::ListAttempts),
        }
    }

    fn cleaner_fences(&mut self, cleaner: u8) {
        let state = self.cleaner(cleaner);
        let content = Content::Abandoned { cleaner: state.number, removes: state.removes };
        let slot = next_generation(state.newest_kind(), Existing::Supersede);
        match slot.filter(|slot| *slot < SLOTS_MAX) {
            Some(slot) => self.cleaner_asks(cleaner, Phase::Fence, Op::PutSlot { slot, content }),
            None => self.cleaner_ends(cleaner, Outcome::CleaningFailed),
        }
    }

    /// Attempts are listed. Those that no slot shuts out are fenced where no checkpoint stands in the way; the others
    /// are removed, and the slots below the newest.
    fn cleaner_sweeps(&mut self, cleaner: u8, attempts: u64) {
        let (no_fence, any_generation) =
            (self.is(Variant::PruneWithoutFence), self.is(Variant::PruneAnyGeneration));
        let state = &self.cleaners[usize::from(cleaner)];
        let newest = state.newest_kind();
        let named =
            |attempt: u16| state.newest.is_some_and(|(_, content)| content == Content::Commit(attempt));
        let listed: Vec<u16> = (0..64).filter(|attempt| attempts >> attempt & 1 == 1).collect();
        let hopeless = |attempt: &u16| {
            let generation = self.store.folders[usize::from(*attempt)].generation;
            is_hopeless(generation, newest, named(*attempt))
                || (no_fence && state.fences())
                || (any_generation && !state.fences() && !named(*attempt))
        };
        let (doomed, others): (Vec<u16>, Vec<u16>) = listed.iter().partition(|attempt| hopeless(attempt));
        if state.fences() && !others.is_empty() {
            return self.cleaner_fences(cleaner);
        }
        let lower = newest.map_or(0, |(slot, _)| state.slots & ((1 << slot) - 1));
        let mut ops: Vec<Op> = (0..SLOTS_MAX)
            .filter(|slot| lower >> slot & 1 == 1)
            .map(|slot| Op::RemoveSlot { slot })
            .collect();
        for attempt in doomed {
            ops.extend((0..self.ranks as u8).map(|rank| Op::RemoveRank { attempt, rank }));
        }
        if ops.is_empty() {
            return self.cleaner_ends(cleaner, Outcome::Cleaned);
        }
        let state = self.cleaner(cleaner);
        state.phase = Phase::Removing(ops.len() as u32);
        state.ticket += 1;
        let ticket = state.ticket;
        ops.into_iter().for_each(|op| self.send(Who::Cleaner(cleaner), ticket, op));
    }
}
