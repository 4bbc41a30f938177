//! Real files, and files that lie.

use super::TorchSave;
use crate::convert::{ConvertOptions, Sharding, plan};
use crate::copy::TensorReader;
use crate::format::{Format, Reader, WriteOptions, open};
use crate::layout::Region;
use crate::model::{DType, Fqn, Value};
use crate::storage::{Place, open_url};
use std::collections::BTreeSet;
use std::sync::Arc;

fn fixture(name: &str) -> Arc<dyn Reader> {
    let path = format!("{}/../fixtures/torch-2.11/{name}", env!("CARGO_MANIFEST_DIR"));
    open(&open_url(&path).unwrap()).unwrap()
}

fn bytes(reader: &dyn Reader, fqn: &str) -> Vec<u8> {
    let tensor = TensorReader::new(reader, fqn).unwrap();
    let mut bytes = vec![0; tensor.spec().bytes().unwrap() as usize];
    tensor.read(&Region::whole(&tensor.spec().shape), &mut bytes).unwrap();
    bytes
}

fn names(reader: &dyn Reader) -> (BTreeSet<&Fqn>, BTreeSet<&Fqn>) {
    (reader.catalog().tensors.keys().collect(), reader.catalog().values.keys().collect())
}

/// Every tensor and value of two checkpoints is equal; their order may differ.
fn assert_same(a: &dyn Reader, b: &dyn Reader) {
    assert_eq!(names(a), names(b));
    for fqn in a.catalog().tensors.keys() {
        assert_eq!(bytes(a, fqn.as_str()), bytes(b, fqn.as_str()), "{fqn}");
    }
    for fqn in a.catalog().values.keys() {
        assert_eq!(a.value(fqn).unwrap(), b.value(fqn).unwrap(), "{fqn}");
    }
}

#[test]
fn the_full_llama_file_equals_the_sharded_checkpoint_it_was_made_from() {
    let (whole, sharded) = (fixture("pt_files/llama_full.pt"), fixture("llama_ws2_fsdp/ckpt"));
    assert_eq!(names(&*whole).0, names(&*sharded).0);
    for fqn in whole.catalog().tensors.keys() {
        assert_eq!(bytes(&*whole, fqn.as_str()), bytes(&*sharded, fqn.as_str()), "{fqn}");
    }
}

#[test]
fn every_real_file_survives_being_written_again() {
    for name in ["llama_full.pt", "objects.pt", "shared_views.pt", "legacy_nonzip.pt"] {
        let source = fixture(&format!("pt_files/{name}"));
        let folder = tempfile::tempdir().unwrap();
        let place = open_url(folder.path().join("out").to_str().unwrap()).unwrap();
        let write = WriteOptions { file_name: Some("again.pt".into()), ..WriteOptions::default() };
        let options = ConvertOptions { sharding: Sharding::Whole, write, ..ConvertOptions::default() };
        plan(&*source, &place, &TorchSave, &options).unwrap().run(&()).unwrap();
        assert_same(&*source, &*open(&place).unwrap());
    }
}

#[test]
fn views_of_a_shared_storage_are_read_through_their_strides() {
    let reader = fixture("pt_files/shared_views.pt");
    assert!(!reader.catalog().tensors.is_empty());
    let strided = reader.catalog().tensors.iter().filter(|(fqn, tensor)| {
        let chunk = &tensor.chunks.all(&tensor.spec.shape).unwrap()[0];
        reader.resolve(fqn, tensor, chunk).unwrap().strides.is_some()
    });
    assert!(strided.count() > 0);
}

fn open_bytes(bytes: &[u8]) -> crate::Result<Arc<dyn Reader>> {
    let store = Arc::new(crate::storage::memory::MemoryStore::new());
    let place = Place { store, key: crate::storage::Key::new("file.pt").unwrap() };
    place.store.put(&place.key, bytes).unwrap();
    TorchSave.open(&crate::format::Candidate::new(&place).unwrap())
}

/// An archive whose `data.pkl` is written by `fill`, with one storage of 16 bytes.
fn archive(fill: impl FnOnce(&mut crate::format::wire::pickle_write::PickleWriter)) -> Vec<u8> {
    use crate::format::wire::zip_write::{Contents, NewRecord, ZipLayout};
    let mut writer = crate::format::wire::pickle_write::PickleWriter::new();
    fill(&mut writer);
    let record = |name: &str, bytes| NewRecord {
        name: name.into(),
        contents: Contents::Known(bytes),
        align_bytes: 64,
    };
    ZipLayout::new("x", vec![record("data.pkl", writer.finish()), record("data/0", vec![0; 16])]).to_bytes()
}

#[test]
fn files_that_lie_are_refused() {
    use crate::format::wire::tensor::write_tensor;
    use crate::model::TensorSpec;
    let tensor = |shape: &[u64], key: &'static str| {
        let spec = TensorSpec::new(DType::F32, shape);
        archive(|writer| {
            writer.dict(|writer| {
                writer.str("w");
                write_tensor(writer, &spec, key).unwrap();
            });
        })
    };
    assert!(open_bytes(&tensor(&[4], "0")).is_ok());
    let twice = archive(|writer| {
        writer.dict(|writer| {
            writer.str("a.b");
            writer.none();
            writer.str("a");
            writer.dict(|writer| {
                writer.str("b");
                writer.none();
            });
        });
    });
    for (bytes, said) in [
        (tensor(&[5], "0"), "20 stored bytes are expected"),
        (tensor(&[4], "1"), "no record"),
        (tensor(&[4], "../../etc/passwd"), "no record"),
        (twice, "two entries are named `a.b`"),
        (b"PK\x03\x04".to_vec(), "zip archive"),
        (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec(), "do not end inside it"),
    ] {
        let error = open_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn nothing_is_executed_and_the_class_is_named() {
    let bytes = archive(|writer| {
        writer.dict(|writer| {
            writer.str("x");
            writer.call("os", "system", 1, |writer| writer.str("true"));
        });
    });
    let reader = open_bytes(&bytes).unwrap();
    assert_eq!(reader.value(&"x".into()).unwrap(), Value::Opaque { global: "os.system".into() });
}
