//! What PyTorch wrote, through the engine, and read again.

use super::goldens::{check_tensors, check_values, fixtures, open};
use crate::convert::{self, ConvertOptions};
use crate::format::torch_dcp::TorchDcp;
use crate::format::{self, Format, Pieces, Reader, Target, TargetTensor, WriteOptions};
use crate::layout::Region;
use crate::model::{DType, TensorSpec};
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

#[test]
fn large_chunks_start_at_pages_and_what_torch_lacks_is_refused() {
    let spec = TensorSpec::new(DType::F32, [1 << 20]);
    let tensor = |fqn: &str, spec: &TensorSpec| TargetTensor {
        fqn: fqn.into(),
        spec: spec.clone(),
        path: Vec::new(),
        pieces: Pieces::Listed(vec![(0, Region::whole(&spec.shape)), (2, Region::new([1 << 20], [0]))]),
    };
    let mut target =
        Target { tensors: vec![tensor("a", &spec), tensor("b", &spec)], writers: 3, ..Target::default() };
    let draft = TorchDcp.draft(&target, &WriteOptions::default()).unwrap();
    let objects = draft.objects();
    assert_eq!(objects.iter().map(|object| object.key.as_str()).collect::<Vec<_>>(), NAMES);
    assert_eq!(objects[1].byte_len, 0, "a writer without anything leaves an empty file");
    assert!(objects[2].placed.is_empty() && objects[2].byte_len > 0, "an empty chunk has an item");
    assert!(objects[0].placed.iter().all(|placed| placed.byte_offset.is_multiple_of(4096)));
    target.tensors.push(tensor("a", &spec));
    target.tensors.push(tensor("packed", &TensorSpec::new(DType::F4, [1 << 20])));
    let error = TorchDcp.draft(&target, &WriteOptions::default()).unwrap_err().to_string();
    assert!(error.contains("`packed` (float4_e2m1fn)"), "{error}");
    target.tensors.pop();
    let error = TorchDcp.draft(&target, &WriteOptions::default()).unwrap_err().to_string();
    assert!(error.contains("two entries of one name: `a`"), "{error}");
}

const NAMES: [&str; 3] = ["__0_0.distcp", "__1_0.distcp", "__2_0.distcp"];
