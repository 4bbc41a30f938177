//! The native manifest. The input is its text up to the checksum, which is put right.
#![no_main]

use dcp_fuzz::{Files, explore, folder, native, seal};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| native("torch-2.11/ws2_tp"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    // Seeds are whole manifests: what follows the checksum's name is cut off.
    let body = bytes.windows(10).rposition(|window| window == b",\"crc64\":\"").map_or(bytes, |at| &bytes[..at]);
    let mut files = BASE.clone();
    files.insert("titan-0000.json".to_owned(), seal(body));
    explore(&folder(&files));
});
