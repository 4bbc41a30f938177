//! `.metadata` of PyTorch DCP: a pickle that describes everything else.
#![no_main]

use dcp_fuzz::{Files, explore, fixture, folder};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| fixture("torch-2.11/ws2_tp"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = BASE.clone();
    files.insert(".metadata".to_owned(), bytes.to_vec());
    explore(&folder(&files));
});
