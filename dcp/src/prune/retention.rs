//! Which steps of a run stay. Numbers in, answers out.

use std::num::{NonZeroU64, NonZeroUsize};
use std::time::{Duration, SystemTime};

/// What is to stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// So many of the newest complete steps; `None` keeps all steps, and only garbage goes.
    pub keep_latest: Option<NonZeroUsize>,
    /// Every step whose number is a multiple of this.
    pub keep_every: Option<NonZeroU64>,
    /// What a save may still be at work on is left alone until it is so old, by the store's clock. Zero says that nobody
    /// is saving to this run.
    pub older_than: Duration,
    /// The time now.
    pub now: SystemTime,
}

impl Policy {
    /// Whether something last written then is older than the limit. What has no time, or one in the future, is not.
    pub(super) fn is_old(&self, modified: Option<SystemTime>) -> bool {
        let age = modified.and_then(|modified| self.now.duration_since(modified).ok());
        self.older_than.is_zero() || age.is_some_and(|age| age >= self.older_than)
    }
}

/// The choice of steps, asked from the newest to the oldest. Only complete steps count, so that a step that is damaged,
/// unfinished or not understood never takes the place of one that can be loaded.
#[derive(Debug)]
pub(super) struct Retention {
    policy: Policy,
    complete: usize,
}

impl Retention {
    pub(super) fn new(policy: Policy) -> Self {
        Retention { policy, complete: 0 }
    }

    /// Whether the step stays, whatever is in it.
    pub(super) fn keeps(&self, step: u64) -> bool {
        let is_latest = self.policy.keep_latest.is_none_or(|latest| self.complete < latest.get());
        is_latest || self.policy.keep_every.is_some_and(|every| step.is_multiple_of(every.get()))
    }

    /// The step asked for last, which stays, is complete.
    pub(super) fn is_complete(&mut self) {
        self.complete += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(latest: usize, every: Option<u64>) -> Policy {
        Policy {
            keep_latest: NonZeroUsize::new(latest),
            keep_every: every.and_then(NonZeroU64::new),
            older_than: Duration::from_secs(60),
            now: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        }
    }

    /// `(step, whether it is complete)`, the newest first; the steps that stay.
    fn kept(steps: &[(u64, bool)], policy: Policy) -> Vec<u64> {
        let mut retention = Retention::new(policy);
        let mut kept = Vec::new();
        for &(step, complete) in steps {
            if retention.keeps(step) {
                kept.push(step);
                if complete {
                    retention.is_complete();
                }
            }
        }
        kept
    }

    #[test]
    fn later_saves_that_failed_do_not_count() {
        let steps = [(50, false), (40, false), (30, true), (20, false), (10, true)];
        assert_eq!(kept(&steps, policy(1, None)), [50, 40, 30]);
        assert_eq!(kept(&steps, policy(1, Some(20))), [50, 40, 30, 20]);
        assert_eq!(kept(&steps, policy(2, None)), [50, 40, 30, 20, 10]);
        assert_eq!(kept(&steps, policy(0, None)), [50, 40, 30, 20, 10], "no limit");
    }

    proptest! {
        #[test]
        fn the_newest_complete_steps_stay(
            complete in prop::collection::vec(any::<bool>(), 0..20),
            latest in 1usize..5,
            every in prop::option::of(1u64..5),
        ) {
            let mut steps: Vec<(u64, bool)> = (0..).zip(complete).collect();
            steps.reverse();
            let kept = kept(&steps, policy(latest, every));
            let newest: Vec<u64> = steps.iter().filter(|step| step.1).map(|step| step.0).take(latest).collect();
            let oldest = if newest.len() < latest { 0 } else { *newest.last().unwrap() };
            for (step, _) in steps {
                let is_multiple = every.is_some_and(|every| step % every == 0);
                prop_assert_eq!(kept.contains(&step), step >= oldest || is_multiple, "{}", step);
            }
        }
    }

    #[test]
    fn the_future_is_not_old() {
        let policy = policy(1, None);
        let at = |seconds| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
        assert!(policy.is_old(at(940)) && !policy.is_old(at(941)) && !policy.is_old(at(2000)));
        assert!(!policy.is_old(None));
        let nobody_saves = Policy { older_than: Duration::ZERO, ..policy };
        assert!(nobody_saves.is_old(None) && nobody_saves.is_old(at(2000)));
    }
}
