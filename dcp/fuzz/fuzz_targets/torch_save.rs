//! `.pt` files: zip archives and legacy streams, with a pickle inside.
#![no_main]

use dcp_fuzz::{explore, file};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| explore(&file("model.pt", bytes)));
