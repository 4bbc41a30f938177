//! Checkpoints that the real PyTorch wrote.

use crate::copy::TensorReader;
use crate::format::{self, Reader};
use crate::layout::Region;
use crate::model::Severity;
use crate::storage::local::LocalStore;
use crate::storage::{Key, Place};
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::path::Path;
use std::sync::Arc;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

pub(super) fn fixture(name: &str) -> Place {
    let key = Key::new(name).unwrap();
    Place { store: Arc::new(LocalStore::new(Path::new(FIXTURES))), key }
}

/// Names of the fixtures of this format, and what PyTorch said of each.
pub(super) fn fixtures() -> Vec<(String, Json)> {
    let root = fixture("");
    let all = root.store.list(&root.key).unwrap();
    let metadata = all.iter().filter(|object| {
        matches!(object.key.name(), ".metadata" | "__0.metadata") && object.key.parent().name() == "ckpt"
    });
    let folders = metadata.map(|object| object.key.parent().parent());
    let folders = folders.filter(|folder| !folder.as_str().ends_with("handwritten"));
    folders
        .map(|folder| {
            let expected = root.store.get(&folder.join("expected.json").unwrap(), 1 << 20).unwrap();
            (folder.as_str().to_owned(), serde_json::from_slice(&expected).unwrap())
        })
        .collect()
}

pub(super) fn open(name: &str) -> Arc<dyn Reader> {
    let reader = format::open(&fixture(&format!("{name}/ckpt"))).unwrap();
    assert_eq!(reader.catalog().format, "dcp", "{name}");
    reader
}

/// Compares names, types, shapes and bytes of every tensor.
pub(super) fn check_tensors(name: &str, reader: &dyn Reader, expected: &Json) {
    let expected = expected["tensors"].as_object().unwrap();
    assert_eq!(reader.catalog().tensors.len(), expected.len(), "{name}");
    for (fqn, expected) in expected {
        let tensor = TensorReader::new(reader, fqn).unwrap();
        let shape: Vec<u64> = serde_json::from_value(expected["shape"].clone()).unwrap();
        assert_eq!(tensor.spec().dtype.torch_name(), expected["dtype"].as_str(), "{name}: {fqn}");
        assert_eq!(tensor.spec().shape, shape, "{name}: {fqn}");
        let mut bytes = vec![0; tensor.spec().bytes().unwrap() as usize];
        tensor
            .read(&Region::whole(&shape), &mut bytes)
            .unwrap_or_else(|error| panic!("{name}: {fqn}: {error}"));
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(Some(sum.as_str()), expected["sha256"].as_str(), "{name}: {fqn}");
    }
}

/// Compares every value as Python prints it.
pub(super) fn check_values(name: &str, reader: &dyn Reader, expected: &Json) {
    let expected = expected["objects"].as_object().unwrap();
    assert_eq!(reader.catalog().values.len(), expected.len(), "{name}");
    for (fqn, expected) in expected {
        let fqn = reader.catalog().values.get_key_value(fqn.as_str()).unwrap().0;
        let value = reader.value(fqn).unwrap_or_else(|error| panic!("{name}: {fqn}: {error}"));
        assert_eq!(Some(value.py_repr().as_str()), expected.as_str(), "{name}: {fqn}");
    }
}

#[test]
fn every_tensor_and_value_that_pytorch_saved() {
    let fixtures = fixtures();
    assert!(fixtures.len() >= 30, "{} fixtures", fixtures.len());
    for (name, expected) in fixtures {
        let reader = open(&name);
        let damage: Vec<_> =
            reader.catalog().findings.iter().filter(|found| found.severity == Severity::Damage).collect();
        assert!(damage.is_empty(), "{name}: {damage:?}");
        check_tensors(&name, &*reader, &expected);
        check_values(&name, &*reader, &expected);
    }
}
