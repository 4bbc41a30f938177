//! Writers whose parts stay half-filled for long, on a store in memory.

use super::RemoteStore;
use crate::storage::{Key, ObjectWriter, Storage};
use object_store::memory::InMemory;
use std::sync::Arc;

const PART_BYTES: u64 = 16 << 20;
const HELD_BYTES_MAX: u64 = 40 << 20;
const BYTE_LEN: u64 = 5 * PART_BYTES + 1000;
const PIECE_BYTES: u64 = 5 << 20;

fn store() -> RemoteStore {
    let objects = Arc::new(InMemory::new());
    RemoteStore::new("memory:".to_owned(), objects.clone(), Some(objects), Err("they are in memory"))
        .with_half_filled_max(HELD_BYTES_MAX)
}

fn bytes(byte_offset: u64, byte_len: u64) -> Vec<u8> {
    (byte_offset..byte_offset + byte_len).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
}

/// Writes the first bytes of every part, then everything else from the end on.
fn write_backwards(store: &RemoteStore, writer: &dyn ObjectWriter) {
    let write = |byte_offset: u64, end: u64| {
        writer.write_at(byte_offset, &bytes(byte_offset, end - byte_offset)).unwrap();
        let held = store.half_filled_bytes();
        // A write may open one part, in each of two threads.
        assert!(held <= HELD_BYTES_MAX + 2 * PART_BYTES, "{held} bytes are held");
    };
    let starts: Vec<u64> = (0..BYTE_LEN.div_ceil(PART_BYTES)).map(|part| part * PART_BYTES).collect();
    starts.iter().for_each(|&start| write(start, start + 10));
    for &start in starts.iter().rev() {
        let end = (start + PART_BYTES).min(BYTE_LEN);
        let mut at = start + 10;
        while at < end {
            write(at, end.min(at + PIECE_BYTES));
            at = end.min(at + PIECE_BYTES);
        }
    }
}

#[test]
fn parts_that_wait_for_long_take_bounded_memory() {
    let store = store();
    let keys = ["known", "unknown"].map(|name| Key::new(name).unwrap());
    std::thread::scope(|scope| {
        for (key, byte_len) in keys.iter().zip([Some(BYTE_LEN), None]) {
            let store = &store;
            scope.spawn(move || {
                let writer = store.create(key, byte_len).unwrap();
                write_backwards(store, &*writer);
                writer.finish().unwrap();
            });
        }
    });
    assert_eq!(store.half_filled_bytes(), 0);
    for key in &keys {
        assert!(store.get(key, u64::MAX).unwrap() == bytes(0, BYTE_LEN), "{key}");
    }
}

#[test]
fn holes_of_spilled_parts_are_zeros_and_a_dropped_writer_holds_nothing() {
    let store = store();
    let key = Key::new("sparse").unwrap();
    let writer = store.create(&key, Some(BYTE_LEN)).unwrap();
    let starts: Vec<u64> = (0..5).map(|part| part * PART_BYTES + 7).collect();
    starts.iter().for_each(|&at| writer.write_at(at, &[1, 2, 3]).unwrap());
    writer.finish().unwrap();
    let mut expected = vec![0; BYTE_LEN as usize];
    starts.iter().for_each(|&at| expected[at as usize..][..3].copy_from_slice(&[1, 2, 3]));
    assert!(store.get(&key, u64::MAX).unwrap() == expected);

    let writer = store.create(&Key::new("dropped").unwrap(), None).unwrap();
    starts.iter().for_each(|&at| writer.write_at(at, &[1]).unwrap());
    assert!(store.half_filled_bytes() > 0);
    drop(writer);
    assert_eq!(store.half_filled_bytes(), 0);
}
