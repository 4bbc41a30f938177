//! Items of `.distcp` files that went through the zstd transform.
#![no_main]

use dcp_fuzz::{Files, explore, fixture, folder};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| fixture("torch-2.11/ws1_zstd"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = BASE.clone();
    for (name, items) in &mut files {
        if name.ends_with(".distcp") {
            let kept = items.len();
            *items = bytes.to_vec();
            items.resize(kept, 0);
        }
    }
    explore(&folder(&files));
});
