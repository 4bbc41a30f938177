//! What every store does alike: the first test of each implementation.

mod unfinished;

use super::{Key, ObjectMeta, ObjectWriter, ReadAt, Storage};
use crate::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use uuid::Uuid;

/// Checks a store, within a prefix of its own. Panics where it differs from the contract.
pub fn all(store: &Arc<dyn Storage>) {
    within(store, &Key::root(), &[]);
}

/// [`all`] below a prefix, without the cases that are named; gives the prefix under which the objects were made.
pub fn within(store: &Arc<dyn Storage>, prefix: &Key, left_out: &[&str]) -> Key {
    type Case = fn(&dyn Storage, &Key);
    const CASES: &[(&str, Case)] = &[
        ("absent", absent),
        ("visible-when-finished", visible_when_finished),
        ("never-overwritten", never_overwritten),
        ("last-writer-loses", last_writer_loses),
        ("racing-writers", racing_writers),
        ("exact-reads", exact_reads),
        ("empty-objects", empty_objects),
        ("holes-are-zero", holes_are_zero),
        ("unknown-length", unknown_length),
        ("pieces", pieces_in_any_order_from_threads),
        ("writes-stay-inside", writes_stay_inside),
        ("dropped", dropped_leaves_nothing),
        ("unfinished", unfinished::is_listed_and_discarded),
        ("unfinished-folders", unfinished::is_told_by_prefix),
        ("resumed", unfinished::is_resumed),
        ("exclusive", creates_exclusively),
        ("removed", removed),
        ("listings", listings),
        ("put-and-get", put_and_get),
        ("odd-names", odd_names),
        ("root", root_is_no_object),
        ("kernel-copies", kernel_copies),
    ];
    let home = prefix.join(&format!("conformance-{}", Uuid::new_v4().simple())).expect("a key");
    assert!(left_out.iter().all(|left_out| CASES.iter().any(|(name, _)| name == left_out)), "{left_out:?}");
    for (name, case) in CASES.iter().filter(|(name, _)| !left_out.contains(name)) {
        case(store.as_ref(), &home.join(name).expect("a key"));
    }
    home
}

fn absent(store: &dyn Storage, home: &Key) {
    let key = home.join("a/b").unwrap();
    assert_eq!(store.head(&key).unwrap(), None);
    assert!(matches!(store.open(&key), Err(Error::NotFound { .. })));
    assert!(matches!(store.get(&key, 10), Err(Error::NotFound { .. })));
    assert_eq!(store.list(home).unwrap(), []);
    assert_eq!(store.list_prefixes(home).unwrap(), []);
}

fn visible_when_finished(store: &dyn Storage, home: &Key) {
    let key = home.join("deep/er/object").unwrap();
    let writer = store.create(&key, Some(5)).unwrap();
    writer.write_at(0, b"hello").unwrap();
    assert_eq!(store.head(&key).unwrap(), None);
    assert!(matches!(store.open(&key), Err(Error::NotFound { .. })));
    assert_eq!(store.list(home).unwrap(), []);
    writer.finish().unwrap();
    assert_eq!(store.head(&key).unwrap(), Some(5));
    assert_eq!(store.get(&key, 5).unwrap(), b"hello");
    assert_eq!(store.list(home).unwrap(), [ObjectMeta { key: key.clone(), byte_len: 5, modified: None }]);
    assert!(store.list(home).unwrap()[0].modified.is_some());
}

fn never_overwritten(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    store.put(&key, b"first").unwrap();
    assert!(matches!(store.create(&key, Some(6)), Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.create(&key, None), Err(Error::AlreadyExists { .. })));
    assert!(matches!(store.put(&key, b"second"), Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&key, 100).unwrap(), b"first");
}

fn last_writer_loses(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let (slow, fast) = (store.create(&key, Some(4)).unwrap(), store.create(&key, Some(4)).unwrap());
    slow.write_at(0, b"slow").unwrap();
    fast.write_at(0, b"fast").unwrap();
    fast.finish().unwrap();
    assert!(matches!(slow.finish(), Err(Error::AlreadyExists { .. })));
    assert_eq!(store.get(&key, 4).unwrap(), b"fast");
    assert_eq!(store.list(home).unwrap().len(), 1);
}

fn racing_writers(store: &dyn Storage, home: &Key) {
    const WRITERS: usize = 16;
    for round in 0..8 {
        let key = home.join(&format!("round-{round}/object")).unwrap();
        let (start, winner, winners) = (Barrier::new(WRITERS), AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for id in 0..WRITERS {
                let (key, start, winner, winners) = (&key, &start, &winner, &winners);
                scope.spawn(move || {
                    let bytes = [id as u8; 1000];
                    // In every other round all have written everything before any finishes.
                    let writer = (round % 2 == 1).then(|| store.create(key, Some(1000)).unwrap());
                    writer.iter().for_each(|writer| writer.write_at(0, &bytes).unwrap());
                    start.wait();
                    match writer.map_or_else(|| store.put(key, &bytes), ObjectWriter::finish) {
                        Ok(()) => {
                            winner.store(id, Ordering::Relaxed);
                            winners.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(Error::AlreadyExists { .. }) => {}
                        Err(error) => panic!("writer {id}: {error}"),
                    }
                });
            }
        });
        assert_eq!(winners.into_inner(), 1, "round {round}");
        assert_eq!(store.get(&key, 1000).unwrap(), [winner.into_inner() as u8; 1000]);
    }
    assert_eq!(store.list(home).unwrap().len(), 8);
}

fn exact_reads(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let bytes = pattern(100_003);
    store.put(&key, &bytes).unwrap();
    let object = store.open(&key).unwrap();
    assert_eq!(object.byte_len(), 100_003);
    assert!(object.granularity() >= 1);
    for (start, end) in [(0, 0), (0, 1), (0, 100_003), (1, 4097), (65_535, 65_537), (100_002, 100_003)] {
        assert_eq!(read(&*object, start, end - start), bytes[start as usize..end as usize]);
    }
    assert!(read(&*object, 100_003, 0).is_empty());
    for (byte_offset, byte_len, expected) in
        [(100_002, 2, 100_004), (100_003, 1, 100_004), (1 << 40, 1, (1 << 40) + 1), (u64::MAX, 1, u64::MAX)]
    {
        let mut target = vec![0; byte_len];
        match object.read_at(byte_offset, &mut target) {
            Err(Error::Truncated { found, expected: wanted, .. }) => {
                assert_eq!((found, wanted), (100_003, expected))
            }
            other => panic!("{byte_len} bytes at {byte_offset}: {other:?}"),
        }
    }
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (object, bytes) = (&object, &bytes);
            scope.spawn(move || {
                for start in (thread * 1000..100_000).step_by(7919) {
                    assert_eq!(read(&**object, start, 3), bytes[start as usize..start as usize + 3]);
                }
            });
        }
    });
}

fn empty_objects(store: &dyn Storage, home: &Key) {
    let (known, unknown) = (home.join("known").unwrap(), home.join("unknown").unwrap());
    store.put(&known, b"").unwrap();
    store.create(&unknown, None).unwrap().finish().unwrap();
    for key in [known, unknown] {
        assert_eq!(store.head(&key).unwrap(), Some(0));
        assert_eq!(store.get(&key, 0).unwrap(), b"");
        assert!(matches!(store.open(&key).unwrap().read_at(0, &mut [0]), Err(Error::Truncated { .. })));
        assert!(matches!(store.put(&key, b"x"), Err(Error::AlreadyExists { .. })));
    }
}

fn holes_are_zero(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let writer = store.create(&key, Some(20_000)).unwrap();
    writer.write_at(10_000, b"middle").unwrap();
    writer.finish().unwrap();
    let mut expected = vec![0; 20_000];
    expected[10_000..10_006].copy_from_slice(b"middle");
    assert_eq!(store.get(&key, 20_000).unwrap(), expected);
}

fn unknown_length(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let writer = store.create(&key, None).unwrap();
    writer.write_at(6, b"world").unwrap();
    writer.write_at(0, b"hello").unwrap();
    writer.write_at(100, b"").unwrap();
    writer.finish().unwrap();
    assert_eq!(store.get(&key, 100).unwrap(), b"hello\0world");
}

/// Pieces of odd and of large sizes, each from one thread, at offsets that no block divides.
fn pieces_in_any_order_from_threads(store: &dyn Storage, home: &Key) {
    const THREADS: usize = 4;
    const BYTE_LEN: usize = (13 << 20) + 1234;
    let bytes = pattern(BYTE_LEN);
    for (name, byte_len) in [("known", Some(BYTE_LEN as u64)), ("unknown", None)] {
        let key = home.join(name).unwrap();
        let writer = store.create(&key, byte_len).unwrap();
        let mut pieces = Vec::new();
        let mut start = 0;
        for piece_len in [1, 511, 4096, 4097, 100_001, 3_000_017, 65_536, 1_200_000].into_iter().cycle() {
            let end = BYTE_LEN.min(start + piece_len);
            pieces.push((start, end));
            start = end;
            if start == BYTE_LEN {
                break;
            }
        }
        pieces.sort_by_key(|(start, _)| start.wrapping_mul(0x9e37_79b9) % 1009);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (writer, pieces, bytes) = (&writer, &pieces, &bytes);
                scope.spawn(move || write_pieces(&**writer, &pieces[thread..], THREADS, bytes));
            }
        });
        writer.finish().unwrap();
        assert!(
            store.get(&key, BYTE_LEN as u64).unwrap() == bytes,
            "{name} length: other bytes than written"
        );
    }
}

/// Writes every `step`-th piece, in buffers that are aligned as the file and in ones that are not, by turns.
fn write_pieces(writer: &dyn ObjectWriter, pieces: &[(usize, usize)], step: usize, bytes: &[u8]) {
    let mut buffer = super::AlignedBuf::default();
    for (index, &(start, end)) in pieces.iter().enumerate().step_by(step) {
        let shift = index as u64 / step as u64 % 2;
        let range = &buffer.lay_out([(start as u64 + shift, end - start)].into_iter()).unwrap()[0];
        buffer.bytes_mut(range).copy_from_slice(&bytes[start..end]);
        writer.write_at(start as u64, buffer.bytes(range)).unwrap();
    }
}

fn writes_stay_inside(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let writer = store.create(&key, Some(10)).unwrap();
    for (byte_offset, bytes) in [(9, "ab"), (10, "a"), (u64::MAX, "a")] {
        let refused = writer.write_at(byte_offset, bytes.as_bytes());
        assert!(matches!(refused, Err(Error::OverLimit { limit: 10, .. })), "{refused:?}");
    }
    writer.write_at(0, b"0123456789").unwrap();
    writer.finish().unwrap();
    assert_eq!(store.get(&key, 10).unwrap(), b"0123456789");
}

fn dropped_leaves_nothing(store: &dyn Storage, home: &Key) {
    let key = home.join("folder/object").unwrap();
    let writer = store.create(&key, Some(3)).unwrap();
    writer.write_at(0, b"abc").unwrap();
    drop(writer);
    assert_eq!(store.head(&key).unwrap(), None);
    assert_eq!(store.list(home).unwrap(), []);
    assert_eq!(store.list_prefixes(home).unwrap(), []);
    store.put(&key, b"again").unwrap();
    assert_eq!(store.get(&key, 5).unwrap(), b"again");
}

fn creates_exclusively(store: &dyn Storage, home: &Key) {
    assert!(store.creates_exclusively(home).unwrap());
    assert!(store.creates_exclusively(home).unwrap());
    assert_eq!(store.list(home).unwrap(), []);
}

fn removed(store: &dyn Storage, home: &Key) {
    let (key, other) = (home.join("a/b/object").unwrap(), home.join("a/other").unwrap());
    assert!(!store.remove(&key).unwrap());
    store.put(&key, b"one").unwrap();
    store.put(&other, b"two").unwrap();
    assert!(!store.remove(&home.join("a/b").unwrap()).unwrap(), "a prefix is no object");
    assert!(store.remove(&key).unwrap());
    assert!(!store.remove(&key).unwrap());
    assert_eq!(store.head(&key).unwrap(), None);
    assert_eq!(store.list_prefixes(&home.join("a").unwrap()).unwrap(), []);
    assert_eq!(store.list(home).unwrap().len(), 1);
    store.put(&key, b"again").unwrap();
    assert_eq!(store.get(&key, 5).unwrap(), b"again");
}

fn listings(store: &dyn Storage, home: &Key) {
    // `-` and `.` sort before `/`, so that a walk in folder order would list these otherwise.
    let names = ["b", "a/z", "a-b", "a.c", "a/b/c", "a/b.d", "ab/c", "a0"];
    for name in names {
        store.put(&home.join(name).unwrap(), name.as_bytes()).unwrap();
    }
    let listed = |prefix: &str| -> Vec<String> {
        let objects = store.list(&home.join(prefix).unwrap()).unwrap();
        let name = |object: &ObjectMeta| object.key.below(home).unwrap().to_owned();
        assert!(objects.iter().all(|object| object.byte_len == name(object).len() as u64));
        objects.iter().map(name).collect()
    };
    assert_eq!(listed(""), ["a-b", "a.c", "a/b.d", "a/b/c", "a/z", "a0", "ab/c", "b"]);
    assert_eq!(listed("a"), ["a/b.d", "a/b/c", "a/z"]);
    assert_eq!(listed("a/b"), ["a/b/c"]);
    assert_eq!(listed("b"), [""; 0], "an object is not below itself");
    assert_eq!(listed("b/c"), [""; 0], "nothing is below an object");
    let folders = |prefix: &str| store.list_prefixes(&home.join(prefix).unwrap()).unwrap();
    let keys = |names: &[&str]| names.iter().map(|name| home.join(name).unwrap()).collect::<Vec<_>>();
    assert_eq!(folders(""), keys(&["a", "ab"]));
    assert_eq!(folders("a"), keys(&["a/b"]));
    assert_eq!(folders("a/b"), []);
    assert_eq!(folders("b"), []);
    for prefix in ["a", "a/b"] {
        let prefix = home.join(prefix).unwrap();
        assert_eq!(store.head(&prefix).unwrap(), None, "a prefix is no object");
        assert!(matches!(store.open(&prefix), Err(Error::NotFound { .. })));
    }
    assert_eq!(store.head(&home.join("b/c").unwrap()).unwrap(), None);
    assert!(matches!(store.open(&home.join("b/c").unwrap()), Err(Error::NotFound { .. })));
    let whole = store.list(&Key::root()).unwrap();
    assert!(whole.is_sorted());
    assert_eq!(whole.iter().filter(|object| object.key.below(home).is_some()).count(), names.len());
}

fn put_and_get(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    store.put(&key, b"four").unwrap();
    assert_eq!(store.get(&key, 4).unwrap(), b"four");
    assert!(matches!(store.get(&key, 3), Err(Error::OverLimit { found: 4, limit: 3, .. })));
    assert!(store.display(&key).ends_with(key.as_str()));
}

fn odd_names(store: &dyn Storage, home: &Key) {
    let long = "n".repeat(255);
    let names =
        [".metadata", "__0_0.distcp", "a b+c=d&e%20f#g", "\u{e9}\u{4e2d}", ".hidden/x", long.as_str()];
    for name in names {
        let key = home.join(name).unwrap();
        store.put(&key, name.as_bytes()).unwrap();
        assert_eq!(store.get(&key, 1000).unwrap(), name.as_bytes());
    }
    let listed: Vec<Key> = store.list(home).unwrap().into_iter().map(|object| object.key).collect();
    let mut expected: Vec<Key> = names.iter().map(|name| home.join(name).unwrap()).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

fn root_is_no_object(store: &dyn Storage, _home: &Key) {
    assert_eq!(store.head(&Key::root()).unwrap(), None);
    assert!(matches!(store.open(&Key::root()), Err(Error::NotFound { .. })));
    assert!(matches!(store.create(&Key::root(), None), Err(Error::BadKey { .. })));
}

/// A store may decline to copy from a file; if it does copy, it copies exactly.
fn kernel_copies(store: &dyn Storage, home: &Key) {
    let (from, to) = (home.join("from").unwrap(), home.join("to").unwrap());
    let bytes = pattern(300_000);
    store.put(&from, &bytes).unwrap();
    let source = store.open(&from).unwrap();
    let Some(file) = source.file() else { return };
    let writer = store.create(&to, Some(200_001)).unwrap();
    if !writer.copy_from(file, 50_001, 1, 200_000).unwrap() {
        writer.write_at(1, &bytes[50_001..250_001]).unwrap();
    }
    writer.write_at(0, b"x").unwrap();
    writer.finish().unwrap();
    let copied = store.get(&to, 200_001).unwrap();
    assert_eq!(copied[0], b'x');
    assert!(copied[1..] == bytes[50_001..250_001]);
}

/// Bytes that differ from place to place, at every power of two.
fn pattern(byte_len: usize) -> Vec<u8> {
    (0..byte_len as u64).map(|index| (index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn read(object: &dyn ReadAt, byte_offset: u64, byte_len: u64) -> Vec<u8> {
    let mut bytes = vec![0xaa; byte_len as usize];
    object.read_at(byte_offset, &mut bytes).unwrap();
    bytes
}
