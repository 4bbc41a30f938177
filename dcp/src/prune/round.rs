//! What to do next in one step's folder. What was seen in, actions out: no store, no clock.
//!
//! `docs/commit-protocol.md`, "Cleaning up", gives the rule, and why it holds however slow whoever follows it is and
//! wherever it dies. A folder is done in rounds: what is seen, what follows from it, what is seen then. What a *fence*
//! shuts out goes in the round after it, by what the slots say then, since a save may have been faster.

use super::retention::Policy;
use crate::commit::protocol::{Existing, is_hopeless, next_generation};
use crate::format::Format;
use crate::storage::{Key, ObjectMeta, Unfinished, WriterState};
use std::collections::BTreeSet;
use std::time::SystemTime;

const HOPELESS: &str = "of a save that can no longer be committed";

/// What a step's folder holds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Condition {
    /// A checkpoint: every object it names is there.
    Complete {
        /// The attempts that its objects are of.
        attempts: BTreeSet<String>,
    },
    /// A checkpoint that is not whole.
    Damaged(String),
    /// A checkpoint whose objects were not looked for.
    Saved,
    /// None.
    Unsaved,
}

/// What an object of a step is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Role {
    /// A slot of this generation.
    Slot(u32),
    /// Makes a checkpoint exist in a format without slots that can be abandoned.
    Commit,
    /// Belongs to an attempt that commits with such a slot.
    Attempt {
        /// The attempt's name.
        id: String,
        /// The slot that it commits with.
        generation: u32,
    },
    /// Belongs to a checkpoint, whole or not, of another format.
    Data {
        /// The attempt's name, where it is of one.
        attempt: Option<String>,
    },
    /// What a conversion keeps beside what it makes, until that is a checkpoint.
    Job,
    /// Nothing that a writer of checkpoints makes.
    Foreign,
}

/// What was seen of one step.
#[derive(Clone, Debug)]
pub struct Survey {
    /// The folder.
    pub home: Key,
    /// What it holds.
    pub condition: Condition,
    /// The newest slot, and whether it is abandoned.
    pub newest: Option<(u32, bool)>,
    /// Every object, with what it is.
    pub objects: Vec<(ObjectMeta, Role)>,
    /// What writers have not finished, with the slot of the attempt it belongs to.
    pub unfinished: Vec<(Unfinished, Option<u32>)>,
    /// The format of the slots, where they can be abandoned.
    pub slots: Option<&'static dyn Format>,
    /// Whether the store lets only one writer create an object, so that a fence holds.
    pub is_exclusive: bool,
}

/// What is to become of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays; garbage in it goes.
    Keep,
    /// It goes, if its newest slot is this one.
    Remove {
        /// The newest slot when that was decided.
        newest: Option<(u32, bool)>,
    },
}

/// When within a round something is done; all of one phase is over before the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// The next slot is abandoned.
    Fence,
    /// What makes a checkpoint exist goes first where it cannot be fenced.
    Commit,
    /// Objects, records, what was not finished.
    Data,
    /// Slots below the newest, once nothing is left that they name.
    Slot,
    /// The newest slot, abandoned long ago, of a folder in which nothing else is.
    Tombstone,
}

/// What to do with one name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Deed {
    /// Create it, as the abandoned slot of this generation.
    Fence(u32),
    /// Remove the object.
    Remove,
    /// Remove what its writer left.
    Discard(Unfinished),
}

/// One thing to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Action {
    /// When.
    pub phase: Phase,
    /// What.
    pub deed: Deed,
    /// To which key.
    pub key: Key,
    /// Bytes that it frees.
    pub byte_len: u64,
    /// Why.
    pub reason: &'static str,
}

/// What follows from one look.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Round {
    /// What to do, in order of phases.
    pub actions: Vec<Action>,
    /// What is left alone, and why.
    pub notes: Vec<String>,
}

impl Survey {
    /// What is seen once the actions of a round are done, if nobody else does anything.
    pub fn after(mut self, actions: &[Action], now: SystemTime) -> Self {
        for action in actions {
            match &action.deed {
                Deed::Fence(generation) => {
                    let abandoned = self.slots.and_then(|slots| slots.abandoned(*generation));
                    let byte_len = abandoned.map_or(0, |bytes| bytes.len() as u64);
                    let object = ObjectMeta { key: action.key.clone(), byte_len, modified: Some(now) };
                    self.objects.push((object, Role::Slot(*generation)));
                    self.newest = Some((*generation, true));
                    self.condition = Condition::Unsaved;
                }
                Deed::Remove => {
                    self.objects.retain(|(object, _)| object.key != action.key);
                    if action.phase == Phase::Commit {
                        self.condition = Condition::Unsaved;
                    }
                    if action.phase == Phase::Tombstone {
                        self.newest = None;
                    }
                }
                Deed::Discard(discarded) => self.unfinished.retain(|(unfinished, _)| unfinished != discarded),
            }
        }
        self
    }
}

/// What follows from what was seen.
pub fn next_round(survey: &Survey, verdict: Verdict, policy: &Policy) -> Round {
    let mut planner = Planner { survey, policy, round: Round::default() };
    match (&survey.condition, verdict) {
        (Condition::Unsaved, _) => planner.clear(),
        (_, Verdict::Remove { newest }) => planner.remove_step(newest),
        (Condition::Complete { attempts }, Verdict::Keep) => planner.tidy(attempts),
        (Condition::Damaged(why), Verdict::Keep) => planner.note(format!("damaged: {why}")),
        (Condition::Saved, Verdict::Keep) => planner.note("was saved just now".to_owned()),
    }
    planner.discard();
    planner.tombstone();
    planner.note_foreign();
    planner.round.actions.sort_by_key(|action| action.phase);
    planner.round
}

struct Planner<'a> {
    survey: &'a Survey,
    policy: &'a Policy,
    round: Round,
}

impl<'a> Planner<'a> {
    /// A folder that stays: what its checkpoint took the place of goes, and what can no longer take its own. What still
    /// can is not fenced off, since an abandoned slot would take the checkpoint away.
    fn tidy(&mut self, named: &BTreeSet<String>) {
        self.sweep(named);
        for (object, role) in &self.survey.objects {
            if *role == Role::Job {
                self.remove(Phase::Data, object, "of a conversion that has finished");
            }
            if let Role::Data { attempt: Some(id) } = role
                && !named.contains(id)
            {
                self.remove(Phase::Data, object, HOPELESS);
            }
        }
        if self.later_objects().next().is_some() && !self.remove_if_nobody_saves() {
            let why = "what a later save of it wrote stays until the step is saved again or removed: that save may \
                       yet finish";
            self.note(why.to_owned());
        }
    }

    /// A folder without a checkpoint.
    fn clear(&mut self) {
        self.sweep(&BTreeSet::new());
        if self.later_objects().next().is_some() {
            if self.remove_if_nobody_saves() {
                // There is nothing to fence off.
            } else if self.survey.is_exclusive {
                self.fence("so that no save that died can be committed");
            } else {
                let why = "this store lets two writers create one object, so that no save can be fenced off; \
                           `--older-than 0s` removes it when nobody is saving";
                self.note(why.to_owned());
            }
        }
        let loose = self
            .survey
            .objects
            .iter()
            .filter(|(_, role)| matches!(role, Role::Data { .. }))
            .map(|(object, _)| object);
        let loose: Vec<_> = loose.collect();
        if loose.iter().all(|object| self.policy.is_old(object.modified)) {
            for object in loose {
                self.remove(Phase::Data, object, "of a save that did not finish");
            }
        } else {
            self.note_busy();
        }
        self.clear_job();
    }

    /// A conversion that nothing has been written for in a long time is given up with all that it wrote.
    fn clear_job(&mut self) {
        let is_of_it = |role: &Role| !matches!(role, Role::Foreign | Role::Slot(_));
        let own = self.survey.objects.iter().filter(|(_, role)| is_of_it(role));
        if self.is_busy() || !own.clone().all(|(object, _)| self.policy.is_old(object.modified)) {
            return;
        }
        for (object, _) in own.filter(|(_, role)| *role == Role::Job) {
            self.remove(Phase::Data, object, "of a conversion that did not finish");
        }
    }

    /// Removes what attempts that could still commit have written, if the user says that none is alive.
    fn remove_if_nobody_saves(&mut self) -> bool {
        let nobody_saves = self.policy.older_than.is_zero() && !self.is_busy();
        if nobody_saves {
            for object in self.later_objects() {
                self.remove(Phase::Data, object, "of a save that did not finish");
            }
        }
        nobody_saves
    }

    /// A checkpoint that is to go.
    fn remove_step(&mut self, decided: Option<(u32, bool)>) {
        const REASON: &str = "not among the steps to keep";
        if self.survey.newest != decided {
            self.note("was saved again meanwhile".to_owned());
        } else if self.survey.slots.is_some() {
            self.fence(REASON);
        } else {
            for (object, role) in &self.survey.objects {
                match role {
                    Role::Commit => self.remove(Phase::Commit, object, REASON),
                    Role::Data { .. } | Role::Job => self.remove(Phase::Data, object, REASON),
                    _ => {}
                }
            }
        }
    }

    /// What no event can bring back: attempts whose slot has gone to another, and slots below the newest.
    fn sweep(&mut self, named: &BTreeSet<String>) {
        let newest = self.survey.newest;
        for (object, role) in &self.survey.objects {
            match role {
                Role::Attempt { id, generation } if is_hopeless(*generation, newest, named.contains(id)) => {
                    self.remove(Phase::Data, object, HOPELESS);
                }
                Role::Slot(generation) if newest.is_some_and(|(newest, _)| *generation < newest) => {
                    self.remove(Phase::Slot, object, "a newer slot is filled");
                }
                _ => {}
            }
        }
    }

    /// Fills the next slot, unless somebody may be at work on it.
    fn fence(&mut self, reason: &'static str) {
        if self.is_busy() {
            return self.note_busy();
        }
        let next = next_generation(self.survey.newest, Existing::Supersede);
        let name = next.and_then(|next| Some((next, self.survey.slots?.slot_name(next)?)));
        match name.and_then(|(next, name)| Some((next, self.survey.home.join(&name).ok()?))) {
            Some((next, key)) => self.push(Phase::Fence, Deed::Fence(next), key, 0, reason),
            None => self.note("no slot is left to fence it off with".to_owned()),
        }
    }

    /// Objects of attempts that can still commit.
    fn later_objects(&self) -> impl Iterator<Item = &'a ObjectMeta> + use<'a> {
        let survey = self.survey;
        survey.objects.iter().filter_map(|(object, role)| match role {
            Role::Attempt { generation, .. } => can_commit(survey, *generation).then_some(object),
            _ => None,
        })
    }

    /// Whether somebody may be at work on an attempt that can still commit, as far as locks and ages tell.
    fn is_busy(&self) -> bool {
        let unfinished = self.survey.unfinished.iter();
        let mut later =
            unfinished.filter(|(_, generation)| generation.is_some_and(|it| can_commit(self.survey, it)));
        self.later_objects().any(|object| !self.policy.is_old(object.modified))
            || later.any(|(unfinished, _)| {
                unfinished.writer == WriterState::Alive || !self.policy.is_old(unfinished.modified)
            })
    }

    /// What is not finished is no object: without it, its writer fails, and cannot do harm.
    fn discard(&mut self) {
        for (unfinished, _) in &self.survey.unfinished {
            let (key, byte_len) = (unfinished.key.clone(), unfinished.byte_len.unwrap_or(0));
            let reason = match unfinished.writer {
                WriterState::Dead => "its writer is gone",
                WriterState::Unknown if self.policy.is_old(unfinished.modified) => {
                    "nobody has written it for long"
                }
                WriterState::Alive | WriterState::Unknown => {
                    let name = key.below(&self.survey.home).unwrap_or_default();
                    self.note(format!("{name} is being written, or was recently"));
                    continue;
                }
            };
            self.push(Phase::Data, Deed::Discard(unfinished.clone()), key, byte_len, reason);
        }
    }

    /// The abandoned slot goes last, and late: it is what keeps a request that is under way from making a checkpoint of
    /// what is gone.
    fn tombstone(&mut self) {
        let Some((newest, true)) = self.survey.newest else { return };
        let is_it = |role: &Role| *role == Role::Slot(newest);
        let is_bare = self.survey.objects.iter().all(|(_, role)| is_it(role) || *role == Role::Foreign);
        if !is_bare || !self.survey.unfinished.is_empty() {
            return;
        }
        for (object, _) in self.survey.objects.iter().filter(|(_, role)| is_it(role)) {
            if self.policy.is_old(object.modified) {
                self.remove(Phase::Tombstone, object, "abandoned long ago");
            }
        }
    }

    fn note_foreign(&mut self) {
        let foreign = self.survey.objects.iter().filter(|(_, role)| *role == Role::Foreign);
        let mut names = foreign.map(|(object, _)| object.key.below(&self.survey.home).unwrap_or_default());
        if let Some(first) = names.next() {
            let more = names.count();
            self.note(match more {
                0 => format!("{first} is of no checkpoint, and stays"),
                more => format!("{first} and {more} more are of no checkpoint, and stay"),
            });
        }
    }

    fn note_busy(&mut self) {
        let limit = humantime::format_duration(self.policy.older_than);
        self.note(format!("may be a save in progress: something in it is younger than {limit}"));
    }

    fn note(&mut self, note: String) {
        self.round.notes.push(note);
    }

    fn remove(&mut self, phase: Phase, object: &ObjectMeta, reason: &'static str) {
        self.push(phase, Deed::Remove, object.key.clone(), object.byte_len, reason);
    }

    fn push(&mut self, phase: Phase, deed: Deed, key: Key, byte_len: u64, reason: &'static str) {
        self.round.actions.push(Action { phase, deed, key, byte_len, reason });
    }
}

fn can_commit(survey: &Survey, generation: u32) -> bool {
    !is_hopeless(generation, survey.newest, false)
}
