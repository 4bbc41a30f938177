//! What PyTorch wrote, through the engine, and read again.

use super::goldens::{check_tensors, check_values, fixtures, open};
use crate::convert::{self, ConvertOptions};
use crate::format::torch_dcp::TorchDcp;
use crate::format::{self, Reader};
use crate::storage::memory::MemoryStore;
use crate::storage::{Key, Place};
use std::sync::Arc;

/// Converts an open checkpoint to this format in memory.
pub(super) fn convert(reader: &dyn Reader) -> Place {
    let place = Place { store: Arc::new(MemoryStore::new()), key: Key::new("run/step-12").unwrap() };
    convert::plan(reader, &place, &TorchDcp, &ConvertOptions::default()).unwrap().run(&()).unwrap();
    place
}

#[test]
fn every_fixture_comes_back() {
    for (name, expected) in fixtures() {
        let source = open(&name);
        let place = convert(&*source);
        let copy = format::open(&place).unwrap();
        assert!(copy.catalog().findings.is_empty(), "{name}: {:?}", copy.catalog().findings);
        assert_eq!(copy.catalog().step, Some(12));
        check_tensors(&name, &*copy, &expected);
        check_values(&name, &*copy, &expected);
        for (fqn, value) in &source.catalog().values {
            assert_eq!(copy.catalog().values[fqn].path, value.path, "{name}: {fqn}");
            assert_eq!(copy.value_archive(fqn).unwrap(), source.value_archive(fqn).unwrap(), "{name}: {fqn}");
        }
        for (fqn, tensor) in &source.catalog().tensors {
            assert_eq!(copy.catalog().tensors[fqn].path, tensor.path, "{name}: {fqn}");
        }
        let writers = |reader: &dyn Reader| reader.catalog().objects.iter().map(|o| o.writer).max();
        assert_eq!(writers(&*copy), writers(&*source), "{name}");
        let options = crate::verify::VerifyOptions { deep: true, threads: 1, filter: Default::default() };
        let report = crate::verify::verify(&*copy, &options, &()).unwrap();
        assert!(report.findings.is_empty(), "{name}: {:?}", report.findings);
    }
}
