//! What every fuzz target does: put hostile bytes where a checkpoint's would be, open it as a user would, and look
//! at everything. Whatever the bytes are, the answer is a catalog or an error: no panic, no hang, no allocation
//! beyond what the bytes justify (`cargo xtask fuzz` sets the limits).

use dcp::convert::{ConvertOptions, plan};
use dcp::format::{self, Reader};
use dcp::model::{ChunkTable, FqnFilter};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place, Storage, open_url};
use dcp::verify::{VerifyOptions, verify};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Files of a checkpoint by name.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Tensors, values and chunks looked at: more of a kind teach nothing.
const LOOKED_AT_MAX: usize = 32;
/// Bytes of elements up to which a checkpoint is verified deeply. Few bytes can describe many elements (an expanded
/// tensor), and reading them all takes its time.
const DEEP_BYTES_MAX: u64 = 1 << 20;

/// A store with the files in a folder.
pub fn folder(files: &Files) -> Place {
    let store = MemoryStore::new();
    let root = Key::new("checkpoint").expect("a constant");
    for (name, bytes) in files {
        store.put(&root.join(name).expect("a file's name"), bytes).expect("an empty store");
    }
    Place { store: Arc::new(store), key: root }
}

/// A store with one file.
pub fn file(name: &str, bytes: &[u8]) -> Place {
    let mut place = folder(&Files::from([(name.to_owned(), bytes.to_vec())]));
    place.key = place.key.join(name).expect("a file's name");
    place
}

/// The files of a fixture's checkpoint.
pub fn fixture(name: &str) -> Files {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(name).join("ckpt");
    files(&open_url(&path.to_string_lossy()).expect("a path"))
}

/// The files of a fixture in the native format.
pub fn native(name: &str) -> Files {
    let reader = format::open(&folder(&fixture(name))).expect("a fixture");
    let place = folder(&Files::new());
    let titan = format::by_name("titan").expect("the native format");
    let conversion = plan(&*reader, &place, titan, &ConvertOptions::default()).expect("a fixture");
    conversion.run(&()).expect("a fixture");
    files(&place)
}

fn files(place: &Place) -> Files {
    let list = place.store.list(&place.key).expect("a fixture");
    let entry = |key: Key| {
        let name = key.below(&place.key)?.to_owned();
        Some((name, place.store.get(&key, 1 << 30).expect("a fixture")))
    };
    list.into_iter().filter_map(|object| entry(object.key)).collect()
}

/// A native manifest: the text up to its checksum, and the checksum that makes it count.
pub fn seal(body: &[u8]) -> Vec<u8> {
    let sum = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64Nvme, body);
    let mut manifest = body.to_vec();
    manifest.extend(format!(",\"crc64\":\"{sum:016x}\"}}\n").into_bytes());
    manifest
}

/// Asserts that a checkpoint is sound: that a target which puts checksums right does put them right.
pub fn assert_sound(files: &Files) {
    let reader = format::open(&folder(files)).expect("a sound checkpoint");
    let options = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 1 };
    let report = verify(&*reader, &options, &()).expect("a sound checkpoint");
    assert!(report.is_sound(), "{:?}", report.findings);
}

/// Opens a checkpoint and looks at everything in it. Errors are made into text, as a user would see them.
pub fn explore(place: &Place) {
    match format::open(place) {
        Ok(reader) => look(&*reader),
        Err(error) => drop(error.to_string()),
    }
}

fn look(reader: &dyn Reader) {
    let catalog = reader.catalog();
    for fqn in catalog.values.keys().take(LOOKED_AT_MAX) {
        match reader.value(fqn) {
            Ok(value) => drop(format!("{value:?}")),
            Err(error) => drop(error.to_string()),
        }
        drop(reader.value_archive(fqn));
    }
    for (fqn, tensor) in catalog.tensors.iter().take(LOOKED_AT_MAX) {
        let ChunkTable::Listed(chunks) = &tensor.chunks else { continue };
        for chunk in chunks.iter().take(LOOKED_AT_MAX) {
            let Ok(elements) = reader.resolve(fqn, tensor, chunk) else { continue };
            let mut head = [0; 64];
            let byte_len = elements.source.byte_len().saturating_sub(elements.byte_offset).min(64) as usize;
            drop(elements.source.read_at(elements.byte_offset, &mut head[..byte_len]));
        }
    }
    // Saturating: a shape from a file may be anything.
    let bytes = catalog.tensors.values().map(|tensor| tensor.spec.bytes().unwrap_or(u64::MAX));
    let deep = bytes.fold(0, u64::saturating_add) <= DEEP_BYTES_MAX;
    drop(verify(reader, &VerifyOptions { deep, filter: FqnFilter::default(), threads: 1 }, &()));
}
