//! A safetensors file, alone and as a shard of PyTorch's sharded layout.
#![no_main]

use dcp_fuzz::{Files, explore, file, folder};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    explore(&file("model.safetensors", bytes));
    let name = "shard-00001-model-00001-of-00001.safetensors";
    explore(&folder(&Files::from([(name.to_owned(), bytes.to_vec())])));
});
