//! A job that saves the step: its committer, which is the real one.

use super::super::protocol::{Answer, Committer, Existing, Found, Outcome as Ended, Task, next_generation};
use super::Variant;
use super::events::{Fault, Invariant, Outcome, What, Who};
use super::random::Random;
use super::rank::{Rank, Save};
use super::store::{Content, Op, Reply};
use super::world::World;

/// Tries of a request before its caller gives up.
pub(super) const TRIES_MAX: u32 = 3;

/// What a committer waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Its next beginning.
    Idle,
    /// The listing of the slots.
    Listing,
    /// What the newest slot holds.
    Kind(u32),
    /// The ranks' reports.
    Saving,
    /// The look at every rank's objects.
    Checking,
    /// The answer to the committer's task.
    Committing,
    /// The kind of a slot that is newer than its own.
    Confirming(u32),
    /// Nothing more.
    Over,
}

/// A job.
#[derive(Debug)]
pub(super) struct Job {
    existing: Existing,
    attempts_left: u32,
    phase: Phase,
    /// Set aside by a stall: the answer it goes on with.
    stalled: Option<(Op, Reply)>,
    /// Requests before this one have no meaning any more.
    ticket: u32,
    tries: u32,
    attempt: u16,
    committer: Committer,
    /// Ranks that reported, a bit each; looks that are still to be answered.
    reported: u64,
    looks: u32,
}

impl Job {
    pub(super) fn new(random: &mut Random) -> Self {
        Job {
            existing: if random.chance(750) { Existing::Supersede } else { Existing::Refuse },
            attempts_left: 1 + random.below(3) as u32,
            phase: Phase::Idle,
            stalled: None,
            ticket: 0,
            tries: 0,
            attempt: 0,
            committer: Committer::default(),
            reported: 0,
            looks: 0,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }
}

impl World<'_> {
    fn job(&mut self, job: u8) -> &mut Job {
        &mut self.jobs[usize::from(job)]
    }

    /// Sends the committer's request; answers to those before it are not waited for any more.
    fn ask(&mut self, job: u8, op: Op) {
        let state = self.job(job);
        state.ticket += 1;
        let ticket = state.ticket;
        self.send(Who::Committer(job), ticket, op);
    }

    /// A committer begins, or goes on after a stall.
    pub(super) fn committer_wakes(&mut self, job: u8) {
        if let Some((op, reply)) = self.job(job).stalled.take() {
            return self.committer_goes_on(job, op, reply);
        }
        if self.job(job).phase == Phase::Idle {
            let state = self.job(job);
            state.attempts_left -= 1;
            (state.phase, state.tries) = (Phase::Listing, 0);
            self.ask(job, Op::ListSlots);
        }
    }

    /// The end of an attempt; the job may try again.
    fn finish(&mut self, job: u8, outcome: Outcome) {
        self.ended(Who::Committer(job), outcome);
        let state = self.job(job);
        let began = !matches!(state.phase, Phase::Listing | Phase::Kind(_));
        let attempt = usize::from(state.attempt);
        state.ticket += 1;
        state.stalled = None;
        let again = state.attempts_left > 0 && !matches!(outcome, Outcome::AlreadySaved | Outcome::Committed);
        state.phase = if again { Phase::Idle } else { Phase::Over };
        if began {
            self.saves[attempt].outcome = Some(outcome);
        }
        if again {
            self.wake_later(Who::Committer(job));
        }
    }

    pub(super) fn committer_hears(&mut self, job: u8, ticket: u32, op: Op, reply: Reply) {
        let per_mille = self.faults_per_mille;
        let state = self.job(job);
        if ticket != state.ticket || state.phase == Phase::Over {
            return;
        }
        // Many looks are one step of the committer.
        let calm = state.phase == Phase::Checking && state.looks > 1;
        if !calm && self.random.chance(per_mille) {
            if self.random.chance(400) {
                self.fault(Who::Committer(job), Fault::CommitterDied);
                return self.finish(job, Outcome::Died);
            }
            if self.job(job).phase != Phase::Checking {
                self.fault(Who::Committer(job), Fault::CommitterStalled);
                self.job(job).stalled = Some((op, reply));
                return self.wake_later(Who::Committer(job));
            }
        }
        self.committer_goes_on(job, op, reply);
    }

    fn committer_goes_on(&mut self, job: u8, op: Op, reply: Reply) {
        match (self.job(job).phase, reply) {
            (Phase::Listing, Reply::Slots(0)) => self.begin(job, None),
            (Phase::Listing, Reply::Slots(mask)) => {
                let slot = 127 - mask.leading_zeros();
                self.job(job).phase = Phase::Kind(slot);
                self.ask(job, Op::GetSlot { slot });
            }
            (Phase::Kind(slot), Reply::Slot(Some(content))) => {
                self.begin(job, Some((slot, matches!(content, Content::Abandoned { .. }))));
            }
            (Phase::Listing | Phase::Kind(_), _) => {
                self.job(job).tries += 1;
                match self.job(job).tries < TRIES_MAX {
                    true => {
                        self.job(job).phase = Phase::Listing;
                        self.ask(job, Op::ListSlots);
                    }
                    false => self.finish(job, Outcome::NotBegun),
                }
            }
            (Phase::Checking, _) => self.looked(job, op, reply),
            (Phase::Committing | Phase::Confirming(_), _) => self.answered(job, reply),
            (Phase::Idle | Phase::Saving | Phase::Over, _) => {}
        }
    }

    /// Slots are looked at: the attempt gets its own, and its ranks begin.
    fn begin(&mut self, job: u8, newest: Option<(u32, bool)>) {
        let Some(generation) = next_generation(newest, self.job(job).existing) else {
            return self.finish(job, Outcome::AlreadySaved);
        };
        let ranks = self.ranks;
        let all = if ranks == 64 { u64::MAX } else { (1 << ranks) - 1 };
        // Some ranks hold nothing, and then have no record either; some have a second object.
        let idle =
            if ranks > 1 && self.random.chance(200) { 1 << self.random.below(u64::from(ranks)) } else { 0 };
        let second = self.random.below(u64::MAX) & all & !idle;
        let needs = [all & !idle, if self.random.chance(300) { second } else { 0 }, all & !idle];
        let attempt = self.store.add(generation, needs, self.is(Variant::SharedNames));
        let saved = Save { job, ranks: vec![Rank::default(); ranks as usize], outcome: None };
        self.saves.push(saved);
        self.doom(attempt);
        let state = self.job(job);
        (state.attempt, state.phase, state.reported) = (attempt, Phase::Saving, 0);
        state.committer = Committer::default();
        self.tell(What::Began(Who::Committer(job), attempt, generation));
        for rank in 0..ranks as u8 {
            self.wake(Who::Rank { attempt, rank });
        }
        self.time_out_later(job, attempt);
        if self.is(Variant::ManifestFirst) {
            self.job(job).committer.checked();
            self.drive(job);
        }
    }

    pub(super) fn committer_gets_report(&mut self, attempt: u16, rank: u8, ok: bool) {
        let job = self.saves[usize::from(attempt)].job;
        let all = if self.ranks == 64 { u64::MAX } else { (1 << self.ranks) - 1 };
        let state = self.job(job);
        if state.phase != Phase::Saving || state.attempt != attempt {
            return;
        }
        if !ok {
            return self.finish(job, Outcome::Incomplete);
        }
        state.reported |= 1 << rank;
        if state.reported == all {
            self.check(job);
        }
    }

    /// Patience is over. What is there decides, not what was heard: a committer that looks anyway must see the same.
    pub(super) fn committer_times_out(&mut self, job: u8, attempt: u16) {
        let state = self.job(job);
        if state.phase != Phase::Saving || state.attempt != attempt {
            return;
        }
        // Without faults nobody is missing, only slow.
        if self.faults_per_mille == 0 {
            return self.time_out_later(job, attempt);
        }
        self.tell(What::TimedOut(Who::Committer(job)));
        match self.random.chance(500) {
            true => self.check(job),
            false => self.finish(job, Outcome::Incomplete),
        }
    }

    fn check(&mut self, job: u8) {
        let ranks = self.ranks;
        let state = self.job(job);
        (state.phase, state.looks, state.tries) = (Phase::Checking, ranks, 0);
        state.ticket += 1;
        let (ticket, attempt) = (state.ticket, state.attempt);
        for rank in 0..ranks as u8 {
            self.send(Who::Committer(job), ticket, Op::LookRank { attempt, rank });
        }
    }

    fn looked(&mut self, job: u8, op: Op, reply: Reply) {
        let tries_max = TRIES_MAX + self.ranks;
        let state = self.job(job);
        match reply {
            Reply::There(true) => {
                state.looks -= 1;
                if state.looks == 0 {
                    state.committer.checked();
                    self.drive(job);
                }
            }
            Reply::Failed if state.tries < tries_max => {
                state.tries += 1;
                let ticket = state.ticket;
                self.send(Who::Committer(job), ticket, op);
            }
            _ => self.finish(job, Outcome::Incomplete),
        }
    }

    /// Does what the committer says.
    fn drive(&mut self, job: u8) {
        let state = self.job(job);
        state.phase = Phase::Committing;
        let attempt = state.attempt;
        let task = state.committer.task();
        let slot = self.store.folders[usize::from(attempt)].generation;
        match task {
            Task::Check => self.check(job),
            Task::Put => self.ask(job, Op::PutSlot { slot, content: Content::Commit(attempt) }),
            Task::ReadBack => self.ask(job, Op::GetSlot { slot }),
            Task::Confirm if self.is(Variant::Unconfirmed) => self.conclude(job, Ended::Committed),
            Task::Confirm => self.ask(job, Op::ListSlots),
            Task::Done(outcome) => self.conclude(job, outcome),
        }
    }

    /// Tells the committer what the store said.
    fn answered(&mut self, job: u8, reply: Reply) {
        let (open_is_refused, exists_is_lost) =
            (self.is(Variant::OpenIsRefused), self.is(Variant::ExistsIsLost));
        let state = self.job(job);
        let attempt = state.attempt;
        let own = Content::Commit(attempt);
        if state.committer.task() == Task::Put {
            let answer = match reply {
                Reply::Done => Answer::Created,
                Reply::Exists if exists_is_lost => return self.conclude(job, Ended::Lost),
                Reply::Exists => Answer::Exists,
                Reply::Refused => Answer::Refused,
                _ if open_is_refused => Answer::Refused,
                _ => Answer::Unclear,
            };
            state.committer.answered(answer);
            return self.drive(job);
        }
        let found = match (state.phase, reply) {
            (_, Reply::Slot(Some(content))) if content == own => Found::Ours,
            (_, Reply::Slot(Some(Content::Commit(_)))) => Found::Other,
            (_, Reply::Slot(Some(Content::Abandoned { .. }))) => Found::Abandoned,
            // Newer than ours, and gone: there is a newer one still. Look again.
            (Phase::Confirming(_), Reply::Slot(None)) => Found::Unclear,
            (_, Reply::Slot(None) | Reply::Slots(0)) => Found::Nothing,
            (_, Reply::Slots(mask)) => return self.confirm(job, 127 - mask.leading_zeros()),
            _ => Found::Unclear,
        };
        state.committer.found(found);
        self.drive(job);
    }

    fn confirm(&mut self, job: u8, newest: u32) {
        let attempt = self.job(job).attempt;
        let slot = self.store.folders[usize::from(attempt)].generation;
        let state = self.job(job);
        if newest > slot {
            state.phase = Phase::Confirming(newest);
            return self.ask(job, Op::GetSlot { slot: newest });
        }
        state.committer.found(if newest == slot { Found::Ours } else { Found::Nothing });
        self.drive(job);
    }

    /// What the committer tells its job must be so.
    fn conclude(&mut self, job: u8, outcome: Ended) {
        let attempt = self.job(job).attempt;
        let content = Content::Commit(attempt);
        let newest = self.store.newest();
        let folder = &mut self.store.folders[usize::from(attempt)];
        let (slot, was_newest) = (folder.generation, folder.was_newest);
        let is_newest = newest.is_some_and(|(_, newest)| newest == content);
        let ended = match outcome {
            Ended::Committed => Outcome::Committed,
            Ended::Lost => Outcome::Lost,
            Ended::Fenced => Outcome::Fenced,
            Ended::Refused => Outcome::Refused,
            Ended::Unknown => Outcome::Unknown,
        };
        folder.never_newest = matches!(outcome, Ended::Lost | Ended::Fenced | Ended::Refused);
        folder.never_filled = outcome == Ended::Refused;
        let truth = match outcome {
            Ended::Committed => was_newest,
            Ended::Lost | Ended::Fenced => !is_newest,
            Ended::Refused => self.store.slot(slot) != Some(content),
            Ended::Unknown => true,
        };
        if !truth {
            let found =
                || format!("attempt {attempt} of slot {slot} was told {ended:?}; the newest is {newest:?}");
            self.store.fail(Invariant::TellsTheTruth, found);
        }
        let won_before = self.saves.iter().enumerate().find(|(other, save)| {
            save.outcome == Some(Outcome::Committed) && self.store.folders[*other].generation == slot
        });
        if let Some((other, _)) = won_before.filter(|_| outcome == Ended::Committed) {
            let found =
                || format!("attempts {other} and {attempt} were both told that they committed slot {slot}");
            self.store.fail(Invariant::OneWins, found);
        }
        self.finish(job, ended);
    }
}
