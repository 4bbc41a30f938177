use super::super::pickle_read::parse;
use super::*;

#[test]
fn reads_what_it_writes_for_every_type_of_torch() {
    for dtype in DType::all().filter(|dtype| dtype.torch_name().is_some()) {
        for shape in [&[][..], &[0, 3], &[2, 3, 4]] {
            let spec = TensorSpec::new(dtype, shape);
            let mut writer = PickleWriter::new();
            write_tensor(&mut writer, &spec, "0").unwrap();
            let bytes = writer.finish();
            let pickle = parse(&bytes).unwrap();
            let tensor = tensor_of(&pickle, pickle.root()).unwrap().unwrap();
            assert_eq!((&tensor.spec, tensor.storage_offset, tensor.storage_key.as_str()), (&spec, 0, "0"));
            assert_eq!(Some(tensor.storage_bytes), spec.bytes());
            assert_eq!(tensor.span_bytes(), tensor.storage_bytes);
            assert!(tensor.covers_storage() && tensor.unusual_strides().is_none());
        }
    }
    let mut writer = PickleWriter::new();
    assert!(write_tensor(&mut writer, &TensorSpec::new(DType::F4, [2]), "0").is_err());
}

/// A persistent id of a storage, and what it takes to write one.
struct Storage<'a> {
    module: &'a str,
    class: &'a str,
    numel: u64,
    view: Option<[u64; 2]>,
}

const FLOATS: Storage<'_> = Storage { module: "torch", class: "FloatStorage", numel: 6, view: None };

fn write_storage(writer: &mut PickleWriter, storage: &Storage<'_>) {
    writer.persistent(|writer| {
        writer.tuple(6, |writer| {
            writer.str("storage");
            writer.global(storage.module, storage.class);
            writer.str("94");
            writer.str("cuda:0");
            writer.u64(storage.numel);
            match storage.view {
                None => writer.none(),
                Some([offset, numel]) => writer.tuple(3, |writer| {
                    writer.str("95");
                    writer.u64(offset);
                    writer.u64(numel);
                }),
            }
        });
    });
}

/// The arguments of `_rebuild_tensor` and more; `rest` writes those after the strides.
fn write_args(
    writer: &mut PickleWriter,
    storage: &Storage<'_>,
    offset: u64,
    dims: [&[u64]; 2],
    rest: &mut dyn FnMut(&mut PickleWriter),
) {
    write_storage(writer, storage);
    writer.u64(offset);
    dims.iter().for_each(|dim| writer.int_tuple(dim));
    rest(writer);
}

fn read(write: impl FnOnce(&mut PickleWriter)) -> Option<Result<StoredTensor, TensorError>> {
    let mut writer = PickleWriter::new();
    write(&mut writer);
    let bytes = writer.finish();
    let pickle = parse(&bytes).unwrap();
    tensor_of(&pickle, pickle.root())
}

/// A `_rebuild_tensor_v2` of f32.
fn v2(storage: &Storage<'_>, offset: u64, dims: [&[u64]; 2]) -> Result<StoredTensor, TensorError> {
    read(|writer| {
        writer.call("torch._utils", "_rebuild_tensor_v2", 6, |writer| {
            write_args(writer, storage, offset, dims, &mut |writer| {
                writer.bool(true);
                writer.call("collections", "OrderedDict", 0, |_| {});
            });
        });
    })
    .unwrap()
}

#[test]
fn strides_may_be_any_inside_the_storage() {
    // Shape, strides and offset; then whether they cover all of the six floats, and are unusual.
    type Case = (&'static [u64], &'static [u64], u64, bool, bool);
    let cases: &[Case] = &[
        (&[2, 3], &[3, 1], 0, true, false),
        (&[3, 2], &[1, 3], 0, true, true),
        (&[1, 6], &[77, 1], 0, true, false),
        (&[2, 2], &[3, 1], 1, false, true),
        (&[3], &[2], 1, false, true),
        (&[6, 9], &[1, 0], 0, false, true),
        (&[0, 5], &[7, 9], 3, false, false),
        (&[], &[], 5, false, false),
    ];
    for &(shape, strides, offset, covers, unusual) in cases {
        let tensor = v2(&FLOATS, offset, [shape, strides]).unwrap();
        assert_eq!((&tensor.spec, tensor.storage_offset), (&TensorSpec::new(DType::F32, shape), offset));
        assert_eq!(tensor.covers_storage(), covers, "{shape:?} {strides:?}");
        assert_eq!(tensor.unusual_strides().is_some(), unusual, "{shape:?} {strides:?}");
        assert!(tensor.byte_offset() + tensor.span_bytes() <= 24);
    }
}

#[test]
fn storages_of_old_files_and_other_devices() {
    let cuda = Storage { module: "torch.cuda", class: "HalfStorage", numel: 6, view: None };
    assert_eq!(v2(&cuda, 0, [&[6], &[1]]).unwrap().spec.dtype, DType::F16);
    // A tensor in a view of a storage: positions count from the view.
    let viewed = Storage { view: Some([2, 4]), ..FLOATS };
    let tensor = v2(&viewed, 1, [&[3], &[1]]).unwrap();
    assert_eq!((tensor.storage_offset, tensor.storage_bytes), (3, 24));
    assert!(!tensor.covers_storage());
    assert!(v2(&viewed, 1, [&[4], &[1]]).unwrap_err().to_string().contains("leave its storage of 16 bytes"));
    let outside = Storage { view: Some([3, 4]), ..FLOATS };
    assert!(v2(&outside, 0, [&[1], &[1]]).unwrap_err().to_string().contains("view leaves its storage"));
    let untyped = Storage { module: "torch.storage", class: "UntypedStorage", numel: 24, view: None };
    assert_eq!(v2(&untyped, 0, [&[24], &[1]]).unwrap().spec.dtype, DType::U8);
}

#[test]
fn wrappings_are_undone() {
    let bare = |writer: &mut PickleWriter| {
        writer.call("torch._utils", "_rebuild_tensor", 4, |writer| {
            write_args(writer, &FLOATS, 0, [&[6], &[1]], &mut |_| {});
        });
    };
    let parameter = |writer: &mut PickleWriter| {
        writer.call("torch._utils", "_rebuild_parameter", 3, |writer| {
            bare(writer);
            writer.bool(true);
            writer.call("collections", "OrderedDict", 0, |_| {});
        });
    };
    let from_type = |module: &'static str, name: &'static str| {
        move |writer: &mut PickleWriter| {
            writer.call("torch._tensor", "_rebuild_from_type_v2", 4, |writer| {
                writer.global("torch._utils", "_rebuild_tensor");
                writer.global(module, name);
                writer.tuple(4, |writer| write_args(writer, &FLOATS, 0, [&[6], &[1]], &mut |_| {}));
                writer.dict(|writer| {
                    writer.str("tag");
                    writer.int(1);
                });
            });
        }
    };
    let expected = TensorSpec::new(DType::F32, [6]);
    assert_eq!(read(bare).unwrap().unwrap().spec, expected);
    assert_eq!(read(parameter).unwrap().unwrap().spec, expected);
    assert_eq!(read(from_type("torch", "Tensor")).unwrap().unwrap().spec, expected);
    let subclass = read(from_type("torch.distributed.tensor", "DTensor")).unwrap().unwrap_err();
    assert_eq!(subclass, TensorError::Unsupported("torch.distributed.tensor.DTensor".into()));
    assert_eq!(read(|writer| writer.int(7)), None);
    assert_eq!(read(|writer| writer.call("torch", "Size", 0, |_| {})), None);
}

#[test]
fn kinds_without_plain_elements_are_named() {
    let conjugated = read(|writer| {
        writer.call("torch._utils", "_rebuild_tensor_v2", 7, |writer| {
            write_args(writer, &FLOATS, 0, [&[6], &[1]], &mut |writer| {
                writer.bool(false);
                writer.none();
                writer.dict(|writer| {
                    writer.str("conj");
                    writer.bool(true);
                    writer.str("neg");
                    writer.bool(false);
                });
            });
        });
    });
    let quantised = Storage { module: "torch", class: "QInt8Storage", numel: 6, view: None };
    let cases = [
        (conjugated.unwrap(), "torch._utils._rebuild_tensor_v2[conj]"),
        (v2(&quantised, 0, [&[6], &[1]]), "torch.QInt8Storage"),
        (
            read(|writer| writer.call("torch._utils", "_rebuild_sparse_tensor", 0, |_| {})).unwrap(),
            "torch._utils._rebuild_sparse_tensor",
        ),
    ];
    for (found, name) in cases {
        assert_eq!(found, Err(TensorError::Unsupported(name.to_owned())));
    }
}

mod attacks {
    use super::*;

    #[test]
    fn elements_outside_the_storage() {
        let cases: &[(&[u64], &[u64], u64)] = &[
            (&[7], &[1], 0),
            (&[6], &[1], 1),
            (&[2, 3], &[4, 1], 0),
            (&[2], &[u64::MAX >> 1], 0),
            (&[u64::MAX >> 1], &[0], 0),
            (&[1 << 40, 1 << 40], &[0, 0], 0),
            (&[3, u64::MAX >> 1], &[u64::MAX >> 1, u64::MAX >> 1], 0),
            (&[], &[], u64::MAX >> 1),
            (&[2, 3], &[1], 0),
        ];
        for &(shape, strides, offset) in cases {
            let found = v2(&FLOATS, offset, [shape, strides]);
            assert!(
                matches!(found, Err(TensorError::Invalid(_))),
                "{shape:?} {strides:?} {offset}: {found:?}"
            );
        }
    }

    #[test]
    fn lengths_that_overflow() {
        let long = Storage { numel: (u64::MAX >> 1) - 1, ..FLOATS };
        assert!(v2(&long, 0, [&[1], &[1]]).is_err());
        // No element, and strides whose product overflows.
        let empty = Storage { numel: 0, ..FLOATS };
        let tensor = v2(&empty, 0, [&[0, 1 << 40, 1 << 40], &[1, 1, 1 << 40]]).unwrap();
        assert!(tensor.covers_storage() && tensor.unusual_strides().is_none());
        assert_eq!(tensor.span_bytes(), 0);
        // The offset of an empty tensor may lie anywhere, but must be a position.
        assert!(v2(&empty, 1 << 40, [&[0], &[1]]).is_ok());
        assert!(v2(&empty, u64::MAX >> 1, [&[0], &[1]]).is_err());
    }

    #[test]
    fn arguments_that_are_something_else() {
        let bad: [&dyn Fn(&mut PickleWriter); 5] = [
            &|writer| writer.call("torch._utils", "_rebuild_tensor_v2", 0, |_| {}),
            &|writer| writer.call("torch._utils", "_rebuild_parameter", 1, |writer| writer.none()),
            &|writer| {
                writer
                    .call("torch._utils", "_rebuild_tensor", 4, |writer| (0..4).for_each(|_| writer.none()));
            },
            &|writer| {
                writer.call("torch._utils", "_rebuild_tensor", 4, |writer| {
                    writer.persistent(|writer| writer.int(1));
                    (0..3).for_each(|_| writer.int_tuple(&[]));
                });
            },
            &|writer| {
                writer.call("torch._utils", "_rebuild_tensor_v3", 7, |writer| {
                    write_args(writer, &FLOATS, 0, [&[6], &[1]], &mut |writer| {
                        writer.bool(false);
                        writer.none();
                        writer.str("float32");
                    });
                });
            },
        ];
        for (index, write) in bad.into_iter().enumerate() {
            let found = read(write);
            assert!(matches!(found, Some(Err(TensorError::Invalid(_)))), "{index}: {found:?}");
        }
    }

    #[test]
    fn parameters_of_parameters() {
        let mut writer = PickleWriter::new();
        fn nest(writer: &mut PickleWriter, depth: usize) {
            writer.call("torch._utils", "_rebuild_parameter", 1, |writer| match depth {
                0 => writer.none(),
                depth => nest(writer, depth - 1),
            });
        }
        nest(&mut writer, 100);
        let bytes = writer.finish();
        let pickle = parse(&bytes).unwrap();
        let error = tensor_of(&pickle, pickle.root()).unwrap().unwrap_err();
        assert!(error.to_string().contains("again and again"), "{error}");
    }
}
