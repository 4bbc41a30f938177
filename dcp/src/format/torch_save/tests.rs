//! Real files, and files that lie.

use super::TorchSave;
use crate::convert::{ConvertOptions, Sharding, plan};
use crate::copy::TensorReader;
use crate::format::wire::pickle_write::PickleWriter;
use crate::format::wire::tensor::{write_storage, write_tensor};
use crate::format::wire::zip_write::{Contents, NewRecord, ZipLayout};
use crate::format::{Format, Pieces, Reader, Target, TargetTensor, TargetValue, WriteOptions, open};
use crate::layout::Region;
use crate::model::{DType, Fqn, InlineTensor, PathPart, Severity, TensorSpec, Value};
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
fn archive(fill: impl FnOnce(&mut PickleWriter)) -> Vec<u8> {
    let mut writer = PickleWriter::new();
    fill(&mut writer);
    archive_of(writer.finish())
}

fn archive_of(pickle: Vec<u8>) -> Vec<u8> {
    let record = |name: &str, bytes| NewRecord {
        name: name.into(),
        contents: Contents::Known(bytes),
        align_bytes: 64,
    };
    ZipLayout::new("x", vec![record("data.pkl", pickle), record("data/0", vec![0; 16])]).to_bytes()
}

#[test]
fn files_that_lie_are_refused() {
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
    let [finding] = &reader.catalog().findings[..] else { panic!("{:?}", reader.catalog().findings) };
    assert_eq!((finding.severity, finding.fqn.as_ref().unwrap().as_str()), (Severity::Note, "x"));
    assert!(finding.message.contains("os.system"), "{}", finding.message);
}

/// A tensor of f32, 16 bytes, in storage 0.
fn small(writer: &mut PickleWriter) {
    write_tensor(writer, &TensorSpec::new(DType::F32, [4]), "0").unwrap();
}

/// The small tensor as part of a value.
fn small_value() -> Value {
    Value::Tensor(InlineTensor { spec: TensorSpec::new(DType::F32, [4]), bytes: vec![0; 16] })
}

#[test]
fn one_tensor_that_has_no_plain_elements_leaves_the_rest_readable() {
    let bytes = archive(|writer| {
        writer.dict(|writer| {
            writer.str("sparse");
            writer.call("torch._utils", "_rebuild_sparse_tensor", 0, |_| {});
            writer.str("w");
            small(writer);
        });
    });
    let reader = open_bytes(&bytes).unwrap();
    assert_eq!(reader.catalog().tensors.len(), 1);
    let opaque = Value::Opaque { global: "torch._utils._rebuild_sparse_tensor".into() };
    assert_eq!(reader.value(&"sparse".into()).unwrap(), opaque);
    // It is refused by name when it is to be written, unless it is left out.
    let store = Arc::new(crate::storage::memory::MemoryStore::new());
    let place = Place { store, key: crate::storage::Key::new("out").unwrap() };
    let write = WriteOptions { file_name: Some("again.pt".into()), ..WriteOptions::default() };
    let options = ConvertOptions { sharding: Sharding::Whole, write, ..ConvertOptions::default() };
    let error = plan(&*reader, &place, &TorchSave, &options).err().unwrap().to_string();
    assert!(error.contains("sparse (<torch._utils._rebuild_sparse_tensor>)"), "{error}");
}

#[test]
fn nesting_is_flattened_as_the_planner_of_pytorch_does() {
    let bytes = archive(|writer| {
        writer.dict(|writer| {
            writer.int(7);
            writer.dict(|writer| {
                writer.bool(true);
                small(writer);
                writer.none();
                writer.float(0.5);
            });
            writer.float(1.5);
            writer.str("float key");
            writer.str("dotted.key");
            small(writer);
            // Lists are leaves unless a tensor or dict is in them, in lists inside them too.
            writer.str("plain");
            writer.list(|writer| writer.list(|writer| writer.int(1)));
            writer.str("deep");
            writer.list(|writer| {
                writer.list(|writer| writer.dict(|_| {}));
                writer.list(small);
                writer.int(3);
            });
            // Tuples are leaves, whatever they hold.
            writer.str("tuple");
            writer.tuple(1, small);
            writer.str("empty");
            writer.dict(|_| {});
        });
    });
    let reader = open_bytes(&bytes).unwrap();
    let catalog = reader.catalog();
    let tensors: Vec<_> = catalog.tensors.keys().map(Fqn::as_str).collect();
    assert_eq!(tensors, ["7.True", "dotted.key", "deep.1.0"]);
    let values: Vec<_> = catalog.values.keys().map(Fqn::as_str).collect();
    assert_eq!(values, ["7.None", "1.5", "plain", "deep.2", "tuple"]);
    let key = |key: &str| PathPart::Key(key.into());
    assert_eq!(catalog.tensors["7.True"].path, [key("7"), key("True")]);
    assert_eq!(catalog.tensors["dotted.key"].path, [key("dotted.key")]);
    assert_eq!(catalog.tensors["deep.1.0"].path, [key("deep"), PathPart::Index(1), PathPart::Index(0)]);
    assert_eq!(reader.value(&"tuple".into()).unwrap(), Value::Tuple(vec![small_value()]));
}

/// The stream before PyTorch 1.6: keys and storages behind the object's pickle.
fn legacy(fill: impl FnOnce(&mut PickleWriter), storages: &[(&str, u64, Vec<u8>)]) -> Vec<u8> {
    let pickled = |fill: &dyn Fn(&mut PickleWriter)| {
        let mut writer = PickleWriter::new();
        fill(&mut writer);
        writer.finish()
    };
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.".to_vec();
    bytes.extend(pickled(&|writer| writer.int(1001)));
    bytes.extend(pickled(&|writer| writer.dict(|_| {})));
    let mut writer = PickleWriter::new();
    fill(&mut writer);
    bytes.extend(writer.finish());
    bytes.extend(pickled(&|writer| {
        writer.list(|writer| storages.iter().for_each(|(key, ..)| writer.str(key)));
    }));
    for (_, count, data) in storages {
        bytes.extend(count.to_le_bytes());
        bytes.extend(data);
    }
    bytes
}

#[test]
fn legacy_streams_with_storages_that_only_values_use() {
    let fill = |writer: &mut PickleWriter| {
        writer.dict(|writer| {
            writer.str("pair");
            writer.tuple(1, small);
            writer.str("w");
            write_tensor(writer, &TensorSpec::new(DType::I64, [1]), "11").unwrap();
        });
    };
    let (floats, long) = (vec![0; 16], 7i64.to_le_bytes().to_vec());
    let storages = [("0", 4, floats.clone()), ("11", 1, long.clone())];
    let reader = open_bytes(&legacy(fill, &storages)).unwrap();
    assert_eq!(reader.value(&"pair".into()).unwrap(), Value::Tuple(vec![small_value()]));
    assert_eq!(bytes(&*reader, "w"), long);
    type Storages<'a> = &'a [(&'a str, u64, Vec<u8>)];
    let cases: &[(Storages<'_>, &str)] = &[
        (&storages[..1], "storage `11` is not in the file"),
        (
            &[("0", 3, floats.clone()), storages[1].clone()],
            "has 3 elements of 4 bytes, 16 bytes are expected",
        ),
        (&[storages[0].clone(), ("12", 1, long)], "nothing uses storage `12`"),
        (&[storages[0].clone(), ("11", 1, vec![0; 7])], "truncated"),
        (&[("0", u64::MAX, floats)], "elements of 4 bytes"),
    ];
    for (storages, said) in cases {
        let error = open_bytes(&legacy(fill, storages)).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn damage_in_records_that_no_tensor_fills_is_found() {
    let bytes = archive(|writer| {
        writer.dict(|writer| {
            writer.str("half");
            writer.call("torch._utils", "_rebuild_tensor", 4, |writer| {
                write_storage(writer, ("torch", "FloatStorage"), "0", 4);
                writer.int(0);
                writer.int_tuple(&[2]);
                writer.int_tuple(&[1]);
            });
        });
    });
    let findings = |bytes: &[u8]| {
        let mut findings = Vec::new();
        open_bytes(bytes).unwrap().verify_framing(&mut |finding| findings.push(finding)).unwrap();
        findings
    };
    assert!(findings(&bytes).is_empty());
    let mut damaged = bytes;
    let data = damaged.windows(16).rposition(|window| window == [0; 16]).unwrap();
    let start = (data / 64) * 64;
    damaged[start + 15] ^= 1;
    let [finding] = &findings(&damaged)[..] else { panic!("{:?}", findings(&damaged)) };
    assert_eq!(finding.severity, Severity::Damage);
    assert!(finding.message.contains("record `data/0` does not have its CRC-32"), "{}", finding.message);
    assert!(finding.message.contains("tensors in it: half"), "{}", finding.message);
}

fn value_at(fqn: &str, path: Vec<PathPart>, value: Value) -> TargetValue {
    TargetValue { fqn: fqn.into(), path, value, archive: None, writer: 0 }
}

#[test]
fn what_cannot_be_written_is_listed_by_name() {
    let key = |key: &str| PathPart::Key(key.into());
    let refused = |values: Vec<TargetValue>, tensors: Vec<TargetTensor>| {
        let target = Target { values, tensors, writers: 1, ..Target::default() };
        TorchSave.draft(&target, &WriteOptions::default()).unwrap_err().to_string()
    };
    let odd = Value::List(vec![Value::NumpyScalar { dtype: "<M8".into(), bytes: vec![0; 8] }]);
    let opaque = Value::Tuple(vec![Value::Opaque { global: "m.C".into() }]);
    let tensor = TargetTensor {
        fqn: "packed".into(),
        spec: TensorSpec::new(DType::F4, [2]),
        path: vec![],
        pieces: Pieces::Listed(vec![(0, Region::whole(&[2]))]),
    };
    let at = |path: Vec<PathPart>| value_at("x", path, Value::None);
    for (error, said) in [
        (refused(vec![value_at("date", vec![], odd)], vec![]), "date (a numpy scalar of type <M8)"),
        (refused(vec![value_at("object", vec![], opaque)], vec![]), "object ((<m.C>,))"),
        (refused(vec![], vec![tensor]), "packed (float4_e2m1fn)"),
        (refused(vec![at(vec![key("a"), PathPart::Index(1 << 60)])], vec![]), "index jumps from 0 to"),
        (refused(vec![at(vec![key("a")]), at(vec![key("a")])], vec![]), "x: its place in the nested dict"),
        (refused(vec![at(vec![key("a")]), at(vec![key("a"), key("b")])], vec![]), "inside another entry"),
        (refused(vec![at(vec![key("a"); 100_000])], vec![]), "too deep"),
    ] {
        assert!(error.contains(said), "{error}");
    }
}

mod attacks {
    use super::*;

    /// Dicts that hold the one before twice: a hundred of them stand for 2^100 entries, none of them a leaf.
    #[test]
    fn dicts_that_multiply() {
        let mut pickle = b"\x80\x02}q\0".to_vec();
        for level in 1..=100u8 {
            pickle.extend([b'}', b'q', level, b'(']);
            pickle.extend([b'K', 1, b'h', level - 1, b'K', 2, b'h', level - 1, b'u']);
        }
        // The dicts are left on the stack one above the other: take the last one.
        pickle.splice(2..2, *b"(");
        pickle.extend(b"1hd.");
        let error = open_bytes(&archive_of(pickle)).unwrap_err();
        assert!(matches!(error, crate::Error::OverLimit { .. }), "{error}");
    }

    /// Lists that hold the one before twice, the innermost an empty dict: nothing that takes memory.
    #[test]
    fn lists_of_dicts_that_multiply() {
        let mut pickle = b"\x80\x02(}q\0".to_vec();
        for level in 1..=100u8 {
            pickle.extend([b']', b'q', level, b'(']);
            pickle.extend([b'h', level - 1, b'h', level - 1, b'e']);
        }
        pickle.extend(b"1h\x64.");
        let error = open_bytes(&archive_of(pickle)).unwrap_err().to_string();
        assert!(error.contains("10000000 entries"), "{error}");
    }

    /// The same with leaves, whose names and paths take memory.
    #[test]
    fn names_that_multiply() {
        let mut pickle = b"\x80\x02(N".to_vec();
        pickle.extend(b"q\0");
        for level in 1..=24u8 {
            pickle.extend([b'}', b'q', level, b'(']);
            pickle.extend([b'K', 1, b'h', level - 1, b'K', 2, b'h', level - 1, b'u']);
        }
        pickle.extend(b"1h\x18.");
        let error = open_bytes(&archive_of(pickle)).unwrap_err();
        assert!(matches!(error, crate::Error::OverLimit { .. }), "{error}");
    }

    /// The same of lists, which are looked through for tensors before they are read. The innermost holds a tuple with a
    /// tensor of a terabyte, expanded from four bytes.
    #[test]
    fn lists_that_multiply() {
        let mut writer = PickleWriter::new();
        writer.tuple(1, |writer| {
            writer.call("torch._utils", "_rebuild_tensor", 4, |writer| {
                write_storage(writer, ("torch", "FloatStorage"), "0", 4);
                writer.int(0);
                writer.int_tuple(&[1 << 38]);
                writer.int_tuple(&[0]);
            });
        });
        let tuple = writer.finish();
        let mut pickle = b"\x80\x02(]q\x80".to_vec();
        pickle.extend(&tuple[2..tuple.len() - 1]);
        pickle.push(b'a');
        for level in 1..=100u8 {
            let below = 0x80 + level - 1;
            pickle.extend([b']', b'q', below + 1, b'(', b'h', below, b'h', below, b'e']);
        }
        pickle.extend(b"1}K\x01h\xe4s.");
        let reader = open_bytes(&archive_of(pickle)).unwrap();
        let error = reader.value(&"1".into()).unwrap_err().to_string();
        assert!(error.contains("the memory that its values need"), "{error}");
        assert_eq!(reader.catalog().findings[0].severity, Severity::Damage);
    }

    #[test]
    fn nesting_without_end() {
        for (pickle, said) in [
            (&b"\x80\x02}q\0K\x01h\0s."[..], "nests over 256 deep"),
            (b"\x80\x02]q\0}K\x01h\0sa.", "nests over 256 deep"),
        ] {
            let error = open_bytes(&archive_of(pickle.to_vec())).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        // A list of itself is a leaf that cannot be read.
        let reader = open_bytes(&archive_of(b"\x80\x02}K\x01]q\0h\0as.".to_vec())).unwrap();
        assert!(reader.value(&"1".into()).unwrap_err().to_string().contains("holds itself"));
    }

    #[test]
    fn keys_that_are_no_keys() {
        for (pickle, said) in [
            (&b"\x80\x02}cos\nsystem\nNs."[..], "a dict key of an unknown type: <os.system>"),
            (b"\x80\x02}]q\0h\0aNs.", "holds itself"),
        ] {
            let error = open_bytes(&archive_of(pickle.to_vec())).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
