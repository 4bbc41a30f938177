//! A campaign sees what it is there to see.

use super::job::{Job, Said};
use super::*;
use dcp::commit::steps;
use dcp::coordinate::threads;
use dcp::format::by_name;
use dcp::save::{SaveOptions, Saver};
use std::sync::Arc;

/// Saves a step of a lane's run; rank 3 has the state of another.
fn save(lane: &Lane<'_>, step: u64, of_rank_3: u64) {
    std::thread::scope(|scope| {
        for (rank, coordinator) in (0..).zip(threads(RANKS, Duration::from_secs(20))) {
            let options =
                SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(by_name("titan").unwrap()) };
            let mut saver = Saver::new(lane.run.clone(), options, Arc::new(coordinator)).unwrap();
            scope.spawn(move || {
                let mut saved = state(rank, if rank == 3 { of_rank_3 } else { step });
                // Of the values there is one for all ranks.
                saved.values = state(0, step).values;
                saver.save(step, saved).unwrap().wait_done().unwrap();
            });
        }
    });
}

fn on_disk(test: impl FnOnce(&mut Lane<'_>)) {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().to_str().unwrap();
    let campaign = Campaign { program: Path::new("none"), url, environment: &[], kills: 0, seed: 1 };
    test(&mut Lane::new(&campaign, 0).unwrap());
}

#[test]
fn what_is_lost_is_counted() {
    on_disk(|lane| {
        lane.look(0, true).unwrap();
        assert_eq!(lane.seen, Seen { left_nothing: 1, ..Seen::default() });
        lane.look(1, true).unwrap();
        assert_eq!(lane.seen.lost, 1);
        save(lane, 4, 4);
        lane.look(4, true).unwrap();
        assert_eq!((lane.seen.lost, lane.seen.saves, lane.newest), (1, 4, 4));
        lane.look(5, true).unwrap();
        assert_eq!(lane.seen.lost, 2);
        // A step that was seen, and is gone.
        save(lane, 7, 7);
        lane.look(0, true).unwrap();
        assert_eq!((lane.seen.lost, lane.seen.left_committed), (2, 1));
        lane.prune(Duration::ZERO).unwrap();
        assert!(lane.seen.pruned > 0);
        let left: Vec<u64> = steps(&lane.run).unwrap().iter().map(|step| step.number).collect();
        assert_eq!(left, [7]);
        for object in lane.run.store.list(&lane.run.key).unwrap() {
            lane.run.store.remove(&object.key).unwrap();
        }
        lane.look(0, true).unwrap();
        assert_eq!((lane.seen.lost, lane.seen.mixed), (3, 0));
    });
}

#[test]
fn what_is_of_two_steps_is_counted() {
    on_disk(|lane| {
        save(lane, 1, 2);
        lane.look(1, true).unwrap();
        assert_eq!((lane.seen.mixed, lane.seen.lost), (1, 0));
    });
}

#[test]
fn what_was_left_is_told_by_its_names() {
    on_disk(|lane| {
        save(lane, 1, 1);
        let put = |lane: &Lane<'_>, name: &str| {
            let key = lane.run.key.join("step-2").unwrap().join(name).unwrap();
            lane.run.store.put(&key, b"some").unwrap();
        };
        lane.look(1, true).unwrap();
        put(lane, "a/r00000-0000.safetensors");
        lane.look(1, true).unwrap();
        put(lane, "b/r00001-0000.safetensors");
        put(lane, "b/r00001.part.json");
        lane.look(1, true).unwrap();
        // Nothing that was not there before.
        lane.look(1, true).unwrap();
        let Seen { left_nothing, left_objects, left_records, left_committed, .. } = lane.seen;
        assert_eq!((left_nothing, left_objects, left_records, left_committed), (2, 1, 1, 0));
    });
}

/// Starts `sh` on a script in place of the program, whose first argument it takes for the script.
fn script(text: &str, test: impl FnOnce(Result<Job, Failure>)) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("script");
    std::fs::write(&path, text).unwrap();
    test(Job::start(Path::new("sh"), path.to_str().unwrap(), &[], "job", 1));
}

#[test]
fn survivors_that_do_not_end_are_seen_and_killed() {
    let text = "echo serving here; echo committed $((7 + $1)); echo saving 1; exec sleep 600";
    script(text, |job| {
        let mut job = job.unwrap();
        job.wait_for(|said| *said == Said::Saving(1)).unwrap();
        job.kill(&[2]).unwrap();
        assert!(job.wait(Duration::from_millis(300)).unwrap().is_none());
        let (committed, _) = job.last_words();
        assert!(committed >= 7, "{committed}");
    });
}

#[test]
fn a_rank_that_ends_before_a_kill_is_an_error() {
    script("echo serving here; echo why >&2; exit 1", |job| {
        let error = job.and_then(|mut job| job.wait_for(|said| *said == Said::Saving(1))).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    });
}
