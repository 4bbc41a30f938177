//! Llama 405B with AdamW state on 16,384 ranks: the manifest stays small, and a rank's load touches few writers.

use dcp::format;
use dcp::plan::{Degrees, reads};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place};
use e2e::large::{commit_without_data, llama_405b, wants};
use std::collections::BTreeSet;
use std::sync::Arc;

#[test]
fn llama_405b_on_16384_ranks() {
    let saved = llama_405b(Degrees { pp: 16, dp_replicate: 2, dp_shard: 64, cp: 1, tp: 8 }).unwrap();
    assert_eq!((saved.writers, saved.tensors.len()), (16_384, 4 * 1_137));
    let place = Place { store: Arc::new(MemoryStore::new()), key: Key::root() };
    commit_without_data(&saved, &place).unwrap();
    let manifest = place.store.head(&Key::new("titan-0000.json").unwrap()).unwrap().unwrap();
    assert!(manifest < 8_000_000, "{manifest} bytes");

    let reader = format::open(&place).unwrap();
    let catalog = reader.catalog();
    let resumed = llama_405b(Degrees { pp: 8, dp_replicate: 1, dp_shard: 128, cp: 1, tp: 8 }).unwrap();
    let wants = wants(&resumed, 4_321).unwrap();
    let found = reads(catalog, &wants).unwrap();
    let wanted: u64 = wants.iter().map(|want| want.region.elements()).sum();
    assert_eq!(found.iter().map(|read| read.common.elements()).sum::<u64>(), wanted);
    let writers: BTreeSet<_> =
        found.iter().map(|read| catalog.objects[read.chunk.object as usize].writer).collect();
    assert!(writers.len() < 200, "{} writers", writers.len());
}
