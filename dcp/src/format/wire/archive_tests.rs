use super::super::tensor::write_storage;
use super::*;
use crate::format::open;
use crate::model::{DType, Fqn, InlineTensor, TensorSpec};
use crate::storage::open_url;
use std::path::Path;

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../fixtures");

/// An archive of a pickle and 24 bytes of storage.
fn archive(pickle: &[u8]) -> Vec<u8> {
    let records = [
        record(PICKLE_NAME, pickle.to_vec()),
        record("data/0", (0..24).collect()),
        record("version", b"3\n".to_vec()),
    ];
    ZipLayout::new("archive", records.into()).to_bytes()
}

fn decoded(fill: impl FnOnce(&mut PickleWriter)) -> Result<Value> {
    let mut writer = PickleWriter::new();
    fill(&mut writer);
    decode(&archive(&writer.finish()), "item")
}

/// Folders of fixtures with a file that says what torch saw.
fn fixtures() -> Vec<std::path::PathBuf> {
    let folders = ["torch-2.4", "torch-2.11", "torch-2.15"].into_iter().flat_map(|torch| {
        std::fs::read_dir(Path::new(FIXTURES).join(torch)).unwrap().map(|entry| entry.unwrap().path())
    });
    folders.filter(|folder| folder.join("expected.json").exists()).collect()
}

#[test]
fn values_of_real_checkpoints_print_as_in_python() {
    let mut checked = 0;
    for folder in fixtures() {
        let expected = std::fs::read(folder.join("expected.json")).unwrap();
        let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
        let objects = expected["objects"].as_object().cloned().unwrap_or_default();
        if objects.is_empty() || folder.ends_with("ws2_no_collectives") {
            continue;
        }
        let reader = open(&open_url(folder.join("ckpt").to_str().unwrap()).unwrap()).unwrap();
        for (name, repr) in objects {
            let value = reader.value(&Fqn::from(name.as_str())).unwrap();
            assert_eq!(value.py_repr(), repr, "{} {name}", folder.display());
            // What is read can be written, and is the same when read again.
            assert_eq!(decode(&encode(&value).unwrap(), "again").unwrap(), value, "{name}");
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} values were compared");
}

fn tensor(dtype: DType, shape: &[u64], bytes: &[u8]) -> Value {
    Value::Tensor(InlineTensor { spec: TensorSpec::new(dtype, shape), bytes: bytes.to_vec() })
}

#[test]
fn decodes_what_it_encodes() {
    let pairs = vec![
        (Value::Int(0), Value::Str("s".into())),
        (Value::Str("k".into()), Value::Float(-0.5)),
        (Value::Tuple(vec![Value::Bool(true), Value::None]), Value::List(vec![])),
    ];
    let values = [
        Value::None,
        Value::Int(i64::MIN),
        Value::BigInt(vec![0, 0, 0, 0, 0, 0, 0, 0, 1]),
        Value::BigInt([vec![0; 300], vec![0x80]].concat()),
        Value::Bytes(vec![]),
        Value::Bytes((0..=255).collect()),
        Value::ByteArray(vec![200, 1]),
        Value::ByteArray(vec![]),
        Value::Complex(1.0, -0.0),
        Value::Float(f64::INFINITY),
        Value::Tuple(vec![
            tensor(DType::F32, &[2], &[0, 0, 0, 0, 0, 0, 128, 63]),
            Value::Int(5),
            tensor(DType::F8E4M3, &[0, 3], &[]),
            tensor(DType::C128, &[], &[7; 16]),
        ]),
        Value::List((0..5000).map(Value::Int).collect()),
        Value::Set(vec![Value::Int(3)]),
        Value::Set(vec![]),
        Value::Dict(pairs.clone()),
        Value::OrderedDict(pairs),
        Value::OrderedDict(vec![]),
        Value::Size(vec![2, 3]),
        Value::Size(vec![]),
        Value::DType(DType::BF16),
        Value::Device("cuda:1".into()),
        Value::Device("cpu".into()),
        Value::NumpyScalar { dtype: "<f4".into(), bytes: vec![0, 0, 192, 63] },
        Value::NumpyScalar { dtype: "<U2".into(), bytes: vec![65, 0, 0, 0, 0, 0, 0, 0] },
        Value::NumpyArray { dtype: "<i8".into(), shape: vec![1, 2], bytes: vec![1; 16] },
        Value::NumpyArray { dtype: "|S3".into(), shape: vec![2], bytes: b"abcde\0".to_vec() },
        Value::NumpyArray { dtype: ">u2".into(), shape: vec![0, 7], bytes: vec![] },
    ];
    for value in values {
        assert_eq!(decode(&encode(&value).unwrap(), "item").unwrap(), value);
    }
}

#[test]
fn what_cannot_be_written_is_named() {
    for (value, named) in [
        (Value::Opaque { global: "os.system".into() }, "os.system"),
        (Value::DType(DType::F4), "float4_e2m1fn"),
        (Value::List(vec![Value::NumpyScalar { dtype: "|O8".into(), bytes: vec![0; 8] }]), "|O8"),
        (Value::Dict(vec![(Value::None, tensor(DType::F6E2M3, &[4], &[0; 3]))]), "float6_e2m3fn"),
    ] {
        assert!(encode(&value).unwrap_err().contains(named));
    }
}

#[test]
fn spellings_of_older_and_newer_picklers() {
    let cases: &[(&[u8], Value)] = &[
        // Protocol 0 and Python 2: OrderedDict with its items as an argument.
        (
            b"ccollections\nOrderedDict\n((lp0\n(S'a'\nI1\ntp1\natR.",
            Value::OrderedDict(vec![(Value::Str("a".into()), Value::Int(1))]),
        ),
        (b"\x80\x02c__builtin__\nset\n]K\x03a\x85R.", Value::Set(vec![Value::Int(3)])),
        (b"\x80\x02c__builtin__\nbytes\n)R.", Value::Bytes(vec![])),
        (b"\x80\x03cbuiltins\nbytearray\nC\x02\x01\x02\x85R.", Value::ByteArray(vec![1, 2])),
        (b"\x80\x04\x8f(K\x03\x90.", Value::Set(vec![Value::Int(3)])),
        (b"\x80\x05\x96\x01\0\0\0\0\0\0\0a.", Value::ByteArray(b"a".to_vec())),
        (b"\x80\x02ctorch\nfloat8_e8m0fnu\n.", Value::DType(DType::F8E8M0)),
        // The later value of a key counts, at the first one's place.
        (
            b"\x80\x02}(X\x01\0\0\0aK\x01X\x01\0\0\0bK\x02X\x01\0\0\0aK\x03u.",
            Value::Dict(vec![
                (Value::Str("a".into()), Value::Int(3)),
                (Value::Str("b".into()), Value::Int(2)),
            ]),
        ),
    ];
    for (pickle, value) in cases {
        assert_eq!(decode(&archive(pickle), "item").unwrap(), *value, "{}", pickle.escape_ascii());
    }
}

#[test]
fn numpy_arrays_of_either_order_and_protocol() {
    let dtype = |writer: &mut PickleWriter| {
        writer.call("numpy", "dtype", 3, |writer| {
            writer.str("i2");
            writer.bool(false);
            writer.bool(true);
        });
        writer.build(|writer| {
            writer.tuple(8, |writer| {
                writer.int(3);
                writer.str("<");
                (0..3).for_each(|_| writer.none());
                (0..3).for_each(|_| writer.int(-1));
            });
        });
    };
    let column_major = decoded(|writer| {
        writer.call("numpy.core.multiarray", "_reconstruct", 3, |writer| {
            writer.global("numpy", "ndarray");
            writer.int_tuple(&[0]);
            writer.bytes(b"b");
        });
        writer.build(|writer| {
            writer.tuple(5, |writer| {
                writer.int(1);
                writer.int_tuple(&[2, 3]);
                dtype(writer);
                writer.bool(true);
                writer.bytes(&[1, 0, 4, 0, 2, 0, 5, 0, 3, 0, 6, 0]);
            });
        });
    });
    let from_buffer = decoded(|writer| {
        writer.call("numpy._core.numeric", "_frombuffer", 4, |writer| {
            writer.bytes(&[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0]);
            dtype(writer);
            writer.int_tuple(&[2, 3]);
            writer.str("C");
        });
    });
    let bytes = vec![1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6, 0];
    let expected = Value::NumpyArray { dtype: "<i2".into(), shape: vec![2, 3], bytes };
    assert_eq!(column_major.unwrap(), expected);
    assert_eq!(from_buffer.unwrap(), expected);
}

#[test]
fn tensors_in_values_are_made_row_major() {
    let value = decoded(|writer| {
        writer.call("torch._utils", "_rebuild_tensor_v2", 6, |writer| {
            write_storage(writer, ("torch", "ByteStorage"), "0", 24);
            writer.int(2);
            writer.int_tuple(&[2, 3]);
            writer.int_tuple(&[1, 4]);
            writer.bool(false);
            writer.none();
        });
    });
    assert_eq!(value.unwrap(), tensor(DType::U8, &[2, 3], &[2, 6, 10, 3, 7, 11]));
}

mod attacks {
    use super::*;

    #[test]
    fn classes_that_are_not_admitted_are_named_and_not_run() {
        for (module, name) in [("os", "system"), ("builtins", "eval"), ("builtins", "frozenset")] {
            let value = decoded(|writer| writer.call(module, name, 1, |writer| writer.str("true")));
            assert_eq!(value.unwrap(), Value::Opaque { global: format!("{module}.{name}") });
        }
        let bare = decoded(|writer| writer.global("os", "system"));
        assert_eq!(bare.unwrap(), Value::Opaque { global: "os.system".into() });
    }

    #[test]
    fn admitted_classes_with_other_arguments_are_opaque() {
        let cases: &[&[u8]] = &[
            b"ctorch\nSize\n)R.",
            b"ctorch\nSize\nS'abc'\n\x85R.",
            b"ctorch\ndevice\nK\x01\x85R.",
            b"c__builtin__\ncomplex\nK\x01K\x02\x86R.",
            b"c__builtin__\nset\nK\x01\x85R.",
            b"c_codecs\nencode\nS'a'\nS'rot13'\n\x86R.",
            b"c_codecs\nencode\nV\\u20ac\nS'latin1'\n\x86R.",
            b"ccollections\nOrderedDict\nK\x01K\x02\x86R.",
            b"ccollections\nOrderedDict\n]K\x01a\x85R.",
            b"cnumpy.core.multiarray\nscalar\nK\x01C\x01a\x86R.",
            b"cnumpy.core.multiarray\n_reconstruct\nK\x01\x85R.",
            b"K\x01)R.",
        ];
        for pickle in cases {
            let value = decode(&archive(pickle), "item").unwrap();
            assert!(matches!(value, Value::Opaque { .. }), "{}: {value:?}", pickle.escape_ascii());
        }
    }

    #[test]
    fn values_that_hold_themselves() {
        let cases: &[&[u8]] = &[
            b"\x80\x02]q\0h\0a.",
            b"\x80\x02}q\0K\x01h\0s.",
            b"\x80\x02ccollections\nOrderedDict\n)Rq\0K\x01h\0s.",
            b"\x80\x02c__builtin__\nset\n]q\0\x85Rq\x01h\0h\x01a0.",
            b"\x80\x02]q\0h\0\x85h\0h\x01a.",
        ];
        for pickle in &cases[..4] {
            let error = decode(&archive(pickle), "item").unwrap_err().to_string();
            assert!(error.contains("nested deeper than 256 levels, or holds itself"), "{error}");
        }
        assert!(decode(&archive(cases[4]), "item").unwrap_err().to_string().contains("not remembered"));
    }

    #[test]
    fn a_value_nested_as_deep_as_is_read_fits_a_small_stack() {
        let nested = |depth: usize| {
            let mut pickle = vec![b']'; depth];
            pickle.extend(vec![b'a'; depth - 1]);
            pickle.push(b'.');
            decode(&archive(&pickle), "item")
        };
        let read = std::thread::Builder::new().stack_size(1 << 20).spawn(move || {
            assert!(nested(257).unwrap().py_repr().starts_with("[[["));
            assert!(nested(258).is_err());
        });
        read.unwrap().join().unwrap();
    }

    /// Each list holds the one before ten times: a hundred bytes that stand for ten billion items.
    #[test]
    fn lists_that_multiply() {
        let mut pickle = b"\x80\x02]q\0K\x01a".to_vec();
        for level in 1..=10u8 {
            pickle.extend([b']', b'q', level, b'(']);
            (0..10).for_each(|_| pickle.extend([b'h', level - 1]));
            pickle.push(b'e');
        }
        // Ten more lists are below the last one on the stack: take them away by a tuple and use what is remembered.
        pickle.splice(2..2, *b"(");
        pickle.extend(b"th\x0a\x86.");
        assert!(matches!(decode(&archive(&pickle), "item"), Err(Error::OverLimit { .. })));
    }

    /// A text of 16 KiB, ten thousand times.
    #[test]
    fn a_text_that_is_repeated() {
        let mut pickle = b"\x80\x02]X\0\x40\0\0".to_vec();
        pickle.extend(vec![b'x'; 1 << 14]);
        pickle.extend(b"q\0a(");
        (0..10_000).for_each(|_| pickle.extend(b"h\0"));
        pickle.extend(b"e.");
        assert!(matches!(decode(&archive(&pickle), "item"), Err(Error::OverLimit { .. })));
    }

    /// Four bytes that are seen as a tensor of a terabyte.
    #[test]
    fn a_tensor_that_is_expanded() {
        let value = decoded(|writer| {
            writer.call("torch._utils", "_rebuild_tensor_v2", 6, |writer| {
                write_storage(writer, ("torch", "FloatStorage"), "0", 6);
                writer.int(0);
                writer.int_tuple(&[1 << 38]);
                writer.int_tuple(&[0]);
                writer.bool(false);
                writer.none();
            });
        });
        assert!(matches!(value, Err(Error::OverLimit { .. })));
    }

    #[test]
    fn storages_that_lie() {
        let of = |class: &'static str, key: &'static str, numel: u64| {
            decoded(move |writer| {
                writer.tuple(1, |writer| {
                    writer.call("torch._utils", "_rebuild_tensor_v2", 6, |writer| {
                        writer.persistent(|writer| {
                            writer.tuple(5, |writer| {
                                writer.str("storage");
                                writer.global("torch", class);
                                writer.str(key);
                                writer.str("cpu");
                                writer.u64(numel);
                            });
                        });
                        writer.int(0);
                        writer.int_tuple(&[2]);
                        writer.int_tuple(&[1]);
                        writer.bool(false);
                        writer.none();
                    });
                });
            })
        };
        assert!(of("FloatStorage", "0", 6).is_ok());
        for (found, said) in [
            (of("FloatStorage", "0", 7), "has 24 bytes, 28 are expected"),
            (of("FloatStorage", "0", 1), "leave its storage of 4 bytes"),
            (of("FloatStorage", "1", 6), "no record `archive/data/1`"),
            (of("FloatStorage", "../../../etc/passwd", 6), "no record"),
        ] {
            let error = found.unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn programs_and_machines_that_are_refused() {
        let with = |name: &str, bytes: &[u8]| {
            let records = vec![record(PICKLE_NAME, b"N.".to_vec()), record(name, bytes.to_vec())];
            decode(&ZipLayout::new("x", records).to_bytes(), "item")
        };
        assert_eq!(with("byteorder", b"little").unwrap(), Value::None);
        assert!(with("byteorder", b"big").unwrap_err().to_string().contains("byte order is not little"));
        assert!(with("constants.pkl", b"").unwrap_err().to_string().contains("TorchScript"));
        let no_pickle = ZipLayout::new("x", vec![record("version", b"3\n".to_vec())]).to_bytes();
        assert!(decode(&no_pickle, "item").unwrap_err().to_string().contains("no record data.pkl"));
    }
}
