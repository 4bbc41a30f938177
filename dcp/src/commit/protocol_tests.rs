//! Every sequence of answers that a store can give.

use super::protocol::{
    Answer, Committer, Existing, Found, Outcome, TRIES_MAX, Task, is_hopeless, next_generation,
};

/// The answers to a creation, as [`every_end`] notes them.
const PUT: [&str; 4] = ["PutCreated", "PutExists", "PutRefused", "PutUnclear"];

/// Calls `visit` with every end that can be reached, and the answers that led there.
fn every_end(committer: Committer, answers: &mut Vec<String>, visit: &mut dyn FnMut(Outcome, &[String])) {
    let mut follow = |next: Committer, answer: String, answers: &mut Vec<String>| {
        answers.push(answer);
        every_end(next, answers, visit);
        answers.pop();
    };
    match committer.task() {
        Task::Check => {
            let mut next = committer;
            next.checked();
            follow(next, "checked".to_owned(), answers);
        }
        Task::Put => {
            for answer in [Answer::Created, Answer::Exists, Answer::Refused, Answer::Unclear] {
                let mut next = committer;
                next.answered(answer);
                follow(next, format!("Put{answer:?}"), answers);
            }
        }
        Task::ReadBack | Task::Confirm => {
            for found in [Found::Ours, Found::Other, Found::Abandoned, Found::Nothing, Found::Unclear] {
                let mut next = committer;
                next.found(found);
                follow(next, format!("{found:?}"), answers);
            }
        }
        Task::Done(outcome) => visit(outcome, answers),
    }
}

#[test]
fn every_sequence_of_answers_ends_and_says_what_was_seen_last() {
    let mut ends = 0;
    every_end(Committer::default(), &mut Vec::new(), &mut |outcome, answers| {
        ends += 1;
        assert!(answers.len() <= 1 + 4 * TRIES_MAX as usize, "{answers:?}");
        assert_eq!(answers[0], "checked", "nothing is put before everything is there");
        let puts: Vec<&str> =
            answers.iter().map(String::as_str).filter(|answer| PUT.contains(answer)).collect();
        let ours = ["PutCreated", "Ours"]
            .iter()
            .any(|ours| answers[..answers.len() - 1].iter().any(|answer| answer == ours));
        let expected = match answers.last().map(String::as_str) {
            Some("Ours") => Outcome::Committed,
            Some("Other") => Outcome::Lost,
            Some("Abandoned") => Outcome::Fenced,
            Some("Nothing") if !ours && !puts.contains(&"PutUnclear") => Outcome::Refused,
            _ => Outcome::Unknown,
        };
        assert!(outcome != Outcome::Committed || ours, "not confirmed: {answers:?}");
        assert_eq!(outcome, expected, "{answers:?}");
    });
    assert!(ends > 100, "{ends}");
}

#[test]
fn answers_out_of_turn_change_nothing() {
    let fresh = Committer::default();
    let mut committer = fresh;
    committer.answered(Answer::Created);
    committer.found(Found::Ours);
    assert_eq!(committer, fresh);
}

#[test]
fn an_attempt_takes_the_slot_after_the_newest() {
    for existing in [Existing::Supersede, Existing::Refuse] {
        assert_eq!(next_generation(None, existing), Some(0));
        assert_eq!(next_generation(Some((3, true)), existing), Some(4));
    }
    assert_eq!(next_generation(Some((3, false)), Existing::Supersede), Some(4));
    assert_eq!(next_generation(Some((3, false)), Existing::Refuse), None);
    assert_eq!(next_generation(Some((u32::MAX, true)), Existing::Refuse), None);
}

#[test]
fn hopeless_is_what_an_equal_or_newer_slot_shuts_out() {
    assert!(!is_hopeless(0, None, false), "it may still commit");
    for abandoned in [false, true] {
        let newest = Some((3, abandoned));
        assert!(is_hopeless(2, newest, false) && is_hopeless(3, newest, false));
        assert!(!is_hopeless(4, newest, false), "it may be saving the step again");
    }
    assert!(!is_hopeless(3, Some((3, false)), true), "it is the checkpoint");
}
