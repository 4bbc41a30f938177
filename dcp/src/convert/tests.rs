//! Tasks that share a conversion: what is there afterwards, whichever dies when.

use super::{ConvertOptions, ConvertReport, Ended, Sharding, Task, plan};
use crate::coordinate::Alone;
use crate::error::{Error, Result};
use crate::format::{self, Reader, WriteOptions, job_folder};
use crate::model::{DType, TensorSpec, Value};
use crate::plan::Degrees;
use crate::prune::{self, Policy};
use crate::save::{HostMemory, SaveOptions, Saver, State, StateTensor, StateValue};
use crate::storage::faulty::{Fault, Faults, FaultyStore};
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place, Storage};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A way to write a checkpoint.
#[derive(Clone, Copy, Debug)]
struct Case {
    format: &'static str,
    dp_shard: u32,
    compress: bool,
    shard_bytes_max: u64,
    sharded: bool,
    beside: bool,
}

const PLAIN: Case = Case {
    format: "titan",
    dp_shard: 3,
    compress: false,
    shard_bytes_max: 1 << 30,
    sharded: false,
    beside: false,
};

/// Every way in which objects, records and what seals them come together.
const CASES: &[Case] = &[
    PLAIN,
    // Writers whose objects several tasks write.
    Case { dp_shard: 1, shard_bytes_max: 300, ..PLAIN },
    Case { dp_shard: 2, shard_bytes_max: 300, compress: true, ..PLAIN },
    Case { format: "dcp", ..PLAIN },
    Case { format: "safetensors", dp_shard: 1, shard_bytes_max: 300, beside: true, ..PLAIN },
    // Nothing but its files makes it exist.
    Case { format: "safetensors", sharded: true, ..PLAIN },
    // One object.
    Case { format: "pt", dp_shard: 1, beside: true, ..PLAIN },
];

/// A checkpoint of seven tensors and a value; another `version`, other bytes of the same lengths.
fn source(version: u8) -> Arc<dyn Reader> {
    let shapes: [&[u64]; 7] = [&[8, 6], &[5, 3], &[7], &[], &[0, 4], &[12, 12], &[30]];
    let tensor = |(number, shape): (usize, &&[u64])| {
        let byte_len = 4 * shape.iter().product::<u64>();
        let bytes: Vec<u8> =
            (0..byte_len).map(|at| (at as u8 / 3).wrapping_mul(number as u8 + 1) ^ version).collect();
        StateTensor {
            fqn: format!("layers.{number}.weight").as_str().into(),
            spec: TensorSpec::new(DType::F32, *shape),
            path: Vec::new(),
            placements: Vec::new(),
            local: Some(Arc::new(HostMemory::new(bytes))),
        }
    };
    let value = StateValue { fqn: "lr".into(), path: Vec::new(), value: Value::Int(3) };
    let tensors = shapes.iter().enumerate().map(tensor).collect();
    let run = place(&memory());
    let options = SaveOptions::new(format::by_name("titan").unwrap());
    let mut saver = Saver::new(run.clone(), options, Arc::new(Alone)).unwrap();
    saver.save(1, State { mesh: None, tensors, values: vec![value] }).unwrap().wait_done().unwrap();
    format::open(&Place { key: run.key.join("step-1").unwrap(), ..run }).unwrap()
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStore::new())
}

fn place(store: &Arc<dyn Storage>) -> Place {
    Place { store: store.clone(), key: Key::new("made/step-1").unwrap() }
}

fn options(case: Case, task: Task) -> ConvertOptions {
    let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: case.dp_shard, cp: 1, tp: 1 };
    ConvertOptions {
        sharding: if case.dp_shard > 1 { Sharding::Degrees(degrees) } else { Sharding::Whole },
        drop_values: case.format == "safetensors",
        write: WriteOptions {
            compress: case.compress,
            shard_bytes_max: Some(case.shard_bytes_max),
            sharded: case.sharded,
            ..WriteOptions::default()
        },
        task,
        beside: if case.beside { vec![("config.json".to_owned(), b"{}".to_vec())] } else { Vec::new() },
        publish_bytes_max: 1,
        ..ConvertOptions::default()
    }
}

fn convert(
    source: &dyn Reader,
    store: &Arc<dyn Storage>,
    options: &ConvertOptions,
    to: &str,
) -> Result<ConvertReport> {
    plan(source, &place(store), format::by_name(to).unwrap(), options)?.run(&())
}

/// One task of `count` does its part.
fn part(
    source: &dyn Reader,
    store: &Arc<dyn Storage>,
    case: Case,
    index: u32,
    count: u32,
) -> Result<ConvertReport> {
    convert(source, store, &options(case, Task::new(index, count).unwrap()), case.format)
}

fn contents(store: &Arc<dyn Storage>) -> BTreeMap<String, Vec<u8>> {
    let listed = store.list(&Key::root()).unwrap();
    listed.into_iter().map(|it| (it.key.as_str().to_owned(), store.get(&it.key, u64::MAX).unwrap())).collect()
}

/// What one task alone writes, in one batch.
fn expected(source: &dyn Reader, case: Case) -> BTreeMap<String, Vec<u8>> {
    let store = memory();
    let options = ConvertOptions { publish_bytes_max: u64::MAX, ..options(case, Task::ALONE) };
    assert_eq!(convert(source, &store, &options, case.format).unwrap().ended, Ended::Committed);
    contents(&store)
}

#[track_caller]
fn assert_same(store: &Arc<dyn Storage>, expected: &BTreeMap<String, Vec<u8>>, what: &str) {
    let found = contents(store);
    assert_eq!(found.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{what}");
    for (name, bytes) in &found {
        assert!(*bytes == expected[name], "{what}: {name} has other bytes");
    }
}

#[test]
fn tasks_in_any_order_write_what_one_task_writes() {
    let source = source(0);
    for &case in CASES {
        let expected = expected(&*source, case);
        for count in [1u32, 2, 3, 5] {
            for first in 0..count {
                let store = memory();
                let mut ended = Vec::new();
                for index in (0..count).map(|index| (index + first) % count) {
                    let what = format!("{case:?} task {index} of {count}");
                    let report =
                        part(&*source, &store, case, index, count).unwrap_or_else(|e| panic!("{what}: {e}"));
                    assert_eq!(report.resumed_objects, 0, "{what}");
                    let exists = format::open(&place(&store)).is_ok();
                    assert!(
                        !exists || ended.contains(&Ended::Committed) || report.ended == Ended::Committed,
                        "{what}"
                    );
                    ended.push(report.ended);
                }
                let committed = ended.iter().filter(|ended| **ended == Ended::Committed).count();
                assert_eq!(committed, 1, "{case:?}, {count} tasks from {first}: {ended:?}");
                assert_same(&store, &expected, &format!("{case:?} {count} from {first}"));
            }
        }
    }
}

#[test]
fn tasks_at_the_same_time_write_what_one_task_writes() {
    let source = source(0);
    for &case in CASES {
        let expected = expected(&*source, case);
        for _ in 0..8 {
            let store = memory();
            let reports: Vec<_> = std::thread::scope(|scope| {
                let task = |index| {
                    scope.spawn({
                        let (source, store) = (&source, &store);
                        move || part(&**source, store, case, index, 4)
                    })
                };
                let tasks: Vec<_> = (0..4).map(task).collect();
                tasks.into_iter().map(|task| task.join().unwrap().unwrap()).collect()
            });
            assert!(reports.iter().any(|report| report.ended == Ended::Committed), "{case:?}: {reports:?}");
            assert_same(&store, &expected, &format!("{case:?}"));
        }
    }
}

/// One of two tasks dies before, in the middle of, and after every single operation on its store in turn. There is no
/// checkpoint unless all of it is there; the same command, by another number of tasks, makes it what one task makes.
#[test]
#[expect(clippy::disallowed_macros, reason = "the number of crash points is a figure of docs/reliability.md")]
fn a_task_that_dies_at_any_operation_leaves_what_a_later_run_finishes() {
    let source = source(0);
    let folder = tempfile::tempdir().unwrap();
    let mut points = 0;
    for (number, &case) in CASES.iter().enumerate() {
        let expected = expected(&*source, case);
        for (death, on_disk) in [
            (Fault::DieBefore, false),
            (Fault::DieTorn, false),
            (Fault::DieAfter, false),
            (Fault::DieTorn, true),
        ] {
            for operation in 0.. {
                let what = format!("{case:?}, {death:?} at {operation}");
                let path = folder.path().join(format!("{number}-{operation}"));
                let inner: Arc<dyn Storage> =
                    if on_disk { Arc::new(LocalStore::new(&path)) } else { memory() };
                let faults = Faults::at(operation, death);
                let dying: Arc<dyn Storage> = Arc::new(FaultyStore::new(inner.clone(), &faults));
                // The other comes first or second.
                let other = operation % 2;
                if other == 0 {
                    part(&*source, &inner, case, 1, 2).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                let died = part(&*source, &dying, case, 0, 2);
                let past_the_end = faults.hits().is_empty();
                assert!(!past_the_end || died.is_ok(), "{what}: {died:?}");
                if other == 1 {
                    part(&*source, &inner, case, 1, 2).unwrap_or_else(|error| panic!("{what}: {error}"));
                }
                let was_whole = format::open(&place(&inner)).is_ok();
                let data = |found: &BTreeMap<String, Vec<u8>>| {
                    let own = found.iter().filter(|(name, _)| !name.contains(job_folder::FOLDER));
                    own.map(|(name, bytes)| (name.clone(), bytes.clone())).collect::<BTreeMap<_, _>>()
                };
                assert!(!was_whole || data(&contents(&inner)) == expected, "{what}: half a checkpoint");
                let count = [1, 3, 4][operation as usize % 3];
                let again: Result<Vec<_>> =
                    (0..count).map(|index| part(&*source, &inner, case, index, count)).collect();
                match again {
                    Ok(_) => {}
                    // It was finished, and one task alone takes no finished checkpoint for its own.
                    Err(Error::AlreadyExists { .. }) if was_whole && count == 1 => {}
                    Err(error) => panic!("{what}: {error}"),
                }
                assert_same(&inner, &expected, &what);
                if on_disk {
                    assert_eq!(inner.unfinished(&Key::root()).unwrap(), [], "{what}");
                    std::fs::remove_dir_all(&path).unwrap();
                }
                if past_the_end {
                    break;
                }
                points += 1;
            }
        }
    }
    println!("{points} crash points");
    assert!(points > 300, "{points}");
}

/// What is there is not written again, by whatever number of tasks it was begun.
#[test]
fn a_later_run_writes_only_what_is_missing() {
    let source = source(0);
    for &case in CASES.iter().filter(|case| case.format != "pt") {
        let store = memory();
        let first = part(&*source, &store, case, 0, 2).unwrap();
        let Ended::Incomplete { missing, .. } = first.ended else { panic!("{first:?}") };
        assert_eq!(missing, first.objects - first.share_objects);
        let error = format::open(&place(&store)).unwrap_err();
        assert!(matches!(error, Error::Unfinished { .. }), "{case:?}: {error}");
        let rest = part(&*source, &store, case, 0, 1).unwrap();
        assert_eq!(rest.ended, Ended::Committed);
        assert_eq!(
            (rest.resumed_objects, rest.resumed_bytes),
            (first.share_objects, first.share_bytes),
            "{case:?}"
        );
        let alone = part(&*source, &memory(), case, 0, 1).unwrap();
        assert_eq!(
            first.stats.written_bytes + rest.stats.written_bytes,
            alone.stats.written_bytes,
            "{case:?}"
        );
    }
}

/// A task that starts when the others have finished compares its share.
#[test]
fn a_task_that_is_late_finds_the_checkpoint_and_tells_another() {
    let (one, other) = (source(0), source(1));
    for &case in CASES.iter().filter(|case| case.format != "pt") {
        let store = memory();
        part(&*one, &store, case, 0, 1).unwrap();
        let before = contents(&store);
        let late = part(&*one, &store, case, 1, 2).unwrap();
        assert_eq!((late.ended, late.stats.written_bytes), (Ended::Found, 0), "{case:?}");
        let error = part(&*other, &store, case, 1, 2).unwrap_err();
        assert!(matches!(error, Error::Differs { .. } | Error::AlreadyExists { .. }), "{case:?}: {error}");
        let error = part(&*one, &store, case, 0, 1).unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{case:?}: {error}");
        assert_eq!(contents(&store), before);
    }
}

#[test]
fn what_another_command_began_is_told_and_left() {
    let source = source(0);
    for &case in CASES.iter().filter(|case| case.format != "pt") {
        let store = memory();
        part(&*source, &store, case, 0, 2).unwrap();
        let before = contents(&store);
        let made_of = ConvertOptions { made_of: "another".to_owned(), ..options(case, Task::ALONE) };
        for other in [made_of, ConvertOptions { dtype: Some(DType::BF16), ..options(case, Task::ALONE) }] {
            let error = convert(&*source, &store, &other, case.format).unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, Error::OtherJob { .. }) && said.contains(case.format), "{said}");
        }
        store.put(&place(&store).key.join("notes.txt").unwrap(), b"mine").unwrap();
        let error = part(&*source, &store, case, 1, 2).unwrap_err();
        assert!(
            matches!(&error, Error::AlreadyExists { object } if object.ends_with("notes.txt")),
            "{error}"
        );
        store.remove(&place(&store).key.join("notes.txt").unwrap()).unwrap();
        assert_eq!(contents(&store), before);
    }
}

/// An object of the right name and another length, or other bytes where its checksums are wanted, is not sealed.
#[test]
fn an_object_that_was_changed_is_told() {
    let source = source(0);
    let case = CASES[1];
    let made = memory();
    part(&*source, &made, case, 0, 1).unwrap();
    let name = contents(&made).into_keys().find(|name| name.ends_with("-0001.safetensors")).unwrap();
    let key = Key::new(name.as_str()).unwrap();
    let bytes = made.get(&key, u64::MAX).unwrap();
    let flipped = [&bytes[..bytes.len() - 1], &[bytes[bytes.len() - 1] ^ 1]].concat();
    for wrong in [&bytes[1..], &flipped] {
        let store = memory();
        part(&*source, &store, case, 0, 64).unwrap();
        if store.head(&key).unwrap().is_some() {
            assert!(store.remove(&key).unwrap());
        }
        for object in store.list(&place(&store).key.join(job_folder::FOLDER).unwrap()).unwrap() {
            if object.key.name().starts_with("sums-") {
                store.remove(&object.key).unwrap();
            }
        }
        store.put(&key, wrong).unwrap();
        let error = part(&*source, &store, case, 0, 1).unwrap_err();
        assert!(matches!(&error, Error::Differs { object, .. } if object.ends_with(key.name())), "{error}");
        assert!(matches!(format::open(&place(&store)), Err(Error::Unfinished { .. })));
    }
}

#[test]
fn tasks_without_an_object_touch_nothing() {
    let source = source(0);
    let file = |index| ConvertOptions {
        write: WriteOptions { file_name: Some("model.pt".to_owned()), ..WriteOptions::default() },
        sharding: Sharding::Whole,
        task: Task::new(index, 3).unwrap(),
        ..ConvertOptions::default()
    };
    let store = memory();
    let idle = |index| {
        let untouched: Arc<dyn Storage> =
            Arc::new(FaultyStore::new(store.clone(), &Faults::by(|_| Some(Fault::Fail))));
        convert(&*source, &untouched, &file(index), "pt").unwrap().ended
    };
    assert_eq!(idle(1), Ended::Idle);
    assert_eq!(convert(&*source, &store, &file(0), "pt").unwrap().ended, Ended::Committed);
    assert_eq!(contents(&store).into_keys().collect::<Vec<_>>(), ["made/step-1/model.pt"]);
    assert_eq!(idle(2), Ended::Idle);
}

/// A conversion that was given up goes as a whole; of one that has finished, only what it kept beside the checkpoint.
#[test]
fn prune_removes_what_a_conversion_left() {
    let source = source(0);
    let prune = |store: &Arc<dyn Storage>, older_than| {
        let run = Place { store: store.clone(), key: Key::new("made").unwrap() };
        let policy = Policy { keep_latest: None, keep_every: None, older_than, now: SystemTime::UNIX_EPOCH };
        let reports = prune::plan(&run, policy).unwrap().run(&());
        assert!(reports.iter().all(|report| report.error.is_none()), "{reports:?}");
    };
    for &case in CASES.iter().filter(|case| case.format != "pt") {
        let store = memory();
        part(&*source, &store, case, 0, 2).unwrap();
        let before = contents(&store);
        prune(&store, Duration::from_secs(3600));
        assert_eq!(contents(&store), before, "{case:?}: it may be under way");
        prune(&store, Duration::ZERO);
        assert_eq!(contents(&store), BTreeMap::new(), "{case:?}");

        part(&*source, &store, case, 0, 1).unwrap();
        let before = contents(&store);
        let left = place(&store).key.join(&job_folder::sums(3)).unwrap();
        store.put(&left, b"{}").unwrap();
        prune(&store, Duration::from_secs(3600));
        assert_eq!(contents(&store), before, "{case:?}");
    }
}

/// A conversion that fails before anything is written leaves the destination free; one of several tasks leaves the marker,
/// which the others rely on.
#[test]
fn a_conversion_that_fails_at_once_leaves_nothing() {
    let source = source(0);
    for (task, left) in [(Task::ALONE, 0), (Task::new(1, 2).unwrap(), 1)] {
        let store = memory();
        let reading = Arc::new(FaultyStore::new(source.place().store.clone(), &Faults::none()));
        let broken = Place { store: reading, key: source.place().key.clone() };
        let reader = format::open(&broken).unwrap();
        for object in source.place().store.list(&source.place().key).unwrap() {
            if object.key.name().ends_with(".safetensors") {
                let bytes = source.place().store.get(&object.key, u64::MAX).unwrap();
                source.place().store.remove(&object.key).unwrap();
                let result = convert(&*reader, &store, &options(PLAIN, task), "titan");
                source.place().store.put(&object.key, &bytes).unwrap();
                assert!(matches!(result, Err(Error::NotFound { .. })), "{result:?}");
            }
        }
        assert_eq!(contents(&store).len(), left);
    }
}
