//! Keeps the steps of a run that are wanted, and removes the others and what dead saves left.
//!
//! 1. [`plan`] lists the run, sees which of its newest steps are complete, and says what there is to do. It writes
//!    nothing.
//! 2. [`Plan::run`] does it, step by step. A step that fails does not keep the others.
//!
//! What is provably of no use to anyone goes, whatever the clocks say; `docs/commit-protocol.md`, "Cleaning up", has the
//! argument. Ages decide when to try to shut out a save that looks dead, and when the mark of a removal goes.
//!
//! [`retention`] says which steps stay, [`round`] what to do next in one folder; both are pure.

pub mod retention;
pub mod round;
#[cfg(test)]
mod round_tests;
mod survey;
#[cfg(test)]
mod tests;

pub use retention::Policy;
pub use round::{Action, Condition, Deed, Phase};

use crate::commit::{Step, steps};
use crate::copy::Progress;
use crate::error::{Error, Result};
use crate::format::{Format, step_of};
use crate::storage::{Key, Place, Unfinished};
use crate::threads::{Queue, in_threads, lock};
use retention::Retention;
use round::{Survey, Verdict, next_round};
use std::collections::BTreeMap;
use std::sync::Mutex;
use survey::{inspect, look};

/// Requests at a time: nearly all of the time goes into waiting for the store.
const REQUESTS: usize = 16;
/// Rounds in one folder: two or three, and one more for each save that begins meanwhile.
const ROUNDS_MAX: u32 = 8;

/// What became of a step, or is planned for it.
#[derive(Debug)]
pub struct StepReport {
    /// Its number.
    pub step: u64,
    /// Its folder, as a person names it.
    pub folder: String,
    /// What it held when it was planned; `None` where that could not be told.
    pub condition: Option<Condition>,
    /// Whether it stays, as far as there is anything to keep.
    pub is_kept: bool,
    /// What is done, in order.
    pub actions: Vec<Action>,
    /// What is left alone, and why.
    pub notes: Vec<String>,
    /// What kept the rest from being done.
    pub error: Option<Error>,
}

impl StepReport {
    /// Objects, finished or not, that are removed.
    pub fn removed(&self) -> impl Iterator<Item = &Action> {
        self.actions.iter().filter(|action| !matches!(action.deed, Deed::Fence(_)))
    }

    /// Bytes of what is removed.
    pub fn freed_bytes(&self) -> u64 {
        self.removed().map(|action| action.byte_len).fold(0, u64::saturating_add)
    }
}

/// What is to be done in a run.
#[derive(Debug)]
pub struct Plan {
    policy: Policy,
    steps: Vec<Planned>,
    notes: Vec<String>,
}

#[derive(Debug)]
struct Planned {
    step: Step,
    unfinished: Vec<Unfinished>,
    /// `None` where the step could not be looked at.
    survey: Option<Survey>,
    verdict: Verdict,
    report: StepReport,
}

/// Plans. Writes nothing.
///
/// Errors: [`Error::Usage`] where there are no steps; what listing the run gives. What goes wrong within a step is in its
/// report.
pub fn plan(run: &Place, policy: Policy) -> Result<Plan> {
    let mut notes = Vec::new();
    let mut unfinished = unfinished(run, &mut notes)?;
    let mut steps = steps(run)?;
    // Folders of which an object store knows nothing but what was begun.
    for key in unfinished
        .keys()
        .filter(|key| !steps.iter().any(|step| step.place.key == **key))
        .cloned()
        .collect::<Vec<_>>()
    {
        let Some(number) = step_of(key.name()) else { continue };
        steps.push(Step { number, place: Place { store: run.store.clone(), key } });
    }
    if steps.is_empty() {
        let root = run.display();
        return Err(Error::Usage(format!(
            "{root}: no steps; name the folder that holds the folders `step-NUMBER`"
        )));
    }
    steps.sort_by_key(|step| std::cmp::Reverse(step.number));
    let steps: Vec<_> = steps
        .into_iter()
        .map(|step| {
            let unfinished = unfinished.remove(&step.place.key).unwrap_or_default();
            (step, unfinished)
        })
        .collect();
    let looks = in_parallel(&steps, |(step, unfinished)| look(&step.place, unfinished));
    let mut retention = Retention::new(policy);
    let planned = steps.into_iter().zip(looks);
    let steps = planned
        .map(|((step, unfinished), look)| Planned::new(step, unfinished, look, &mut retention, &policy));
    Ok(Plan { policy, steps: steps.collect(), notes })
}

/// What writers have not finished, by the step's folder it is in.
fn unfinished(run: &Place, notes: &mut Vec<String>) -> Result<BTreeMap<Key, Vec<Unfinished>>> {
    let mut by_step: BTreeMap<Key, Vec<Unfinished>> = BTreeMap::new();
    let listed = match run.store.unfinished(&run.key) {
        Err(error @ Error::UnfinishedUnlisted { .. }) => {
            notes.push(error.to_string());
            Vec::new()
        }
        listed => listed?,
    };
    for unfinished in listed {
        let folder =
            unfinished.key.below(&run.key).and_then(|name| name.split_once('/')).map(|(folder, _)| folder);
        match folder.filter(|folder| step_of(folder).is_some()) {
            Some(folder) => by_step.entry(run.key.join(folder)?).or_default().push(unfinished),
            None => notes.push(format!("{} is unfinished and of no step, and stays", unfinished.key)),
        }
    }
    Ok(by_step)
}

impl Planned {
    fn new(
        step: Step,
        unfinished: Vec<Unfinished>,
        look: Result<Survey>,
        retention: &mut Retention,
        policy: &Policy,
    ) -> Self {
        let is_kept = retention.keeps(step.number);
        let looked = look.and_then(|mut survey| {
            if is_kept && survey.condition == Condition::Saved {
                survey.condition = inspect(&step.place)?;
            }
            Ok(survey)
        });
        let mut report = StepReport {
            step: step.number,
            folder: step.place.display(),
            condition: None,
            is_kept,
            actions: Vec::new(),
            notes: Vec::new(),
            error: None,
        };
        let (survey, verdict) = match looked {
            Err(error) => {
                report.error = Some(error);
                (None, Verdict::Keep)
            }
            Ok(survey) => {
                if let Condition::Complete { .. } = survey.condition {
                    retention.is_complete();
                }
                let newest = survey.newest;
                let verdict = if is_kept { Verdict::Keep } else { Verdict::Remove { newest } };
                report.condition = Some(survey.condition.clone());
                (report.actions, report.notes) = foresee(survey.clone(), verdict, policy);
                (Some(survey), verdict)
            }
        };
        Planned { step, unfinished, survey, verdict, report }
    }

    /// Does it, as far as it goes.
    fn run(mut self, policy: &Policy, progress: &dyn Progress) -> StepReport {
        (self.report.actions, self.report.notes) = (Vec::new(), Vec::new());
        if let Some(survey) = self.survey.take() {
            let done = self.rounds(survey, policy, progress);
            self.report.error = done.err();
        }
        self.report
    }

    fn rounds(&mut self, mut survey: Survey, policy: &Policy, progress: &dyn Progress) -> Result<()> {
        for _ in 0..ROUNDS_MAX {
            let mut round = next_round(&survey, self.verdict, policy);
            let fences = |action: &Action| action.phase == Phase::Fence;
            if survey.condition == Condition::Unsaved && round.actions.iter().any(fences) {
                survey.is_exclusive = self.step.place.store.creates_exclusively(&self.step.place.key)?;
                round = next_round(&survey, self.verdict, policy);
            }
            self.report.notes = round.notes;
            if round.actions.is_empty() {
                return Ok(());
            }
            self.perform(&round.actions, survey.slots, progress)?;
            if is_last(&survey) {
                return Ok(());
            }
            survey = look(&self.step.place, &self.unfinished)?;
        }
        self.report.notes.push("more is left, since saves went on meanwhile; prune again".to_owned());
        Ok(())
    }

    /// Does what a round says, one phase after the other.
    fn perform(
        &mut self,
        actions: &[Action],
        slots: Option<&'static dyn Format>,
        progress: &dyn Progress,
    ) -> Result<()> {
        let store = &self.step.place.store;
        for phase in actions.chunk_by(|a, b| a.phase == b.phase) {
            let results = in_parallel(phase, |action| {
                let is_done = match &action.deed {
                    Deed::Remove => store.remove(&action.key)?,
                    Deed::Discard(unfinished) => store.discard(unfinished).map(|()| true)?,
                    Deed::Fence(generation) => {
                        let bytes = slots.and_then(|slots| slots.abandoned(*generation)).unwrap_or_default();
                        match store.put(&action.key, &bytes) {
                            // The next look tells what fills the slot; the reply may just have been lost.
                            Err(Error::AlreadyExists { .. }) => false,
                            put => put.map(|()| true)?,
                        }
                    }
                };
                progress.advance(action.byte_len);
                Ok(is_done)
            });
            let mut failed = Ok(());
            for (action, result) in phase.iter().zip(results) {
                match result {
                    Ok(true) => self.report.actions.push(action.clone()),
                    Ok(false) => {}
                    Err(error) => failed = failed.and(Err(error)),
                }
            }
            failed?;
            let discarded =
                |it: &Unfinished| phase.iter().any(|action| action.deed == Deed::Discard(it.clone()));
            self.unfinished.retain(|it| !discarded(it));
        }
        Ok(())
    }
}

/// Whether a folder needs no second look: in one that stays nothing is fenced.
fn is_last(survey: &Survey) -> bool {
    matches!(survey.condition, Condition::Complete { .. } | Condition::Damaged(_))
}

/// What the rounds of a folder come to if nobody else does anything.
fn foresee(mut survey: Survey, verdict: Verdict, policy: &Policy) -> (Vec<Action>, Vec<String>) {
    let (mut actions, mut notes) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS_MAX {
        let round = next_round(&survey, verdict, policy);
        notes = round.notes;
        if round.actions.is_empty() {
            break;
        }
        let is_last = is_last(&survey);
        survey = survey.after(&round.actions, policy.now);
        actions.extend(round.actions);
        if is_last {
            break;
        }
    }
    (actions, notes)
}

impl Plan {
    /// What is planned for each step, the newest first.
    pub fn steps(&self) -> impl Iterator<Item = &StepReport> {
        self.steps.iter().map(|planned| &planned.report)
    }

    /// The same, for those who wanted to know no more.
    pub fn into_steps(self) -> Vec<StepReport> {
        self.steps.into_iter().map(|planned| planned.report).collect()
    }

    /// What is left alone outside the steps, and why.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bytes that go, as the listener to [`Plan::run`] is told of.
    pub fn freed_bytes(&self) -> u64 {
        self.steps().map(StepReport::freed_bytes).fold(0, u64::saturating_add)
    }

    /// Does it, the oldest step first. What goes wrong is in the report of its step.
    pub fn run(self, progress: &dyn Progress) -> Vec<StepReport> {
        let Plan { policy, steps, .. } = self;
        let mut reports: Vec<_> =
            steps.into_iter().rev().map(|planned| planned.run(&policy, progress)).collect();
        reports.reverse();
        reports
    }
}

/// Results of `work`, in the order of the items; several requests at a time.
fn in_parallel<T: Sync, R: Send>(items: &[T], work: impl Fn(&T) -> Result<R> + Sync) -> Vec<Result<R>> {
    let queue = Queue::new(items.iter().enumerate());
    let results: Mutex<Vec<_>> = Mutex::new(items.iter().map(|_| Err(Error::Interrupted)).collect());
    let worked = in_threads(REQUESTS.min(items.len()), &|| {
        while let Some((index, item)) = queue.next() {
            let result = work(item);
            lock(&results)[index] = result;
        }
        Ok(())
    });
    debug_assert!(worked.is_ok());
    results.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())
}
