use super::*;
use crate::error::ErrorKind;
use crate::format;
use crate::storage::faulty::{Fault, Faults, FaultyStore, Operation};
use crate::storage::memory::MemoryStore;
use crate::storage::{Storage, open_url};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn memory(store: &MemoryStore, name: &str) -> Place {
    Place { store: Arc::new(store.clone()), key: key(name) }
}

fn local(path: &Path) -> Place {
    open_url(path.to_str().unwrap()).unwrap()
}

fn options() -> TransferOptions {
    TransferOptions { copy: CopyOptions { memory_bytes_max: 1 << 20, threads: 3 }, verify: false }
}

fn copy(source: &Place, destination: &Place) -> Result<TransferReport> {
    plan(source, destination, options())?.run(&())
}

fn bytes(byte_len: usize, seed: u32) -> Vec<u8> {
    (0..byte_len as u32).map(|at| (at.wrapping_add(seed).wrapping_mul(0x9e37_79b9) >> 24) as u8).collect()
}

/// A run of two checkpoints, a log and an empty object.
fn put_run(place: &Place) -> Vec<(String, Vec<u8>)> {
    let objects: Vec<_> = [
        ("log/empty", 0),
        ("step-1/__0_0.distcp", 3_000_001),
        ("step-1/__1_0.distcp", 1),
        ("step-1/.metadata", 1000),
        ("step-2/abc/r00000-0000.safetensors", 700_000),
        ("step-2/titan-0000.json", 300),
    ]
    .into_iter()
    .zip(0..)
    .map(|((name, byte_len), seed)| (name.to_owned(), bytes(byte_len, seed)))
    .collect();
    for (name, bytes) in &objects {
        place.store.put(&place.key.join(name).unwrap(), bytes).unwrap();
    }
    objects
}

#[track_caller]
fn assert_holds(place: &Place, objects: &[(String, Vec<u8>)]) {
    for (name, bytes) in objects {
        let found = place.store.get(&place.key.join(name).unwrap(), 1 << 30).unwrap();
        assert!(found == *bytes, "{name}");
    }
    assert_eq!(place.store.list(&place.key).unwrap().len(), objects.len());
}

#[test]
fn a_run_is_copied_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = MemoryStore::new();
    let source = memory(&store, "run");
    let objects = put_run(&source);
    let total = objects.iter().map(|(_, bytes)| bytes.len() as u64).sum();
    for destination in [memory(&store, "copy"), local(&folder.path().join("copy"))] {
        let report = copy(&source, &destination).unwrap();
        let all = TransferReport { copied_objects: 6, copied_bytes: total, ..TransferReport::default() };
        assert_eq!(report, all);
        assert_holds(&destination, &objects);
        let report = copy(&source, &destination).unwrap();
        assert_eq!(report, TransferReport { present_objects: 6, present_bytes: total, ..Default::default() });
    }
    // The kernel copies between files, and what it copied is verified like anything else.
    let again = local(&folder.path().join("again"));
    let options = TransferOptions { verify: true, ..options() };
    let report = plan(&local(&folder.path().join("copy")), &again, options).unwrap().run(&()).unwrap();
    assert_eq!((report.copied_bytes, report.verified_bytes), (total, total));
    assert_holds(&again, &objects);
}

/// Two checkpoints in one folder would be read as one or the other, depending on the reader.
#[test]
fn a_folder_that_holds_another_checkpoint_is_refused() {
    let store = MemoryStore::new();
    let source = memory(&store, "run");
    put_run(&source);
    for (there, refused) in [
        ("step-1/titan-0000.json", true),
        ("step-2/titan-0001.json", true),
        ("step-3/titan-0000.json", false),
        ("step-1/notes.txt", false),
    ] {
        let destination = memory(&store, &format!("copy-{}", there.replace('/', "-")));
        store.put(&destination.key.join(there).unwrap(), b"{}").unwrap();
        let outcome = copy(&source, &destination);
        match refused {
            true => {
                let error = outcome.unwrap_err();
                assert!(
                    matches!(&error, Error::OtherCheckpoint { object, .. } if object.ends_with(there)),
                    "{error}"
                );
                assert_eq!(store.list(&destination.key).unwrap().len(), 1);
            }
            false => assert_eq!(outcome.unwrap().copied_objects, 6),
        }
    }
}

#[test]
fn a_single_object_is_copied_to_the_name_given() {
    let store = MemoryStore::new();
    store.put(&key("run/model.safetensors"), b"abc").unwrap();
    let report = copy(&memory(&store, "run/model.safetensors"), &memory(&store, "other/name")).unwrap();
    assert_eq!((report.copied_objects, report.copied_bytes), (1, 3));
    assert_eq!(store.get(&key("other/name"), 3).unwrap(), b"abc");
    let nothing = copy(&memory(&store, "run/mode"), &memory(&store, "x"));
    assert!(matches!(nothing, Err(Error::NothingThere { .. })));
}

#[test]
fn what_is_there_and_different_is_kept_and_named() {
    let store = MemoryStore::new();
    let source = memory(&store, "run");
    put_run(&source);
    for (name, contents, why) in [
        ("step-1/__1_0.distcp", bytes(2, 9), "it has 2 bytes, the source has 1"),
        ("step-2/titan-0000.json", bytes(300, 77), "its CRC-64/NVME is"),
    ] {
        let destination = memory(&store, &format!("copy-of-{}", contents.len()));
        let there = destination.key.join(name).unwrap();
        store.put(&there, &contents).unwrap();
        let error = copy(&source, &destination).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, Error::Differs { .. }) && error.kind() == ErrorKind::Usage, "{text}");
        assert!(text.contains(why) && text.contains(there.as_str()) && text.contains(&format!("run/{name}")));
        assert_eq!(store.get(&there, 1000).unwrap(), contents);
    }
    assert_eq!(
        store.list(&key("copy-of-2")).unwrap().len(),
        1,
        "lengths are compared before anything is written"
    );
}

#[test]
fn a_folder_is_not_copied_into_itself() {
    let folder = tempfile::tempdir().unwrap();
    let run = folder.path().join("run");
    put_run(&local(&run));
    std::os::unix::fs::symlink("run", folder.path().join("link")).unwrap();
    for inside in ["run", "run/step-1", "run/new/folder", "link/new", "other/../run/new"] {
        let error = copy(&local(&run), &local(&folder.path().join(inside))).unwrap_err();
        assert!(matches!(&error, Error::Usage(why) if why.contains("the source")), "{inside}: {error}");
    }
    std::fs::create_dir(folder.path().join("other")).unwrap();
    let error = copy(&local(&run), &local(&folder.path().join("other/../run/new"))).unwrap_err();
    assert!(matches!(error, Error::Usage(_)));
    copy(&local(&run), &local(&folder.path().join("run-2"))).unwrap();
    copy(&local(&run.join("step-1")), &local(&run.join("step-3"))).unwrap();
    // Two stores in memory have the same names and nothing in common.
    let (one, other) = (MemoryStore::new(), MemoryStore::new());
    put_run(&memory(&one, "run"));
    copy(&memory(&one, "run"), &memory(&other, "run")).unwrap();
}

#[test]
fn a_disk_too_small_is_known_before() {
    let folder = tempfile::tempdir().unwrap();
    let sparse = folder.path().join("huge");
    std::fs::File::create(&sparse).unwrap().set_len(1 << 42).unwrap();
    let error = plan(&local(&sparse), &local(&folder.path().join("copy")), options()).unwrap_err();
    assert!(matches!(error, Error::NoSpace { needed, .. } if needed == 1 << 42), "{error}");
    let error = plan(
        &local(&sparse),
        &memory(&MemoryStore::new(), "x"),
        TransferOptions { copy: CopyOptions { memory_bytes_max: 1000, threads: 1 }, verify: false },
    );
    assert!(matches!(error, Err(Error::BudgetTooSmall { .. })));
}

#[test]
fn what_a_killed_transfer_left_of_these_objects_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, destination) = (local(&folder.path().join("run")), local(&folder.path().join("copy")));
    put_run(&source);
    std::fs::create_dir_all(folder.path().join("copy/step-1")).unwrap();
    let left = |name: &str| folder.path().join(format!("copy/step-1/.{name}.{}.titan-tmp", "0".repeat(32)));
    std::fs::write(left("__0_0.distcp"), b"part").unwrap();
    std::fs::write(left("foreign"), b"part").unwrap();
    copy(&source, &destination).unwrap();
    assert!(!left("__0_0.distcp").exists() && left("foreign").exists());
}

/// The memory as a process sees it that dies at its write number `writes`.
fn dying(store: &MemoryStore, writes: u64) -> Place {
    let done = AtomicU64::new(0);
    let faults = Faults::by(move |call| {
        let writes_now = matches!(call.operation, Operation::WriteAt | Operation::Finish);
        let number = done.fetch_add(u64::from(writes_now), Ordering::Relaxed);
        (writes_now && number == writes).then_some(Fault::DieBefore)
    });
    Place { store: Arc::new(FaultyStore::new(Arc::new(store.clone()), &faults)), key: key("copy") }
}

/// The memory with a wrong bit in what is read.
fn rotten(store: &MemoryStore) -> Place {
    let faults = Faults::by(|call| (call.operation == Operation::Read).then_some(Fault::Flip));
    Place { store: Arc::new(FaultyStore::new(Arc::new(store.clone()), &faults)), key: key("copy") }
}

/// After any number of writes: what commits a checkpoint is there only with everything it commits, and copying again
/// sends nothing twice.
#[test]
fn an_interrupted_copy_is_no_checkpoint_and_goes_on() {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/torch-2.11");
    let store = MemoryStore::new();
    let run = memory(&store, "run");
    for (name, step) in [("ws2_fsdp_uneven", "run/step-1"), ("llama_ws2_fsdp", "run/step-2")] {
        copy(&local(&fixtures.join(name).join("ckpt")), &memory(&store, step)).unwrap();
    }
    let objects = store.list(&run.key).unwrap();
    let total: u64 = objects.iter().map(|object| object.byte_len).sum();
    for writes in 0.. {
        let target = MemoryStore::new();
        let result = copy(&run, &dying(&target, writes));
        for step in ["copy/step-1", "copy/step-2"] {
            let place = memory(&target, step);
            if target.head(&place.key.join(".metadata").unwrap()).unwrap().is_some() {
                let source = store.list(&key(&step.replace("copy", "run"))).unwrap();
                assert_eq!(target.list(&place.key).unwrap().len(), source.len(), "{writes}: {step}");
                format::open(&place).unwrap();
            } else {
                assert!(format::open(&place).is_err(), "{writes}: {step}");
            }
        }
        if result.is_ok() {
            assert!(writes > objects.len() as u64);
            break;
        }
        let there: u64 = target.list(&key("copy")).unwrap().iter().map(|object| object.byte_len).sum();
        let report = copy(&run, &memory(&target, "copy")).unwrap();
        assert_eq!((report.present_bytes, report.copied_bytes), (there, total - there));
    }
}

#[test]
fn a_copy_that_reads_back_as_something_else_is_damaged() {
    let store = MemoryStore::new();
    let source = memory(&store, "run");
    put_run(&source);
    let target = MemoryStore::new();
    copy(&source, &rotten(&target)).unwrap();
    let options = TransferOptions { verify: true, ..options() };
    let transfer = plan(&source, &rotten(&MemoryStore::new()), options).unwrap();
    let error = transfer.run(&()).unwrap_err();
    assert!(matches!(error, Error::Damaged { .. }), "{error}");
}
