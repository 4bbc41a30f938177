//! The ranks of an attempt: objects, then the record, then the report.

use super::events::{Fault, Outcome, Who};
use super::job::TRIES_MAX;
use super::store::{KINDS, Op, RECORD, Reply};
use super::world::World;

/// One attempt: its ranks, and how it ended.
#[derive(Debug)]
pub(super) struct Save {
    pub(super) job: u8,
    pub(super) ranks: Vec<Rank>,
    pub(super) outcome: Option<Outcome>,
}

/// A rank that writes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Rank {
    /// The kind it writes next; past the last it reports.
    kind: usize,
    tries: u32,
    /// At which of its steps it dies, or stands still.
    dies_at: Option<usize>,
    stalls_at: Option<usize>,
}

impl World<'_> {
    /// Chooses the ranks that will die and stall.
    pub(super) fn doom(&mut self, attempt: u16) {
        let per_mille = self.faults_per_mille * 3;
        for _ in 0..2 {
            let rank = self.random.below(u64::from(self.ranks)) as usize;
            let step = self.random.below(1 + KINDS as u64) as usize;
            if self.random.chance(per_mille / 2) {
                self.saves[usize::from(attempt)].ranks[rank].dies_at = Some(step);
            } else if self.random.chance(per_mille) {
                self.saves[usize::from(attempt)].ranks[rank].stalls_at = Some(step);
            }
        }
    }

    pub(super) fn rank_wakes(&mut self, attempt: u16, rank: u8) {
        self.rank_writes(attempt, rank);
    }

    /// A rank takes its next step: an object, the record, or the report.
    fn rank_writes(&mut self, attempt: u16, rank: u8) {
        let needs = self.store.folders[usize::from(attempt)].needs;
        let who = Who::Rank { attempt, rank };
        let state = &mut self.saves[usize::from(attempt)].ranks[usize::from(rank)];
        if state.dies_at.is_some_and(|step| step <= state.kind) {
            return self.fault(who, Fault::RankDied);
        }
        if state.stalls_at.take_if(|step| *step <= state.kind).is_some() {
            self.fault(who, Fault::RankStalled);
            return self.wake_later(who);
        }
        while state.kind < KINDS && needs[state.kind] >> rank & 1 == 0 {
            state.kind += 1;
        }
        let kind = state.kind;
        match kind {
            0..=RECORD => self.send(who, 0, Op::PutObject { attempt, rank, kind: kind as u8 }),
            _ => self.report(attempt, rank, true),
        }
    }

    pub(super) fn rank_hears(&mut self, attempt: u16, rank: u8, reply: Reply) {
        let state = &mut self.saves[usize::from(attempt)].ranks[usize::from(rank)];
        match reply {
            // The names are the attempt's own: what exists is from an earlier try.
            Reply::Done | Reply::Exists => {
                state.kind += 1;
                state.tries = 0;
                self.rank_writes(attempt, rank);
            }
            _ if state.tries + 1 < TRIES_MAX => {
                state.tries += 1;
                self.rank_writes(attempt, rank);
            }
            _ => self.report(attempt, rank, false),
        }
    }
}
