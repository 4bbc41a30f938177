mod reads_back;

use super::*;
use crate::error::Error;
use crate::storage::WriterState;
use crate::storage::conformance;
use crate::storage::local::{LocalStore, is_unfinished};
use crate::storage::memory::MemoryStore;
use reads_back::ReadsBack;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const DEATHS: [Fault; 3] = [Fault::DieBefore, Fault::DieTorn, Fault::DieAfter];

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn memory() -> Arc<dyn Storage> {
    Arc::new(MemoryStore::new())
}

fn in_folder(folder: &Path) -> Arc<dyn Storage> {
    Arc::new(LocalStore::new(folder))
}

fn check(inner: Arc<dyn Storage>, faults: &Faults) {
    conformance::all(&(Arc::new(FaultyStore::new(inner, faults)) as Arc<dyn Storage>));
}

#[test]
fn conforms_while_nothing_goes_wrong() {
    let faults = Faults::none();
    check(memory(), &faults);
    // Memory has no files to copy from, and nothing unfinished to discard.
    let absent = [Operation::CopyFrom, Operation::Discard];
    for operation in Operation::ALL.into_iter().filter(|kind| !absent.contains(kind)) {
        assert!(faults.count_of(operation) > 0, "{operation:?}");
    }
    assert!(faults.count() > 100);
    assert_eq!(faults.hits(), []);
    let folder = tempfile::tempdir().unwrap();
    check(in_folder(folder.path()), &Faults::none());
}

/// Reads, and the start of an object, may be done twice or late without anybody noticing.
#[test]
fn conforms_when_requests_are_repeated_or_late() {
    let twice = || Faults::by(|call| (!call.operation.changes()).then_some(Fault::Duplicate));
    check(memory(), &twice());
    let folder = tempfile::tempdir().unwrap();
    check(in_folder(folder.path()), &twice());
    let late = Faults::random(1, vec![(Fault::Delay(Duration::from_millis(2)), 10)]);
    check(memory(), &late);
    assert!(!late.hits().is_empty());
}

/// A caller that reads back what it doubts gets a store that keeps the contract out of one whose replies get lost.
#[test]
fn conforms_when_doubtful_answers_are_read_back() {
    let faults_of = |shift: u64| {
        // Of each kind of operation, by turns: so that each fault hits each kind.
        let turns = [Some(Fault::Fail), Some(Fault::LoseReply), Some(Fault::Duplicate), None];
        Faults::by(move |call| turns[((call.index_of_kind + shift) % 4) as usize])
    };
    let conforms = |inner: Arc<dyn Storage>, faults: &Faults| {
        let store = ReadsBack(FaultyStore::new(inner, faults));
        conformance::all(&(Arc::new(store) as Arc<dyn Storage>));
    };
    let folder = tempfile::tempdir().unwrap();
    let mut hits = Vec::new();
    for (shift, inner) in [(0, memory()), (1, memory()), (2, memory()), (3, in_folder(folder.path()))] {
        let faults = faults_of(shift);
        conforms(inner, &faults);
        hits.extend(faults.hits());
    }
    for operation in [Operation::Put, Operation::Finish, Operation::Remove] {
        for fault in [Fault::Fail, Fault::LoseReply, Fault::Duplicate] {
            let is_it = |hit: &Hit| (hit.operation, hit.fault) == (operation, fault);
            assert!(hits.iter().any(is_it), "no {fault:?} of {operation:?}");
        }
    }
    for seed in 0..5 {
        let percents = vec![(Fault::Fail, 15), (Fault::LoseReply, 15), (Fault::Duplicate, 15)];
        let faults = Faults::random(seed, percents);
        conforms(memory(), &faults);
        assert!(!faults.hits().is_empty());
    }
}

/// Every operation once, in the order of [`Operation::ALL`]; the results of those that fail.
fn every_operation(store: &FaultyStore) -> Vec<(Operation, Error)> {
    let mut failed = Vec::new();
    let mut note = |operation, result: Result<()>| {
        if let Err(error) = result {
            failed.push((operation, error));
        }
    };
    note(Operation::List, store.list(&Key::root()).map(drop));
    note(Operation::ListPrefixes, store.list_prefixes(&Key::root()).map(drop));
    note(Operation::Head, store.head(&key("old")).map(drop));
    match store.open(&key("old")) {
        Ok(object) => note(Operation::Read, object.read_at(0, &mut [0; 3])),
        Err(error) => note(Operation::Open, Err(error)),
    }
    match store.create(&key("new"), Some(8)) {
        Ok(writer) => {
            note(Operation::WriteAt, writer.write_at(0, b"1234"));
            let source = tempfile::tempfile().unwrap();
            source.set_len(4).unwrap();
            note(Operation::CopyFrom, writer.copy_from(&source, 0, 4, 4).map(drop));
            note(Operation::Finish, writer.finish());
        }
        Err(error) => note(Operation::Create, Err(error)),
    }
    note(Operation::Put, store.put(&key("put"), b"1234"));
    note(Operation::Remove, store.remove(&key("old")).map(drop));
    note(Operation::Unfinished, store.unfinished(&Key::root()).map(drop));
    let (id, writer) = ("gone".to_owned(), WriterState::Dead);
    let gone = Unfinished { key: key("gone"), id, byte_len: None, modified: None, writer };
    note(Operation::Discard, store.discard(&gone));
    failed
}

#[test]
fn each_operation_is_counted_and_can_fail_once() {
    for (index, operation) in (0..).zip(Operation::ALL) {
        for (fault, expected) in [(Fault::Fail, Injected::Failed), (Fault::LoseReply, Injected::ReplyLost)] {
            for faults in [Faults::at(index, fault), Faults::at_kind(operation, 0, fault)] {
                let inner = memory();
                inner.put(&key("old"), b"abc").unwrap();
                let store = FaultyStore::new(inner.clone(), &faults);
                let failed = every_operation(&store);
                assert_eq!(failed.len(), 1, "{operation:?}: {failed:?}");
                assert_eq!((failed[0].0, injected(&failed[0].1)), (operation, Some(expected)));
                assert_eq!(faults.hits().len(), 1);
                assert_eq!((faults.hits()[0].index, faults.hits()[0].fault), (index, fault));
                assert_eq!(faults.count_of(operation), 1);
                assert!(!store.is_dead());
                let is_done = fault == Fault::LoseReply;
                let changed = |operation: Operation, name: &str, there: bool| {
                    let expected = if failed[0].0 == operation { is_done } else { true };
                    // An object that could not be created is not finished either.
                    let is_created = name != "new" || failed[0].0 != Operation::Create;
                    let is_there = inner.head(&key(name)).unwrap().is_some();
                    assert_eq!(is_there == there, expected && is_created, "{fault:?} at {operation:?}");
                };
                changed(Operation::Finish, "new", true);
                changed(Operation::Put, "put", true);
                changed(Operation::Remove, "old", false);
            }
        }
    }
}

#[test]
fn the_dead_do_nothing_more() {
    for (index, operation) in (0..).zip(Operation::ALL) {
        for fault in DEATHS {
            let inner = memory();
            inner.put(&key("old"), b"abc").unwrap();
            let faults = Faults::at(index, fault);
            let store = FaultyStore::new(inner.clone(), &faults);
            let failed = every_operation(&store);
            assert!(failed.iter().any(|(failed, _)| *failed == operation), "{operation:?}: {failed:?}");
            assert!(failed.iter().all(|(_, error)| injected(error) == Some(Injected::Dead)), "{failed:?}");
            assert!(store.is_dead() && store.clone().is_dead());
            assert_eq!(faults.count(), index + 1, "the dead are not counted");
            let before = inner.list(&Key::root()).unwrap();
            every_operation(&store);
            assert!(store.free_bytes().is_err());
            assert_eq!(inner.list(&Key::root()).unwrap(), before);
            // Another process with the same faults lives on, and its operations go on counting.
            let other = FaultyStore::new(inner, &faults);
            other.head(&key("old")).unwrap();
            assert_eq!(faults.count(), index + 2);
        }
    }
}

#[test]
fn a_repeated_change_gets_the_second_answer() {
    let faults = Faults::by(|call| call.operation.changes().then_some(Fault::Duplicate));
    let store = FaultyStore::new(memory(), &faults);
    assert!(matches!(store.put(&key("put"), b"12"), Err(Error::AlreadyExists { .. })));
    let writer = store.create(&key("new"), Some(2)).unwrap();
    writer.write_at(0, b"34").unwrap();
    assert!(matches!(writer.finish(), Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&key("put"), 9).unwrap(), b"12");
    assert_eq!(store.get(&key("new"), 9).unwrap(), b"34");
    assert!(!store.remove(&key("put")).unwrap());
    assert_eq!(store.head(&key("put")).unwrap(), None);
}

#[test]
fn a_delay_is_waited_for() {
    let faults = Faults::at(0, Fault::Delay(Duration::from_millis(50)));
    let store = FaultyStore::new(memory(), &faults);
    let start = Instant::now();
    assert_eq!(store.head(&key("a")).unwrap(), None);
    assert!(start.elapsed() >= Duration::from_millis(50));
}

#[test]
fn the_same_seed_meets_the_same_faults() {
    let hits = |seed| {
        let percents = vec![(Fault::Fail, 20), (Fault::LoseReply, 10)];
        let faults = Faults::random(seed, percents);
        let store = FaultyStore::new(memory(), &faults);
        for _ in 0..1000 {
            let _ = store.head(&key("a"));
        }
        faults.hits()
    };
    assert_eq!(hits(1), hits(1));
    assert_ne!(hits(1), hits(2));
    let lost = hits(1).iter().filter(|hit| hit.fault == Fault::LoseReply).count();
    assert!((250..350).contains(&hits(1).len()) && (60..140).contains(&lost), "{} {lost}", hits(1).len());
}

#[test]
fn errors_of_the_store_are_not_injected_ones() {
    let store = FaultyStore::new(memory(), &Faults::none());
    assert_eq!(injected(&store.get(&key("a"), 1).unwrap_err()), None);
    let source = std::io::Error::other("something else");
    assert_eq!(injected(&Error::Io { object: "a".into(), action: "reading", source }), None);
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// On a disk: whatever operation a process dies at, an object is whole or has no name, and what was half-written is
/// still there under the name of unfinished ones, as a killed process would leave it.
#[test]
fn a_death_leaves_half_written_files() {
    let large = vec![7; 3 << 20];
    let run = |store: &FaultyStore| -> Result<()> {
        let (first, second) =
            (store.create(&key("a/first"), Some(large.len() as u64))?, store.create(&key("a/second"), None)?);
        first.write_at(0, &large)?;
        second.write_at(0, b"second")?;
        first.finish()?;
        store.put(&key("b/put"), b"put")?;
        second.finish()
    };
    // Unfinished and finished files after a death before, amid and after each operation.
    let expected = [
        [(0, 0), (1, 0), (1, 0)],
        [(1, 0), (2, 0), (2, 0)],
        [(2, 0); 3],
        [(2, 0); 3],
        [(2, 0), (1, 1), (1, 1)],
        [(1, 1), (2, 1), (1, 2)],
        [(1, 2), (0, 3), (0, 3)],
    ];
    for (index, expected) in (0..).zip(expected) {
        for (fault, expected) in DEATHS.into_iter().zip(expected) {
            let folder = tempfile::tempdir().unwrap();
            let store = FaultyStore::new(in_folder(folder.path()), &Faults::at(index, fault));
            assert_eq!(injected(&run(&store).unwrap_err()), Some(Injected::Dead));
            let files = files(folder.path());
            let is_half = |path: &&PathBuf| is_unfinished(path.file_name().unwrap().to_str().unwrap());
            let half = files.iter().filter(is_half).count();
            assert_eq!((half, files.len() - half), expected, "{fault:?} at {index}: {files:?}");
            let after = in_folder(folder.path());
            for (name, bytes) in [("a/first", &large[..]), ("a/second", b"second"), ("b/put", b"put")] {
                match after.get(&key(name), u64::MAX) {
                    Ok(found) => assert!(found == bytes, "{name} is not whole"),
                    Err(error) => assert!(matches!(error, Error::NotFound { .. }), "{error}"),
                }
            }
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::none();
    run(&FaultyStore::new(in_folder(folder.path()), &faults)).unwrap();
    assert_eq!(faults.count(), expected.len() as u64);
}

/// A torn write has its first half.
#[test]
fn a_torn_write_is_half_there() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::at_kind(Operation::WriteAt, 0, Fault::DieTorn);
    let store = FaultyStore::new(in_folder(folder.path()), &faults);
    let writer = store.create(&key("a"), Some(6)).unwrap();
    assert!(writer.write_at(0, b"abcdef").is_err());
    drop(writer);
    assert_eq!(std::fs::read(&files(folder.path())[0]).unwrap(), b"abc\0\0\0");
}

/// Thousands of deaths do not use up the descriptors of the process that tries them.
#[test]
fn abandoned_files_are_closed() {
    let folder = tempfile::tempdir().unwrap();
    let open_here = || {
        let descriptors = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        // One that another test closes meanwhile is none of ours.
        descriptors
            .filter_map(|path| std::fs::read_link(path).ok())
            .filter(|to| to.starts_with(folder.path()))
            .count()
    };
    let kept = in_folder(folder.path()).create(&key("kept"), None).unwrap();
    assert!(open_here() >= 1);
    drop(kept);
    for index in 0..20 {
        let faults = Faults::at_kind(Operation::WriteAt, 0, Fault::DieBefore);
        let store = FaultyStore::new(in_folder(folder.path()), &faults);
        let writer = store.create(&key(&format!("object-{index}")), Some(4 << 20)).unwrap();
        assert!(writer.write_at(0, b"x").is_err());
    }
    assert_eq!(files(folder.path()).len(), 20);
    assert_eq!(open_here(), 0);
}

#[test]
fn a_death_in_another_thread_leaves_files_too() {
    let folder = tempfile::tempdir().unwrap();
    let faults = Faults::at_kind(Operation::Head, 0, Fault::DieBefore);
    let store = FaultyStore::new(in_folder(folder.path()), &faults);
    let writer = store.create(&key("a"), Some(3)).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| store.head(&key("a")).unwrap_err());
    });
    assert_eq!(injected(&writer.finish().unwrap_err()), Some(Injected::Dead));
    assert_eq!(files(folder.path()).len(), 1);
}
