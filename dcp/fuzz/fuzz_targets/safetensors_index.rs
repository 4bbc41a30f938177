//! `model.safetensors.index.json`, beside the files it should name.
#![no_main]

use dcp_fuzz::{Files, explore, fixture, folder};
use std::sync::LazyLock;

static BASE: LazyLock<Files> = LazyLock::new(|| fixture("torch-2.11/ws1_hf_two_files"));

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut files = BASE.clone();
    files.insert("model.safetensors.index.json".to_owned(), bytes.to_vec());
    explore(&folder(&files));
});
