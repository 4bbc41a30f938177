//! Small reads, which share requests, on a store in memory.

use super::RemoteStore;
use super::windows::WINDOW_BYTES;
use crate::error::Error;
use crate::storage::{Key, ReadAt, Storage};
use object_store::ObjectStoreExt;
use object_store::memory::InMemory;
use object_store::path::Path;
use proptest::prelude::*;
use std::sync::Arc;

fn store() -> (Arc<InMemory>, RemoteStore) {
    let objects = Arc::new(InMemory::new());
    let store = RemoteStore::new(
        "memory:".to_owned(),
        objects.clone(),
        Some(objects.clone()),
        Err("they are in memory"),
    );
    (objects, store)
}

fn pattern(byte_len: u64) -> Vec<u8> {
    (0..byte_len).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn reads_are_exact_wherever_they_are(
        byte_len in prop::sample::select(vec![1, 100, WINDOW_BYTES, WINDOW_BYTES + 1, 3 * WINDOW_BYTES - 1]),
        reads in prop::collection::vec((any::<u64>(), 0u64..2 * WINDOW_BYTES, any::<bool>()), 1..40),
    ) {
        let (_, store) = store();
        let key = Key::new("object").unwrap();
        let whole = pattern(byte_len);
        store.put(&key, &whole).unwrap();
        let object = store.open(&key).unwrap();
        let read = |object: &dyn ReadAt, (start, wanted, tail): (u64, u64, bool)| {
            let wanted = wanted.min(byte_len);
            let start = if tail { byte_len - wanted } else { start % (byte_len - wanted + 1) };
            let mut bytes = vec![0xaa; wanted as usize];
            object.read_at(start, &mut bytes).unwrap();
            assert!(bytes == whole[start as usize..][..wanted as usize], "{start} {wanted}");
        };
        std::thread::scope(|scope| {
            for half in reads.chunks(reads.len().div_ceil(2)) {
                let (object, read) = (&object, &read);
                scope.spawn(move || half.iter().for_each(|&wanted| read(&**object, wanted)));
            }
        });
        let mut past = [0; 2];
        let truncated = object.read_at(byte_len - 1, &mut past);
        prop_assert!(matches!(truncated, Err(Error::Truncated { found, .. }) if found == byte_len), "{truncated:?}");
    }
}

#[test]
fn what_is_kept_of_an_object_is_of_the_version_that_was_opened() {
    let (objects, store) = store();
    let key = Key::new("object").unwrap();
    store.put(&key, &pattern(3 * WINDOW_BYTES)).unwrap();
    let old = store.open(&key).unwrap();
    let mut bytes = [0; 4];
    old.read_at(8, &mut bytes).unwrap();
    // Something else replaces the object, which this program never does.
    let path = Path::from("object");
    let replaced = objects.put(&path, vec![7u8; 3 * WINDOW_BYTES as usize].into());
    super::runtime::wait(replaced).unwrap().unwrap();
    let new = store.open(&key).unwrap();
    new.read_at(8, &mut bytes).unwrap();
    assert_eq!(bytes, [7; 4]);
    let error = old.read_at(2 * WINDOW_BYTES, &mut bytes).unwrap_err();
    assert!(matches!(error, Error::Changed { .. }), "{error}");
}
