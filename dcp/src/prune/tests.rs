//! Runs with saves that are whole, dead, damaged, old and young; what stays of them.

use super::*;
use crate::commit::protocol::Existing;
use crate::commit::{begin, newest_slot};
use crate::coordinate::Alone;
use crate::format::{self, Attempt, Slot};
use crate::load::newest_complete;
use crate::model::{DType, TensorSpec};
use crate::save::{HostMemory, SaveOptions, Saver, State, StateTensor};
use crate::storage::faulty::{Fault, Faults, FaultyStore};
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryStore;
use crate::storage::{ObjectMeta, Storage};
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

const HOUR: Duration = Duration::from_secs(3600);

#[expect(clippy::disallowed_methods, reason = "objects are as old as the store's clock says")]
fn now() -> SystemTime {
    SystemTime::now()
}

fn run_in(store: &Arc<dyn Storage>) -> Place {
    Place { store: store.clone(), key: Key::new("run").unwrap() }
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStore::new())
}

/// A store on which time can be made to pass, and on which create-if-absent may not hold.
#[derive(Debug)]
struct Odd {
    inner: Arc<dyn Storage>,
    is_exclusive: bool,
    jumps: Mutex<Vec<(SystemTime, Duration)>>,
}

impl Odd {
    fn new(is_exclusive: bool) -> Arc<Self> {
        Arc::new(Odd { inner: memory(), is_exclusive, jumps: Mutex::default() })
    }

    /// What was written so far is so much older.
    fn pass(&self, duration: Duration) {
        std::thread::sleep(Duration::from_millis(2));
        lock(&self.jumps).push((now(), duration));
    }

    fn aged(&self, modified: SystemTime) -> SystemTime {
        let jumps = lock(&self.jumps);
        modified - jumps.iter().filter(|jump| jump.0 >= modified).map(|jump| jump.1).sum::<Duration>()
    }
}

impl Storage for Odd {
    fn display(&self, key: &Key) -> String {
        self.inner.display(key)
    }
    fn list(&self, prefix: &Key) -> Result<Vec<ObjectMeta>> {
        let mut listed = self.inner.list(prefix)?;
        for object in &mut listed {
            object.modified = object.modified.map(|modified| self.aged(modified));
        }
        Ok(listed)
    }
    fn list_prefixes(&self, prefix: &Key) -> Result<Vec<Key>> {
        self.inner.list_prefixes(prefix)
    }
    fn head(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.head(key)
    }
    fn open(&self, key: &Key) -> Result<Arc<dyn crate::storage::ReadAt>> {
        self.inner.open(key)
    }
    fn create(&self, key: &Key, byte_len: Option<u64>) -> Result<Box<dyn crate::storage::ObjectWriter>> {
        self.inner.create(key, byte_len)
    }
    fn unfinished(&self, prefix: &Key) -> Result<Vec<Unfinished>> {
        self.inner.unfinished(prefix)
    }
    fn discard(&self, unfinished: &Unfinished) -> Result<()> {
        self.inner.discard(unfinished)
    }
    fn creates_exclusively(&self, _: &Key) -> Result<bool> {
        Ok(self.is_exclusive)
    }
    fn remove(&self, key: &Key) -> Result<bool> {
        self.inner.remove(key)
    }
    fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes()
    }
}

/// One rank saves `seed` in a tensor.
fn save_as(run: &Place, step: u64, seed: u8, format: &str) -> Result<()> {
    let spec = TensorSpec::new(DType::U8, [100]);
    let local = Some(Arc::new(HostMemory::new(vec![seed; 100])) as _);
    let tensor = StateTensor { fqn: "w".into(), spec, path: Vec::new(), placements: Vec::new(), local };
    let options = SaveOptions { memory_bytes_max: 64 << 20, ..SaveOptions::new(format::by_name(format)?) };
    let mut saver = Saver::new(run.clone(), options, Arc::new(Alone))?;
    let state = State { mesh: None, tensors: vec![tensor], values: Vec::new() };
    saver.save(step, state)?.wait_done().map(drop)
}

fn save(run: &Place, step: u64) {
    save_as(run, step, step as u8, "titan").unwrap();
}

fn policy(latest: usize) -> Policy {
    Policy { keep_latest: NonZeroUsize::new(latest), keep_every: None, older_than: 24 * HOUR, now: now() }
}

fn nobody_saves(latest: usize) -> Policy {
    Policy { older_than: Duration::ZERO, ..policy(latest) }
}

/// Prunes; everything that is planned must be done, and nothing else.
fn prune(run: &Place, policy: Policy) -> Vec<StepReport> {
    let plan = plan(run, policy).unwrap();
    let told = |report: &StepReport| {
        let mut told: Vec<_> =
            report.actions.iter().map(|it| (it.phase, it.key.clone(), it.byte_len)).collect();
        told.sort();
        (report.step, told, report.notes.clone())
    };
    let foreseen: Vec<_> = plan.steps().map(told).collect();
    let reports = plan.run(&());
    assert_eq!(reports.iter().map(told).collect::<Vec<_>>(), foreseen);
    for report in &reports {
        assert!(report.error.is_none(), "{report:?}");
    }
    reports
}

fn names(run: &Place) -> Vec<String> {
    let listed = run.store.list(&run.key).unwrap();
    listed.iter().map(|object| object.key.below(&run.key).unwrap().to_owned()).collect()
}

fn folders(run: &Place) -> Vec<String> {
    let mut folders: Vec<_> =
        names(run).iter().map(|name| name.split('/').next().unwrap().to_owned()).collect();
    folders.dedup();
    folders
}

fn place_of(run: &Place, step: u64) -> Place {
    Place { store: run.store.clone(), key: run.key.join(&format!("step-{step}")).unwrap() }
}

/// What a save of a step that died leaves: an object of an attempt.
fn leave_dead(run: &Place, step: u64) -> Attempt {
    let place = place_of(run, step);
    let attempt = begin(&place, format::by_name("titan").unwrap(), Existing::Supersede).unwrap();
    let key = place.key.join(&format!("{}/r00000-0000.safetensors", attempt.id)).unwrap();
    run.store.put(&key, b"half a state").unwrap();
    attempt
}

#[test]
fn the_newest_complete_steps_and_the_milestones_stay() {
    for format in ["titan", "dcp"] {
        let run = run_in(&memory());
        for step in 1..=9 {
            save_as(&run, step, step as u8, format).unwrap();
        }
        let every_four = Policy { keep_every: NonZeroU64::new(4), ..nobody_saves(2) };
        let reports = prune(&run, every_four);
        assert_eq!(folders(&run), ["step-4", "step-8", "step-9"], "{format}");
        let removed: Vec<u64> = reports.iter().filter(|it| !it.is_kept).map(|it| it.step).collect();
        assert_eq!(removed, [7, 6, 5, 3, 2, 1]);
        assert!(reports.iter().all(|it| it.is_kept == (it.freed_bytes() == 0)), "{reports:?}");
        assert_eq!(newest_complete(&run, None).unwrap().step, 9);
        assert!(prune(&run, every_four).iter().all(|it| it.actions.is_empty()));
    }
}

/// Later saves fail in every way there is; the last complete step stays, and nothing is put in its place.
#[test]
fn the_newest_complete_step_stays_when_later_saves_fail() {
    let store = memory();
    let run = run_in(&store);
    save(&run, 10);
    save(&run, 20);
    // Died before its commit.
    leave_dead(&run, 30);
    // Committed, and an object lost.
    save(&run, 40);
    let lost = names(&run).into_iter().find(|it| it.starts_with("step-40/") && it.ends_with("0.safetensors"));
    assert!(store.remove(&run.key.join(&lost.unwrap()).unwrap()).unwrap());
    // A manifest that is cut.
    save(&run, 50);
    let slot = run.key.join("step-50/titan-0000.json").unwrap();
    let bytes = store.get(&slot, 1 << 20).unwrap();
    assert!(store.remove(&slot).unwrap());
    store.put(&slot, &bytes[..bytes.len() / 2]).unwrap();
    // Fails at each of its operations.
    for (step, operation) in (60..).zip(0..30) {
        let faults = Faults::at(operation, Fault::DieTorn);
        let dying: Arc<dyn Storage> = Arc::new(FaultyStore::new(store.clone(), &faults));
        let saved = save_as(&run_in(&dying), step, 0, "titan");
        if faults.hits().is_empty() {
            saved.unwrap();
            break;
        }
        let newest = newest_complete(&run, None).unwrap().step;
        prune(&run, nobody_saves(1));
        assert_eq!(newest_complete(&run, None).unwrap().step, newest);
        assert!(folders(&run).contains(&format!("step-{newest}")), "{:?}", folders(&run));
    }
    prune(&run, nobody_saves(1));
    let [last] = &folders(&run)[..] else { panic!("{:?}", folders(&run)) };
    assert_eq!(last.as_str(), format!("step-{}", newest_complete(&run, None).unwrap().step));
}

#[test]
fn a_damaged_step_counts_for_nothing_and_goes_with_the_steps_around_it() {
    let run = run_in(&memory());
    for step in 1..=3 {
        save(&run, step);
    }
    let data = names(&run).into_iter().find(|it| it.starts_with("step-3/") && it.contains("r00000-0000"));
    assert!(run.store.remove(&run.key.join(&data.unwrap()).unwrap()).unwrap());
    let reports = prune(&run, nobody_saves(1));
    assert_eq!(folders(&run), ["step-2", "step-3"]);
    assert!(matches!(reports[0].condition, Some(Condition::Damaged(_))));
    assert!(reports[0].notes[0].starts_with("damaged: "), "{reports:?}");
    save(&run, 4);
    prune(&run, nobody_saves(1));
    assert_eq!(folders(&run), ["step-4"]);
}

#[test]
fn dead_saves_are_left_alone_until_they_are_old() {
    let store = Odd::new(true);
    let run = run_in(&(store.clone() as _));
    let titan = format::by_name("titan").unwrap();
    save(&run, 1);
    leave_dead(&run, 2);
    store.pass(25 * HOUR);
    // One that is young keeps the old one beside it: one fence would shut out both.
    leave_dead(&run, 2);
    let reports = prune(&run, policy(1));
    assert_eq!(reports[0].notes, ["may be a save in progress: something in it is younger than 1day"]);
    assert_eq!(names(&run).iter().filter(|it| it.starts_with("step-2/")).count(), 2);
    store.pass(25 * HOUR);
    prune(&run, policy(1));
    // The mark stays a day, by which a save that only seemed dead is told.
    assert_eq!(newest_slot(&place_of(&run, 2), titan).unwrap(), Some((0, Slot::Abandoned)));
    assert_eq!(names(&run).iter().filter(|it| it.starts_with("step-2/")).count(), 1);
    store.pass(23 * HOUR);
    prune(&run, policy(1));
    assert_eq!(folders(&run), ["step-1", "step-2"]);
    store.pass(HOUR);
    prune(&run, policy(1));
    assert_eq!(folders(&run), ["step-1"]);
}

#[test]
fn what_a_later_save_of_a_step_replaced_goes_at_once() {
    let store = Odd::new(true);
    let run = run_in(&(store.clone() as _));
    save(&run, 1);
    leave_dead(&run, 1);
    leave_dead(&run, 1);
    save_as(&run, 1, 9, "titan").unwrap();
    let before = names(&run);
    prune(&run, policy(1));
    // Of one save: slot, record, object.
    assert_eq!((before.len(), names(&run).len()), (8, 3), "{:?}", names(&run));
    assert_eq!(newest_complete(&run, None).unwrap().step, 1);
    // What may yet take its place does not go, unless nobody saves.
    leave_dead(&run, 1);
    store.pass(99 * HOUR);
    let reports = prune(&run, policy(1));
    assert!(reports[0].notes[0].contains("may yet finish"), "{reports:?}");
    assert_eq!(names(&run).len(), 4);
    prune(&run, nobody_saves(1));
    assert_eq!(names(&run).len(), 3);
    assert_eq!(newest_complete(&run, None).unwrap().step, 1);
}

/// Between the look and the deed a save of the step commits: it stays.
#[test]
fn a_save_that_is_faster_wins() {
    let run = run_in(&memory());
    save(&run, 1);
    save(&run, 2);
    let plan = plan(&run, policy(1)).unwrap();
    save_as(&run, 1, 9, "titan").unwrap();
    let reports = plan.run(&());
    assert!(reports[1].notes[0].contains("again meanwhile"), "{reports:?}");
    assert_eq!(folders(&run), ["step-1", "step-2"]);
}

#[test]
fn strangers_stay_and_are_told() {
    let run = run_in(&memory());
    save(&run, 1);
    save(&run, 2);
    for name in
        ["step-1/notes.txt", "step-1/0000/r00000-0000.safetensors", "step-3/model/x", "tokenizer.json"]
    {
        run.store.put(&run.key.join(name).unwrap(), b"mine").unwrap();
    }
    let reports = prune(&run, nobody_saves(1));
    assert_eq!(
        names(&run).iter().filter(|it| !it.starts_with("step-2/")).collect::<Vec<_>>(),
        ["step-1/0000/r00000-0000.safetensors", "step-1/notes.txt", "step-3/model/x", "tokenizer.json"]
    );
    assert_eq!(
        reports[2].notes.last().unwrap(),
        "0000/r00000-0000.safetensors and 1 more are of no checkpoint, and stay"
    );
}

#[test]
fn only_a_run_can_be_pruned() {
    let run = run_in(&memory());
    save(&run, 1);
    for place in [place_of(&run, 1), place_of(&run, 7)] {
        assert!(matches!(plan(&place, nobody_saves(1)), Err(Error::Usage(_))));
    }
}

/// A step of a later version, or that the store does not show, neither counts nor goes; the others are pruned.
#[test]
fn a_step_that_is_not_understood_is_not_touched() {
    let run = run_in(&memory());
    for step in 1..=4 {
        save(&run, step);
    }
    let slot = run.key.join("step-4/titan-0001.json").unwrap();
    let manifest = br#"{"format":"titan","version":99,"kind":"commit"}"#;
    run.store.put(&slot, manifest).unwrap();
    let reports = plan(&run, nobody_saves(1)).unwrap().run(&());
    assert!(matches!(reports[0].error, Some(Error::TooNew { .. })), "{reports:?}");
    assert_eq!(folders(&run), ["step-3", "step-4"]);
    assert_eq!(names(&run).iter().filter(|it| it.starts_with("step-4/")).count(), 4);
}

/// `prune` dies before, in and after each of its operations; nothing live is lost, and the next run leaves no garbage.
#[test]
#[expect(clippy::disallowed_macros, reason = "the number of crash points is a figure of docs/reliability.md")]
fn a_prune_that_dies_at_any_operation_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut points = 0;
    for on_disk in [false, true] {
        for death in [Fault::DieBefore, Fault::DieTorn, Fault::DieAfter, Fault::LoseReply, Fault::Duplicate] {
            for operation in 0.. {
                let path = folder.path().join(format!("{on_disk}-{death:?}-{operation}"));
                let store: Arc<dyn Storage> = match on_disk {
                    true => Arc::new(LocalStore::new(&path)),
                    false => memory(),
                };
                let run = run_in(&store);
                save(&run, 1);
                save_as(&run, 2, 2, "dcp").unwrap();
                save(&run, 3);
                save_as(&run, 3, 33, "titan").unwrap();
                leave_dead(&run, 3);
                leave_dead(&run, 4);
                let faults = Faults::at(operation, death);
                let dying: Arc<dyn Storage> = Arc::new(FaultyStore::new(store.clone(), &faults));
                if let Ok(plan) = plan(&run_in(&dying), nobody_saves(1)) {
                    plan.run(&());
                }
                assert_eq!(newest_complete(&run, None).unwrap().step, 3, "{death:?} at {operation}");
                prune(&run, nobody_saves(1));
                assert_eq!(names(&run).len(), 3, "{death:?} at {operation}: {:?}", names(&run));
                assert!(store.unfinished(&Key::root()).unwrap().is_empty());
                assert_eq!(newest_complete(&run, None).unwrap().step, 3);
                if faults.hits().is_empty() {
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} crash points of prune");
    assert!(points > 100, "{points}");
}

/// One saves and another prunes as if every object were old: what is loaded is never half of a checkpoint, and the newest
/// step never falls behind what was committed.
#[test]
fn saves_and_prunes_side_by_side() {
    let run = run_in(&memory());
    save(&run, 1);
    let done = AtomicBool::new(false);
    let hasty = Policy { now: now() + 99 * HOUR, ..policy(1) };
    let pruned = std::thread::scope(|scope| {
        let pruner = scope.spawn(|| {
            let mut fenced = 0;
            while !done.load(Ordering::SeqCst) {
                for report in plan(&run, hasty).unwrap().run(&()) {
                    assert!(report.error.is_none(), "{report:?}");
                    fenced += report.actions.iter().filter(|it| it.phase == Phase::Fence).count();
                }
            }
            fenced
        });
        let mut committed = 1;
        for step in 2..100 {
            match save_as(&run, step, step as u8, "titan") {
                Ok(()) => committed = step,
                // Taken for dead.
                Err(Error::Fenced { .. } | Error::Incomplete { .. } | Error::NotFound { .. }) => {}
                Err(error) => panic!("{error}"),
            }
            assert_eq!(newest_complete(&run, None).unwrap().step, committed);
        }
        done.store(true, Ordering::SeqCst);
        assert!(committed > 1);
        pruner.join().unwrap()
    });
    assert!(pruned > 0);
}

#[test]
fn where_nothing_can_be_fenced_only_the_user_can_say_that_a_save_is_dead() {
    let store = Odd::new(false);
    let run = run_in(&(store.clone() as _));
    save(&run, 1);
    save(&run, 2);
    leave_dead(&run, 3);
    store.pass(99 * HOUR);
    let reports = plan(&run, policy(1)).unwrap().run(&());
    assert!(reports[0].notes[0].contains("this store lets two writers create one object"), "{reports:?}");
    assert!(reports[0].actions.is_empty());
    prune(&run, nobody_saves(1));
    assert_eq!(folders(&run), ["step-2"]);
}
