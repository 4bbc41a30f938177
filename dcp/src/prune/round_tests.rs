//! Folders in every state that saves, removals and strangers can leave: what is never touched, and that it ends.

use super::retention::Policy;
use super::round::*;
use crate::commit::protocol::{Existing, is_hopeless, next_generation};
use crate::format::by_name;
use crate::storage::{Key, ObjectMeta, Unfinished, WriterState};
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

const LIMIT: Duration = Duration::from_secs(60);

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + 10 * LIMIT
}

fn object(name: &str, is_old: bool) -> ObjectMeta {
    let modified = if is_old { SystemTime::UNIX_EPOCH } else { now() };
    ObjectMeta { key: Key::new(name).unwrap(), byte_len: 1, modified: Some(modified) }
}

/// An attempt: its slot, whether it is old, whether it has an object, and an unfinished one whose writer is so.
type Try = (u32, bool, bool, Option<WriterState>);

fn attempts() -> impl Strategy<Value = Vec<Try>> {
    let writer = prop_oneof![Just(WriterState::Alive), Just(WriterState::Dead), Just(WriterState::Unknown)];
    prop::collection::vec((0u32..4, any::<bool>(), any::<bool>(), prop::option::of(writer)), 0..5)
}

/// A folder. Of the checkpoint, where there is one, is the first attempt of the newest slot.
fn folder(slots: &[bool], is_abandoned: bool, attempts: &[Try], is_exclusive: bool) -> Survey {
    let newest = slots.iter().rposition(|filled| *filled).map(|newest| (newest as u32, is_abandoned));
    let slot = |(number, filled): (usize, &bool)| {
        filled.then(|| (object(&format!("slot-{number}"), true), Role::Slot(number as u32)))
    };
    let mut objects: Vec<_> = slots.iter().enumerate().filter_map(slot).collect();
    objects.push((object("notes.txt", true), Role::Foreign));
    let (mut unfinished, mut named) = (Vec::new(), BTreeSet::new());
    for (number, &(generation, is_old, has_object, writer)) in attempts.iter().enumerate() {
        let (id, name) = (number.to_string(), format!("{number}/object"));
        if newest == Some((generation, false)) && named.is_empty() {
            named.insert(id.clone());
        }
        if has_object {
            objects.push((object(&name, is_old), Role::Attempt { id, generation }));
        }
        if let Some(writer) = writer {
            let ObjectMeta { key, modified, .. } = object(&format!("{name}-2"), is_old);
            let left = Unfinished { key, id: name, byte_len: None, modified, writer };
            unfinished.push((left, Some(generation)));
        }
    }
    Survey {
        home: Key::root(),
        condition: match newest {
            Some((_, false)) => Condition::Complete { attempts: named },
            _ => Condition::Unsaved,
        },
        newest,
        objects,
        unfinished,
        slots: Some(by_name("titan").unwrap()),
        is_exclusive,
    }
}

/// What no round may do, whatever it was to achieve.
fn check(survey: &Survey, round: &Round, verdict: Verdict, policy: &Policy) -> Result<(), TestCaseError> {
    let is_kept = verdict == Verdict::Keep && survey.condition != Condition::Unsaved;
    for action in &round.actions {
        let role = survey.objects.iter().find(|(object, _)| object.key == action.key).map(|(_, role)| role);
        match (&action.deed, role) {
            (Deed::Fence(slot), None) => {
                prop_assert!(!is_kept, "a checkpoint that stays is taken away");
                prop_assert_eq!(Some(*slot), next_generation(survey.newest, Existing::Supersede));
                prop_assert!(survey.is_exclusive || survey.condition != Condition::Unsaved);
                let later = |generation: u32| !is_hopeless(generation, survey.newest, false);
                for (object, role) in &survey.objects {
                    let is_later = matches!(role, Role::Attempt { generation, .. } if later(*generation));
                    prop_assert!(!is_later || policy.is_old(object.modified), "a young save is shut out");
                }
                for (unfinished, generation) in &survey.unfinished {
                    let is_over =
                        unfinished.writer != WriterState::Alive && policy.is_old(unfinished.modified);
                    prop_assert!(is_over || !generation.is_some_and(later), "a save at work is shut out");
                }
            }
            (Deed::Remove, Some(Role::Slot(slot))) => match survey.newest {
                Some((newest, is_abandoned)) if newest == *slot => {
                    prop_assert!(is_abandoned && action.phase == Phase::Tombstone);
                    let others = survey.objects.iter().filter(|(object, _)| object.key != action.key);
                    prop_assert!(others.clone().all(|(_, role)| *role == Role::Foreign), "it goes last");
                    prop_assert!(survey.unfinished.is_empty());
                }
                newest => prop_assert!(newest.is_some_and(|(newest, _)| *slot < newest)),
            },
            (Deed::Remove, Some(Role::Attempt { id, generation })) => {
                let named =
                    matches!(&survey.condition, Condition::Complete { attempts } if attempts.contains(id));
                prop_assert!(!named, "live data");
                let nobody_saves = policy.older_than.is_zero();
                prop_assert!(nobody_saves || is_hopeless(*generation, survey.newest, named), "it may commit");
            }
            (Deed::Discard(unfinished), None) => {
                prop_assert!(unfinished.writer != WriterState::Alive);
                let is_sure = unfinished.writer == WriterState::Dead;
                prop_assert!(is_sure || policy.is_old(unfinished.modified));
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_folder_loses_garbage_and_nothing_else(
        slots in prop::collection::vec(any::<bool>(), 0..4),
        attempts in attempts(),
        (is_abandoned, is_exclusive, removes, nobody_saves) in any::<(bool, bool, bool, bool)>(),
    ) {
        let mut survey = folder(&slots, is_abandoned, &attempts, is_exclusive);
        let older_than = if nobody_saves { Duration::ZERO } else { LIMIT };
        let policy = Policy { keep_latest: None, keep_every: None, older_than, now: now() };
        let newest = survey.newest;
        let verdict = if removes { Verdict::Remove { newest } } else { Verdict::Keep };
        let is_kept = !removes && survey.condition != Condition::Unsaved;
        for rounds in 0.. {
            prop_assert!(rounds <= 8, "it does not end");
            let round = next_round(&survey, verdict, &policy);
            check(&survey, &round, verdict, &policy)?;
            prop_assert!(round.actions.is_sorted_by_key(|action| action.phase));
            if round.actions.is_empty() {
                break;
            }
            survey = survey.after(&round.actions, policy.now);
        }
        let alive = attempts.iter().any(|attempt| attempt.3 == Some(WriterState::Alive));
        let left = survey.objects.iter().filter(|(_, role)| *role != Role::Foreign).count();
        if nobody_saves && !alive {
            let of_checkpoint = usize::from(is_kept) * (1 + attempts.iter().enumerate().filter(|(number, attempt)| {
                let id = number.to_string();
                attempt.2 && matches!(&survey.condition, Condition::Complete { attempts } if attempts.contains(&id))
            }).count());
            prop_assert_eq!(left, of_checkpoint, "garbage is left: {:?}", survey);
        }
    }
}
