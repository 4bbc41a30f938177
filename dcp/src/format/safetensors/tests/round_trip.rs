//! Drafts, filled in by hand, read back by this crate and by the safetensors library.

use super::super::Safetensors;
use super::super::encode::{NewTensor, encode};
use super::super::header::{HEADER_BYTES_MAX, read_header};
use super::{assert_says, contents, first_byte, in_blocks, open, told};
use crate::convert::{self, ConvertOptions, Sharding};
use crate::error::Error;
use crate::format::{Format, Pieces, Reader, Target, TargetTensor, TargetValue, WriteOptions};
use crate::layout::{Mesh, Placement, Region, copy_box, row_major};
use crate::model::{DType, FqnFilter, Severity, TensorSpec, Value};
use crate::plan::Degrees;
use crate::storage::memory::{MemoryObject, MemoryStore};
use crate::storage::{Key, Place, Storage};
use crate::verify::{VerifyOptions, verify};
use safetensors::SafeTensors;
use std::sync::Arc;

fn tensor(name: &str, dtype: DType, shape: &[u64], pieces: Pieces) -> TargetTensor {
    TargetTensor { fqn: name.into(), spec: TensorSpec::new(dtype, shape), path: Vec::new(), pieces }
}

fn whole(name: &str, dtype: DType, shape: &[u64]) -> TargetTensor {
    tensor(name, dtype, shape, Pieces::Listed(vec![(0, Region::whole(shape))]))
}

fn target(tensors: Vec<TargetTensor>) -> Target {
    Target { tensors, writers: 1, ..Target::default() }
}

/// A tensor's bytes; each tensor and position has its own.
fn bytes_of(tensor: &TargetTensor) -> Vec<u8> {
    let seed = tensor.fqn.as_str().bytes().fold(7u8, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte));
    (0..tensor.spec.bytes().unwrap()).map(|at| seed.wrapping_add((at % 251) as u8)).collect()
}

/// Drafts a target and writes it as the engine would: patches, regions, commit.
fn write(target: &Target, options: &WriteOptions) -> Place {
    let (store, root) = (MemoryStore::new(), Key::new("out").unwrap());
    let draft = Safetensors.draft(target, options).unwrap();
    for object in draft.objects() {
        let mut bytes = vec![0xEE; object.byte_len as usize];
        for patch in &object.fixed {
            bytes[patch.byte_offset as usize..][..patch.bytes.len()].copy_from_slice(&patch.bytes);
        }
        for placed in &object.placed {
            let tensor = &target.tensors[placed.tensor as usize];
            let (dtype, data) = (tensor.spec.dtype, bytes_of(tensor));
            let block_bytes = dtype.block_bytes() as usize;
            let outer = in_blocks(&Region::whole(&tensor.spec.shape), dtype);
            let region = in_blocks(&placed.region, dtype);
            if region.is_empty() {
                continue;
            }
            let (from, to) = (row_major(&outer.extent), row_major(&region.extent));
            let source = &data[first_byte(&region, &outer, block_bytes)..];
            let goal = &mut bytes[placed.byte_offset as usize..];
            copy_box(source, &from, goal, &to, &region.extent, block_bytes);
        }
        store.put(&root.join(object.key.as_str()).unwrap(), &bytes).unwrap();
    }
    let place = Place { store: Arc::new(store), key: root };
    crate::commit::complete(&place, &Safetensors, &*draft, &[]).unwrap();
    place
}

/// Names and bytes of the objects of a place.
fn objects(place: &Place) -> Vec<(String, Vec<u8>)> {
    let listed = place.store.list(&place.key).unwrap().into_iter();
    let name = |key: &Key| key.below(&place.key).unwrap().to_owned();
    listed.map(|object| (name(&object.key), place.store.get(&object.key, 1 << 30).unwrap())).collect()
}

/// Asserts that the checkpoint holds exactly the target, box for box.
fn assert_holds(reader: &dyn Reader, target: &Target) {
    assert_eq!(told(&reader.catalog().findings, Severity::Damage), [""; 0]);
    assert_eq!(reader.catalog().tensors.len(), target.tensors.len());
    for tensor in &target.tensors {
        let mut spec = tensor.spec.clone();
        if spec.dtype == DType::F4x2 {
            spec.dtype = DType::F4;
            *spec.shape.last_mut().unwrap() *= 2;
        }
        assert_eq!(reader.catalog().tensors[tensor.fqn.as_str()].spec, spec, "{}", tensor.fqn);
        assert_eq!(contents(reader, tensor.fqn.as_str()), bytes_of(tensor), "{}", tensor.fqn);
    }
}

/// One tensor of every type, and the odd shapes.
fn every_type() -> Target {
    let typed = DType::all().filter(|dtype| !matches!(dtype, DType::C32 | DType::C128));
    let mut tensors: Vec<_> = typed.map(|dtype| whole(dtype.name(), dtype, &[3, 4])).collect();
    tensors.push(whole("scalar", DType::F32, &[]));
    tensors.push(whole("empty", DType::BF16, &[0, 5]));
    tensors.push(whole("quote\"\u{e9}\n", DType::I64, &[2]));
    target(tensors)
}

#[test]
fn every_type_in_one_file_as_the_library_reads_and_writes_it() {
    let target = every_type();
    let place = write(&target, &WriteOptions::default());
    let files = objects(&place);
    assert_eq!(files.len(), 1);
    assert_eq!(files[0].0, "model.safetensors");
    assert_holds(&*open(&place).unwrap(), &target);
    let library = SafeTensors::deserialize(&files[0].1).unwrap();
    assert_eq!(library.len(), target.tensors.len());
    for tensor in &target.tensors {
        let view = library.tensor(tensor.fqn.as_str()).unwrap();
        assert_eq!(view.data(), bytes_of(tensor), "{}", tensor.fqn);
        let aligned = view.data().as_ptr() as usize - files[0].1.as_ptr() as usize;
        assert!(aligned.is_multiple_of((view.dtype().bitsize() / 8).max(1)), "{}", tensor.fqn);
    }
    // The library makes the same bytes of the same tensors.
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    assert_eq!(safetensors::serialize(library.tensors(), Some(metadata)).unwrap(), files[0].1);
}

#[test]
fn files_of_bounded_size_with_an_index() {
    let tensors = [("c", 6), ("a", 6), ("big", 30), ("b", 2), ("d", 6), ("e", 2), ("f", 0)];
    let target = target(tensors.map(|(name, bytes)| whole(name, DType::U8, &[bytes])).into());
    let limit = |bytes| WriteOptions { shard_bytes_max: Some(bytes), ..WriteOptions::default() };
    let place = write(&target, &limit(10));
    let files = objects(&place);
    let names: Vec<_> = files.iter().map(|(name, _)| name.as_str()).collect();
    let file = |number| format!("model-0000{number}-of-00004.safetensors");
    assert_eq!(names, [&file(1), &file(2), &file(3), &file(4), "model.safetensors.index.json"]);
    let expected = serde_json::json!({
        "metadata": { "total_size": 52 },
        "weight_map": {
            "a": file(3), "b": file(3), "big": file(2), "c": file(1), "d": file(4), "e": file(4), "f": file(4),
        },
    });
    // c alone, since a does not fit beside it; big is over the limit; a + b; d + e + f.
    assert_eq!(String::from_utf8_lossy(&files[4].1), format!("{expected:#}\n"));
    let reader = open(&place).unwrap();
    assert_holds(&*reader, &target);
    assert!(reader.catalog().findings.is_empty(), "{:?}", reader.catalog().findings);
    for (name, bytes) in &files[..4] {
        SafeTensors::deserialize(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    for options in [
        limit(52),
        WriteOptions { shard_bytes_max: None, ..limit(0) },
        WriteOptions { file_name: Some("own.safetensors".into()), ..limit(10) },
    ] {
        let files = objects(&write(&target, &options));
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].0, options.file_name.as_deref().unwrap_or("model.safetensors"));
    }
}

#[test]
fn a_file_per_writer() {
    let mesh = Mesh::new([("dp_replicate", 2), ("dp_shard", 3), ("tp", 2)]).unwrap();
    let (replicate, shard) = (Placement::Replicate, |dim| Placement::Shard { dim });
    let strided = Placement::StridedShard { dim: 0, split_factor: 2 };
    let placed = |placements: [Placement; 3], owner: [u32; 3]| Pieces::Placed {
        placements: placements.into(),
        owner: owner.into(),
    };
    let target = Target {
        mesh: Some(Arc::new(mesh)),
        writers: 12,
        tensors: vec![
            tensor("rows", DType::F32, &[5, 4], placed([replicate, shard(0), replicate], [1, 0, 1])),
            tensor("grid", DType::BF16, &[5, 7], placed([replicate, shard(0), shard(1)], [0, 0, 0])),
            tensor("nested", DType::I64, &[7], placed([replicate, strided, shard(0)], [0, 0, 0])),
            tensor("copied", DType::U8, &[3], placed([replicate; 3], [1, 2, 1])),
            tensor("scalar", DType::F32, &[], placed([replicate; 3], [0, 1, 0])),
            tensor("empty", DType::F16, &[0, 6], placed([replicate, shard(0), shard(1)], [0, 0, 0])),
            tensor("packed", DType::F4x2, &[6, 2], placed([replicate, shard(0), replicate], [0, 0, 0])),
        ],
        ..Target::default()
    };
    let options = WriteOptions { sharded: true, ..WriteOptions::default() };
    let place = write(&target, &options);
    let files = objects(&place);
    assert!(files.iter().all(|(name, _)| name.ends_with("-model-00001-of-00001.safetensors")), "{files:?}");
    assert_eq!(files.last().unwrap().0, "shard-00012-model-00001-of-00001.safetensors");
    assert_holds(&*open(&place).unwrap(), &target);
    for (name, bytes) in &files {
        let (_, metadata) = SafeTensors::read_metadata(bytes).unwrap();
        let text = metadata.metadata().as_ref().unwrap();
        assert_eq!((text["format"].as_str(), text["DCP_VERSION"].as_str()), ("pt", "1.0"), "{name}");
    }
}

#[test]
fn boxes_of_one_writer_that_do_not_join_go_to_further_files() {
    let boxes = [[0, 0], [0, 2], [2, 0], [2, 2]].map(|start| Region::new(start, [2, 2]));
    let pieces = |writers: [u32; 4]| Pieces::Listed(writers.into_iter().zip(boxes.clone()).collect());
    let target = target(vec![
        tensor("joined", DType::U8, &[4, 4], pieces([0, 0, 0, 0])),
        tensor("halves", DType::U8, &[4, 4], pieces([0, 0, 1, 1])),
        tensor("diagonal", DType::U8, &[4, 4], pieces([0, 1, 1, 0])),
    ]);
    let place = write(&target, &WriteOptions { sharded: true, ..WriteOptions::default() });
    let names: Vec<_> = objects(&place).into_iter().map(|(name, _)| name).collect();
    let name = |writer, number| format!("shard-0000{writer}-model-0000{number}-of-00002.safetensors");
    assert_eq!(names, [name(1, 1), name(1, 2), name(2, 1), name(2, 2)]);
    let reader = open(&place).unwrap();
    assert_holds(&*reader, &target);
    let counts: Vec<_> =
        ["joined", "halves", "diagonal"].map(|name| reader.catalog().tensors[name].chunks.count()).into();
    assert_eq!(counts, [1, 2, 4]);
}

#[test]
fn a_checkpoint_without_tensors_is_one_file() {
    for sharded in [false, true] {
        let place = write(&target(Vec::new()), &WriteOptions { sharded, ..WriteOptions::default() });
        assert_eq!(objects(&place).len(), 1);
        assert!(open(&place).unwrap().catalog().tensors.is_empty());
    }
}

#[test]
fn what_the_format_cannot_hold_is_refused_by_name() {
    let refusal = |target: &Target, options: &WriteOptions| Safetensors.draft(target, options).unwrap_err();
    let plain = WriteOptions::default();
    let value = |name: &str| TargetValue {
        fqn: name.into(),
        path: Vec::new(),
        value: Value::Int(3),
        archive: None,
        writer: 0,
    };
    let error = refusal(&Target { values: vec![value("step"), value("lr")], ..target(Vec::new()) }, &plain);
    assert!(matches!(error, Error::Inexpressible { .. }));
    assert_says(&error.to_string(), &["safetensors", "`step`, `lr`", "--exclude"]);
    let untyped = [
        ("a", DType::C32, &[2][..]),
        ("b", DType::F32, &[2]),
        ("c", DType::C128, &[2]),
        ("d", DType::F4x2, &[]),
    ];
    let error =
        refusal(&target(untyped.map(|(name, dtype, shape)| whole(name, dtype, shape)).into()), &plain);
    assert_says(&error.to_string(), &["`a` (complex32", "`c` (complex128", "`d` (float4_e2m1fn_x2, 0-d)"]);
    let names = ["__metadata__", "a", "a"].map(|name| whole(name, DType::U8, &[1]));
    assert_says(&refusal(&target(names.into()), &plain).to_string(), &["`__metadata__`, `a`", "rename"]);
    let odd = target(vec![whole("half", DType::F4, &[3])]);
    assert_says(&refusal(&odd, &plain).to_string(), &["half", "no whole number of bytes"]);
    let huge = target(vec![whole("huge", DType::U8, &[1 << 63]), whole("too", DType::U8, &[1 << 63])]);
    assert_says(
        &refusal(&huge, &WriteOptions { shard_bytes_max: None, ..plain.clone() }).to_string(),
        &["2^64"],
    );
    for options in [
        WriteOptions { compress: true, ..plain.clone() },
        WriteOptions { sharded: true, file_name: Some("x.safetensors".into()), ..plain },
    ] {
        assert!(matches!(refusal(&target(Vec::new()), &options), Error::Usage(_)));
    }
}

#[test]
fn headers_keep_their_order_and_alignment() {
    let tensors: Vec<_> = [("z", DType::U8, &[3][..]), ("pad", DType::U8, &[61]), ("a", DType::F64, &[2])]
        .map(|(name, dtype, shape)| NewTensor { name, dtype, shape })
        .into();
    for alignment_bytes in [1, 8, 64, 4096] {
        let metadata = [("writer", "3"), ("a", "\"quoted\"")];
        let encoded = encode("x", &metadata, &tensors, alignment_bytes).unwrap();
        let start = encoded.bytes.len() as u64;
        assert!(start.is_multiple_of(alignment_bytes), "{start}");
        assert_eq!(encoded.data, [start..start + 3, start + 3..start + 64, start + 64..start + 80]);
        assert_eq!(encoded.end, start + 80);
        let mut file = encoded.bytes;
        file.resize(encoded.end as usize, 0);
        SafeTensors::deserialize(&file).unwrap();
        let header = read_header(&MemoryObject::new("x", file), 0, "x").unwrap();
        let names: Vec<_> = header.tensors.keys().map(|fqn| fqn.as_str()).collect();
        assert_eq!(names, ["z", "pad", "a"]);
        let text: Vec<_> = header.metadata.iter().map(|(key, text)| (key.as_str(), text.as_str())).collect();
        assert_eq!(text, metadata);
        assert!(header.tensors.values().map(|tensor| tensor.bytes.clone()).eq(encoded.data));
    }
    let long = "x".repeat(HEADER_BYTES_MAX as usize);
    let error = encode("x", &[("long", &long)], &[], 8).unwrap_err();
    assert!(matches!(error, Error::OverLimit { limit: HEADER_BYTES_MAX, .. }), "{error}");
}

#[test]
fn conversions_keep_every_tensor() {
    let source = write(&every_type(), &WriteOptions::default());
    let reader = open(&source).unwrap();
    let degrees = Degrees { pp: 1, dp_replicate: 1, dp_shard: 2, cp: 1, tp: 1 };
    for (sharding, sharded, shard_bytes_max) in [
        (Sharding::Whole, false, None),
        (Sharding::Keep, false, Some(50)),
        (Sharding::Keep, true, None),
        (Sharding::Degrees(degrees), true, None),
    ] {
        let place = Place { store: Arc::new(MemoryStore::new()), key: Key::new("converted").unwrap() };
        let write = WriteOptions { sharded, shard_bytes_max, ..WriteOptions::default() };
        let options = ConvertOptions { sharding, write, ..ConvertOptions::default() };
        let conversion = convert::plan(&*reader, &place, &Safetensors, &options).unwrap();
        assert_eq!(conversion.run(&()).unwrap().tensors, reader.catalog().tensors.len());
        let converted = open(&place).unwrap();
        for fqn in reader.catalog().tensors.keys() {
            assert_eq!(
                contents(&*converted, fqn.as_str()),
                contents(&*reader, fqn.as_str()),
                "{fqn}, {sharding:?}"
            );
        }
        let options = VerifyOptions { deep: true, filter: FqnFilter::default(), threads: 2 };
        let report = verify(&*converted, &options, &()).unwrap();
        assert!(report.is_sound(), "{:?}", report.findings);
        assert_eq!(report.tensors, reader.catalog().tensors.len());
    }
}
