//! What crosses crates, on real checkpoints, and against the real PyTorch.

mod chain;
mod damage;
mod experts;
mod kills;
mod models;
mod names;
mod objects;
mod peers;
mod pytorch_loads;
mod reordered;
mod reshard_matrix;
mod save_errors;
mod scale;
mod startup;
mod store_errors;
mod stores;
mod streaming;
mod torchtitan;
mod training;
mod transfer;

use dcp::convert::{ConvertOptions, plan};
use dcp::format::{Reader, by_name, open};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place, open_url};
use std::path::Path;
use std::sync::Arc;

/// Opens the checkpoint of a fixture.
fn fixture(name: &str) -> Arc<dyn Reader> {
    open_path(&e2e::fixtures().join(name))
}

fn open_path(path: &Path) -> Arc<dyn Reader> {
    open(&place(path)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn place(path: &Path) -> Place {
    open_url(path.to_str().expect("fixtures have plain names")).expect("a local path")
}

/// A fresh place in memory.
fn in_memory() -> Place {
    Place { store: Arc::new(MemoryStore::new()), key: Key::new("checkpoint").expect("a plain key") }
}

/// Converts and opens the result.
fn convert(source: &dyn Reader, to: &str, place: &Place, options: &ConvertOptions) -> Arc<dyn Reader> {
    let format = by_name(to).expect("a known format");
    plan(source, place, format, options)
        .and_then(|conversion| conversion.run(&()))
        .unwrap_or_else(|e| panic!("{e}"));
    open(place).expect("what was just written opens")
}
