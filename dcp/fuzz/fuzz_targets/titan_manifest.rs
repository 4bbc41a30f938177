//! The native manifest. The input is its text up to the checksum, which is put right.
#![no_main]

use dcp_fuzz::{Files, assert_sound, explore, folder, native, seal};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| {
    let mut files = native("torch-2.11/ws2_tp");
    let sealed = sealed(&files["titan-0000.json"]);
    files.insert("titan-0000.json".to_owned(), sealed);
    assert_sound(&files);
    files
});

/// The manifest with its checksum put right. Seeds are whole manifests: what follows the checksum's name is cut off.
fn sealed(bytes: &[u8]) -> Vec<u8> {
    seal(bytes.windows(10).rposition(|window| window == b",\"crc64\":\"").map_or(bytes, |at| &bytes[..at]))
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = BASE.clone();
    files.insert("titan-0000.json".to_owned(), sealed(bytes));
    explore(&folder(&files));
});
