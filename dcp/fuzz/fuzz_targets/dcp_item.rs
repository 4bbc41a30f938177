//! Items of `.distcp` files: `torch.save` archives, in tensors' and in values' places.
#![no_main]

use dcp_fuzz::{Files, explore, fixture, folder};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| fixture("torch-2.11/ws1_file_per_item"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = BASE.clone();
    for (name, item) in &mut files {
        if name.ends_with(".distcp") {
            // The metadata records the length; bytes that are cut short would be refused unread.
            let mut hostile = bytes.to_vec();
            hostile.resize(item.len(), 0);
            *item = hostile;
        }
    }
    explore(&folder(&files));
});
