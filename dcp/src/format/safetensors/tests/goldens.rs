//! Files that the real PyTorch and safetensors wrote.

use super::super::header::read_header;
use super::{contents, folder, inside, open, told};
use crate::format::Reader;
use crate::model::{DType, Severity};
use crate::storage::local::LocalStore;
use crate::storage::memory::MemoryObject;
use crate::storage::{Key, Place};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

fn fixture(name: &str) -> Place {
    let key = Key::new(name).unwrap();
    Place { store: Arc::new(LocalStore::new(Path::new(FIXTURES))), key }
}

/// Compares catalog and bytes with what PyTorch said of them; returns the number of tensors.
fn check(reader: &dyn Reader, expected: &Place) -> usize {
    let bytes = expected.store.get(&expected.key, 1 << 20).unwrap();
    let expected: Value = serde_json::from_slice(&bytes).unwrap();
    let catalog = reader.catalog();
    for (fqn, tensor) in &catalog.tensors {
        let expected = &expected["tensors"][fqn.as_str()];
        let shape: Vec<u64> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(tensor.spec.dtype.torch_name(), expected["dtype"].as_str(), "{fqn}");
        assert_eq!(tensor.spec.shape, shape, "{fqn}");
        let sum: String =
            Sha256::digest(contents(reader, fqn.as_str())).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(sum.as_str()), expected["sha256"].as_str(), "{fqn}");
    }
    catalog.tensors.len()
}

/// Opens a fixture, which must have all tensors that PyTorch saved.
fn check_all(ckpt: &str, expected: &str) -> Arc<dyn Reader> {
    let (reader, expected) = (open(&fixture(ckpt)).unwrap(), fixture(expected));
    let found = check(&*reader, &expected);
    let bytes = expected.store.get(&expected.key, 1 << 20).unwrap();
    let expected: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(found, expected["tensors"].as_object().unwrap().len());
    assert_eq!(told(&reader.catalog().findings, Severity::Damage), [""; 0]);
    reader
}

#[test]
fn every_file_that_the_safetensors_library_wrote() {
    let place = fixture("");
    let all = place.store.list(&place.key).unwrap();
    let files: Vec<_> = all.iter().filter(|object| object.key.name() == "expected.safetensors").collect();
    assert!(files.len() >= 23, "{} fixtures", files.len());
    for object in files {
        let file = Place { store: Arc::clone(&place.store), key: object.key.clone() };
        let reader = open(&file).unwrap();
        assert!(reader.catalog().findings.is_empty(), "{:?}", reader.catalog().findings);
        assert!(check(&*reader, &inside(&Place { key: file.key.parent(), ..file }, "expected.json")) > 0);
    }
}

#[test]
fn a_folder_with_an_index() {
    let reader = check_all("torch-2.11/ws1_hf_two_files/ckpt", "torch-2.11/ws1_hf_two_files/expected.json");
    let catalog = reader.catalog();
    let names: Vec<_> = catalog.tensors.keys().map(|fqn| fqn.as_str()).collect();
    assert_eq!(names, ["a", "c", "b"], "the order of the files");
    assert!(catalog.findings.is_empty(), "{:?}", catalog.findings);
    assert_eq!(catalog.attributes["total_size"], "90");
    assert_eq!(catalog.attributes["format"], "pt");
    let objects: Vec<_> = catalog.objects.iter().map(|object| (object.key.name(), object.byte_len)).collect();
    assert_eq!(
        objects,
        [("model-00001-of-00002.safetensors", 224), ("model-00002-of-00002.safetensors", 306)]
    );
    // The index can be named itself.
    let index = inside(&fixture("torch-2.11/ws1_hf_two_files/ckpt"), "model.safetensors.index.json");
    assert_eq!(open(&index).unwrap().catalog().tensors.len(), 3);
}

#[test]
fn a_folder_of_boxes() {
    let reader = check_all("torch-2.11/ws2_hf_sharded/ckpt", "torch-2.11/ws2_hf_sharded/expected.json");
    let catalog = reader.catalog();
    let writers: Vec<_> = catalog.objects.iter().map(|object| object.writer).collect();
    assert_eq!(writers, [Some(0), Some(1)]);
    let chunks: Vec<_> =
        catalog.tensors.iter().map(|(fqn, tensor)| (fqn.as_str(), tensor.chunks.count())).collect();
    assert_eq!(chunks, [("w.a", 2), ("w.b", 2), ("h", 2), ("norm", 1), ("rep", 1)]);
    let notes = told(&catalog.findings, Severity::Note);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].contains("do not record the tensors' shapes"));
    let attributes: Vec<_> = catalog.attributes.keys().map(String::as_str).collect();
    assert!(
        !attributes.contains(&"DCP_SHARDING_INFO") && attributes.contains(&"DCP_VERSION"),
        "{attributes:?}"
    );
}

#[test]
fn consolidated_files_and_the_shards_they_were_made_from() {
    let (ckpt, expected) =
        ("torch-2.11/ws2_hf_consolidated/ckpt", "torch-2.11/ws2_hf_consolidated/expected.json");
    let whole = check_all(ckpt, expected);
    assert!(whole.catalog().findings.is_empty(), "{:?}", whole.catalog().findings);
    assert!(whole.catalog().tensors.values().all(|tensor| tensor.chunks.count() == 1));
    let shards = check_all(&format!("{ckpt}/sharded"), expected);
    assert_eq!(shards.catalog().objects.len(), 4);
    assert_eq!(told(&shards.catalog().findings, Severity::Note).len(), 1);
}

#[test]
fn shards_are_read_where_consolidation_did_not_finish() {
    let ckpt = fixture("torch-2.11/ws2_hf_consolidated/ckpt/sharded");
    let files: Vec<_> = ckpt
        .store
        .list(&ckpt.key)
        .unwrap()
        .into_iter()
        .map(|object| {
            (format!("sharded/{}", object.key.name()), ckpt.store.get(&object.key, 1 << 20).unwrap())
        })
        .collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let reader = open(&folder(&files)).unwrap();
    assert_eq!(check(&*reader, &fixture("torch-2.11/ws2_hf_consolidated/expected.json")), 5);
    assert!(told(&reader.catalog().findings, Severity::Note)[0].contains("the shards in `sharded` are read"));
}

#[test]
fn a_header_that_does_not_start_its_file() {
    let place = fixture("torch-2.11/ws2_fswriter_safetensors/ckpt/__1_0.distcp");
    let bytes = place.store.get(&place.key, 1 << 20).unwrap();
    let read = |base: usize| {
        let bytes = [vec![0xAB; base], bytes.clone()].concat();
        read_header(&MemoryObject::new("x", bytes), base as u64, "x").unwrap()
    };
    let (plain, shifted) = (read(0), read(1261));
    assert_eq!((plain.end, shifted.end), (bytes.len() as u64, bytes.len() as u64 + 1261));
    assert_eq!(plain.metadata["DCP_VERSION"], "1.0");
    let tensor = &plain.tensors["w.b"];
    assert_eq!((tensor.spec.dtype, &tensor.spec.shape[..]), (DType::BF16, &[4, 3][..]));
    for (fqn, tensor) in &plain.tensors {
        let expected = tensor.bytes.start + 1261..tensor.bytes.end + 1261;
        assert_eq!(shifted.tensors[fqn].bytes, expected, "{fqn}");
    }
}
