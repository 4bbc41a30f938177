//! What writers begin and do not finish, by the contract.

use super::pattern;
use crate::error::Error;
use crate::storage::{Key, ObjectWriter, Storage, Unfinished, WriterState};

/// More than any store sends in one piece.
const LARGE_BYTES: u64 = (36 << 20) + 1;

/// An object in the making, large enough that every store has begun it.
fn begin(store: &dyn Storage, key: &Key) -> Box<dyn ObjectWriter> {
    let writer = store.create(key, Some(LARGE_BYTES)).unwrap();
    writer.write_at(0, &pattern(LARGE_BYTES as usize - 1)).unwrap();
    writer
}

/// What the store says was begun and not finished.
fn left(store: &dyn Storage, home: &Key) -> Vec<Unfinished> {
    store.unfinished(home).unwrap()
}

pub(super) fn is_listed_and_discarded(store: &dyn Storage, home: &Key) {
    assert_eq!(left(store, home), []);
    let key = home.join("folder/object").unwrap();
    let writer = begin(store, &key);
    let found = left(store, home);
    if found.is_empty() {
        // Such a store keeps nothing of a writer: it has nothing to show after the next either.
        drop(writer);
        assert_eq!(left(store, home), []);
        return;
    }
    // A store may have begun twice, where the reply to the first was lost.
    for unfinished in &found {
        assert_eq!(unfinished.key, key);
        assert!(unfinished.modified.is_some());
        assert_ne!(unfinished.writer, WriterState::Dead, "its writer is at work");
        assert!(unfinished.byte_len.is_some_and(|byte_len| byte_len <= LARGE_BYTES));
    }
    assert_eq!(store.list(home).unwrap(), []);
    writer.write_at(LARGE_BYTES - 1, b"x").unwrap();
    writer.finish().unwrap();
    assert_eq!(left(store, home).len(), found.len() - 1, "what is finished is not listed");
    found.iter().for_each(|unfinished| store.discard(unfinished).unwrap());
    assert_eq!(left(store, home), []);
    assert_eq!(store.head(&key).unwrap(), Some(LARGE_BYTES), "what is finished cannot be discarded");

    let key = home.join("other/object").unwrap();
    let writer = begin(store, &key);
    for unfinished in left(store, home) {
        match (unfinished.writer, store.discard(&unfinished)) {
            (WriterState::Alive, Err(Error::InUse { .. })) => {}
            (WriterState::Unknown, Ok(())) => store.discard(&unfinished).unwrap(),
            other => panic!("{other:?}"),
        }
    }
    if left(store, home).is_empty() {
        // Parts that were under way may have been refused by now.
        let finished = writer.write_at(LARGE_BYTES - 1, b"x").and_then(|()| writer.finish());
        assert!(finished.is_err(), "what it wrote was discarded");
    } else {
        drop(writer);
    }
    left(store, home).iter().for_each(|unfinished| store.discard(unfinished).unwrap());
    assert_eq!(left(store, home), []);
    assert_eq!(store.head(&key).unwrap(), None);
    assert_eq!(store.list_prefixes(home).unwrap(), [home.join("folder").unwrap()]);
}

pub(super) fn is_told_by_prefix(store: &dyn Storage, home: &Key) {
    let (a, ab) = (home.join("a").unwrap(), home.join("ab").unwrap());
    let writers = [begin(store, &a.join("object").unwrap()), begin(store, &ab)];
    // Parts are still under way, so that lengths and times change from one look to the next.
    let ids = |prefix: &Key| -> Vec<(Key, String)> {
        left(store, prefix).into_iter().map(|unfinished| (unfinished.key, unfinished.id)).collect()
    };
    let all = ids(home);
    let below_a: Vec<_> = all.iter().filter(|(key, _)| *key != ab).cloned().collect();
    assert_eq!(ids(&a), below_a);
    assert_eq!(ids(&ab), [], "it is not below itself");
    assert!(all.is_sorted());
    drop(writers);
    left(store, home).iter().for_each(|unfinished| store.discard(unfinished).unwrap());
}

/// A writer that was dropped, one that goes on where it stopped and replaces a part, one that finishes.
pub(super) fn is_resumed(store: &dyn Storage, home: &Key) {
    let key = home.join("object").unwrap();
    let bytes = pattern(LARGE_BYTES as usize);
    let writer = store.resume(&key, LARGE_BYTES).unwrap();
    assert_eq!(writer.stored(), []);
    writer.write_at(0, &bytes[..LARGE_BYTES as usize - 1]).unwrap();
    drop(writer);
    assert_eq!(store.list(home).unwrap(), []);

    let writer = store.resume(&key, LARGE_BYTES).unwrap();
    let stored = writer.stored();
    assert!(stored.is_sorted_by_key(|part| part.range.start));
    let crc64 = |bytes: &[u8]| crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, bytes);
    let of = |range: &std::ops::Range<u64>| &bytes[range.start as usize..range.end as usize];
    for part in &stored {
        assert!(part.crc64nvme.is_none_or(|found| found == crc64(of(&part.range))));
    }
    // Of a part that is there, the first is written again.
    let mut at = 0;
    for part in stored.iter().skip(1) {
        writer.write_at(at, of(&(at..part.range.start))).unwrap();
        at = part.range.end;
    }
    writer.write_at(at, of(&(at..LARGE_BYTES))).unwrap();
    writer.finish().unwrap();
    assert!(store.get(&key, LARGE_BYTES).unwrap() == bytes);
    assert!(matches!(store.resume(&key, LARGE_BYTES), Err(Error::AlreadyExists { .. })));
    left(store, home).iter().for_each(|unfinished| store.discard(unfinished).unwrap());

    let small = home.join("small").unwrap();
    let writer = store.resume(&small, 5).unwrap();
    writer.write_at(0, b"hello").unwrap();
    writer.finish().unwrap();
    assert_eq!(store.get(&small, 5).unwrap(), b"hello");
}
