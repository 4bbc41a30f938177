//! The protocol holds, and the simulator would see if it did not.

use super::{Event, Fault, Invariant, Outcome, Settings, Variant, run, run_all};

/// Seeds of the normal run; `cargo xtask sim` runs more.
const SEEDS: u64 = 2_000;

#[test]
fn no_seed_breaks_the_protocol() {
    let (tally, violation) = run_all(SEEDS, Settings::default());
    assert_eq!(violation, None);
    assert_eq!(tally.seeds, SEEDS);
    for (fault, count) in Fault::ALL.iter().zip(tally.faults) {
        assert!(count > 0, "{fault:?} was never tried");
    }
    for (outcome, count) in Outcome::ALL.iter().zip(tally.outcomes) {
        assert!(count > 0, "nothing ended as {outcome:?}");
    }
}

#[test]
fn every_mistake_is_seen() {
    for (variant, expected) in [
        (Variant::ManifestFirst, &[Invariant::NewestIsWhole][..]),
        (Variant::ExistsIsLost, &[Invariant::TellsTheTruth]),
        (Variant::PruneWithoutFence, &[Invariant::NewestIsWhole, Invariant::PruneSparesNewest]),
        (Variant::PruneAnyGeneration, &[Invariant::NewestIsWhole, Invariant::PruneSparesNewest]),
        (Variant::Unconfirmed, &[Invariant::TellsTheTruth, Invariant::OneWins]),
        (Variant::OpenIsRefused, &[Invariant::TellsTheTruth]),
        (Variant::SharedNames, &[Invariant::NewestIsWhole, Invariant::PruneSparesNewest]),
    ] {
        let (before, Some(violation)) = run_all(SEEDS, Settings { variant, ..Settings::default() }) else {
            panic!("{variant:?} was not caught");
        };
        assert!(expected.contains(&violation.invariant), "{variant:?}: {violation:?}");
        assert_eq!(violation.seed, before.seeds, "{variant:?}");
    }
}

#[test]
fn a_seed_replays_event_by_event() {
    let replay = |seed| {
        let mut events = Vec::new();
        let tally = run(seed, Settings::default(), &mut |number, event: &Event| {
            events.push(format!("{number} {event}"));
        });
        (tally.unwrap(), events)
    };
    for seed in 0..20 {
        let (first, second) = (replay(seed), replay(seed));
        assert!(first.1.len() > 10);
        assert_eq!(first, second);
    }
    assert_ne!(replay(1).1, replay(2).1);
}
