//! The native format's part record of one writer. The manifest is made to vouch for it, and it for the attempt.
#![no_main]

use dcp_fuzz::{Files, assert_sound, explore, folder, native, seal};
use serde_json::{Value, json};
use std::sync::LazyLock;

static BASE: LazyLock<Base> = LazyLock::new(Base::new);

struct Base {
    files: Files,
    part_name: String,
    attempt: String,
    manifest: Value,
}

impl Base {
    fn new() -> Self {
        let files = native("torch-2.11/ws2_tp");
        let part_name =
            files.keys().find(|name| name.ends_with(".part.json")).expect("a part record").clone();
        let mut manifest: Value = serde_json::from_slice(&files["titan-0000.json"]).expect("a manifest");
        let attempt = manifest["attempt"].as_str().expect("an attempt").to_owned();
        manifest.as_object_mut().expect("an object").remove("crc64");
        let base = Base { files, part_name, attempt, manifest };
        assert_sound(&base.with_part(base.files[&base.part_name].clone()));
        base
    }

    /// The checkpoint with another part record that everything vouches for.
    fn with_part(&self, mut part: Vec<u8>) -> Files {
        let key = b"\"attempt\":\"";
        if let Some(at) = part.windows(key.len()).position(|window| window == key) {
            let from = at + key.len();
            let until = (from + self.attempt.len()).min(part.len());
            part[from..until].copy_from_slice(&self.attempt.as_bytes()[..until - from]);
        }
        let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, &part);
        let mut manifest = self.manifest.clone();
        manifest["writers"][0][0] = json!(part.len());
        manifest["writers"][0][1] = json!(format!("{sum:016x}"));
        let text = manifest.to_string();
        let mut files = self.files.clone();
        files.insert("titan-0000.json".to_owned(), seal(text.trim_end_matches('}').as_bytes()));
        files.insert(self.part_name.clone(), part);
        files
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| explore(&folder(&BASE.with_part(bytes.to_vec()))));
