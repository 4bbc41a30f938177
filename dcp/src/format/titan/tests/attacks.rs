//! Manifests and part records that lie, and objects that are not what they say.

use super::memory::{FOLDER, objects, place, write};
use crate::copy::TensorReader;
use crate::error::{Error, Result};
use crate::format::titan::crc64;
use crate::format::titan::index::Index;
use crate::format::titan::manifest::{MANIFEST_BYTES_MAX, decode, seal};
use crate::format::titan::reader::catalog;
use crate::format::{Pieces, Target, TargetTensor, TargetValue, WriteOptions, open};
use crate::layout::{Mesh, Placement, Region};
use crate::model::{DType, Path, TensorSpec, Value};
use crate::storage::Key;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use std::sync::Arc;

/// Objects of a sound checkpoint: a mesh of 2 x 2, a tensor cut by rows, one in listed boxes, a value.
fn sound(compress: bool) -> Vec<(String, Vec<u8>)> {
    let tensor = |name: &str, pieces| TargetTensor {
        fqn: name.into(),
        spec: TensorSpec::new(DType::F32, [6, 4]),
        path: Path::new(),
        pieces,
    };
    let placements = vec![Placement::Shard { dim: 0 }, Placement::Replicate];
    let rows = |start, extent| Region::new([start, 0], [extent, 4]);
    let target = Target {
        tensors: vec![
            tensor("placed", Pieces::Placed { placements, owner: vec![0, 1] }),
            tensor("listed", Pieces::Listed(vec![(0, rows(0, 1)), (3, rows(1, 5))])),
        ],
        values: vec![TargetValue {
            fqn: "step".into(),
            path: Path::new(),
            value: Value::Int(3),
            archive: None,
            writer: 0,
        }],
        mesh: Some(Arc::new(Mesh::new([("dp", 2), ("tp", 2)]).unwrap())),
        writers: 4,
        step: None,
    };
    objects(&write(&target, &WriteOptions { compress, ..WriteOptions::default() }).unwrap().1)
}

/// Parses a manifest, makes its catalog and looks up a chunk of every tensor.
fn parse_manifest(bytes: &[u8]) -> Result<()> {
    let Some(parsed) = decode("manifest", bytes)? else { return Ok(()) };
    let index = Arc::new(Index::new("manifest".to_owned(), parsed)?);
    for tensor in catalog(&index, &Key::root())?.tensors.values() {
        let shape = &tensor.spec.shape;
        let corner: Vec<u64> = shape.iter().map(|&size| size.min(1)).collect();
        tensor.chunks.overlapping(&Region::new(vec![0; shape.len()], corner))?;
    }
    Ok(())
}

fn is_manifest(name: &str) -> bool {
    name.ends_with("titan-0000.json")
}

fn manifest_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    files.iter().find(|(name, _)| is_manifest(name)).unwrap().1.clone()
}

/// The manifest after `change`, with a checksum that holds.
fn changed(manifest: &[u8], change: impl FnOnce(&mut Json)) -> Vec<u8> {
    let mut json: Json = serde_json::from_slice(manifest).unwrap();
    json.as_object_mut().unwrap().remove("crc64");
    change(&mut json);
    seal(serde_json::to_vec(&json).unwrap())
}

/// Opens the checkpoint with another manifest and reads all of it.
fn read_all(files: &[(String, Vec<u8>)]) -> Result<()> {
    let reader = open(&place(files))?;
    for (fqn, tensor) in &reader.catalog().tensors {
        tensor.chunks.all(&tensor.spec.shape)?;
        let mut bytes = vec![0; tensor.spec.bytes().unwrap() as usize];
        TensorReader::new(&*reader, fqn.as_str())?.read(&Region::whole(&tensor.spec.shape), &mut bytes)?;
    }
    reader.catalog().values.keys().try_for_each(|fqn| reader.value(fqn).map(|_| ()))
}

fn with_manifest(files: &[(String, Vec<u8>)], manifest: Vec<u8>) -> Vec<(String, Vec<u8>)> {
    let mut files = files.to_vec();
    files.iter_mut().filter(|(name, _)| is_manifest(name)).for_each(|(_, bytes)| *bytes = manifest.clone());
    files
}

#[test]
fn manifests_that_lie() {
    type Change = fn(&mut Json);
    let cases: &[(Change, &str)] = &[
        (|m| m["format"] = json!("other"), "`format` is \"other\""),
        (|m| m["version"] = json!(2), "version 2 is newer than version 1"),
        (|m| m["version"] = json!(0), "version 0"),
        (|m| m["version"] = json!(-1), "invalid value"),
        (|m| m["kind"] = json!("draft"), "`kind` is \"draft\""),
        (|m| m["kind"] = json!("given up"), "abandoned"),
        (|m| m["attempt"] = json!("../../../../etc/0123456789abcdef"), "is not 32 hex digits"),
        (|m| m["attempt"] = json!("0123456789ABCDEF0123456789ABCDEF"), "is not 32 hex digits"),
        (|m| m["attempt"] = json!(""), "is not 32 hex digits"),
        (|m| m["attempt"] = json!("0123456789abcdef0123456789abcdef"), "no such object"),
        (|m| m["generation"] = json!(1), "generation"),
        (|m| m["block_bytes"] = json!(0), "blocks of 0 bytes"),
        (|m| m["block_bytes"] = json!(1u64 << 40), "blocks of 1099511627776 bytes"),
        (|m| m["object_bytes_max"] = json!(0), "objects, its boxes need"),
        (|m| m["mesh"] = json!([["a", 0]]), "size 0"),
        (|m| m["mesh"] = json!([["a", 2], ["a", 2]]), "named twice"),
        (|m| m["mesh"] = json!([["a", 65536], ["b", 65536]]), "2^32"),
        (|m| m["mesh"] = json!([["a", 1u32 << 21]]), "over the limit"),
        (|m| m["mesh"] = Json::from(vec![json!(["a", 1]); 65]), "more than 64 items"),
        (|m| m["mesh"] = json!([["dp", 2]]), "placements for a grid of 1 axes"),
        (|m| m["mesh"] = json!([["dp", 8], ["tp", 8]]), "placements for a grid of 1 axes"),
        (|m| m["classes"][0]["axes"][0] = json!("S2"), "dim 2"),
        (|m| m["classes"][0]["axes"][0] = json!("SS0/3"), "split factor 3"),
        (|m| m["classes"][0]["axes"][0] = json!("R2"), "on axis \"dp\" of 2 ranks"),
        (|m| m["classes"][0]["axes"][0] = json!("@2"), "on axis \"dp\" of 2 ranks"),
        (|m| m["classes"][0]["axes"][0] = json!("P"), "is not a placement"),
        (|m| m["classes"][0]["axes"][0] = json!("R"), "its boxes need"),
        (|m| m["classes"][0]["axes"][1] = json!("R0"), "its boxes need"),
        (|m| m["tensors"][0]["class"] = json!(7), "class 7, but there are 1"),
        (|m| m["tensors"][0]["class"] = json!(null), "either `class` or `boxes`"),
        (|m| m["tensors"][0]["boxes"] = json!([0, 0, 0, 6, 4]), "either `class` or `boxes`"),
        (|m| m["tensors"][0]["dtype"] = json!("float33"), "unknown dtype"),
        (|m| m["tensors"][0]["dtype"] = json!("float16"), "its boxes need"),
        (|m| m["tensors"][0]["shape"] = json!([8, 4]), "its boxes need"),
        (|m| m["tensors"][0]["shape"] = json!([6]), "its boxes need"),
        (|m| m["tensors"][0]["shape"] = json!([]), "dim 0"),
        (|m| m["tensors"][0]["shape"] = json!([u64::MAX, u64::MAX]), "no possible size"),
        (|m| m["tensors"][0]["shape"] = json!([u64::MAX, 0]), "no possible size"),
        (|m| m["tensors"][0]["shape"] = json!([1u64 << 62, 1]), "no possible size"),
        (|m| m["tensors"][0]["shape"] = json!([1u64 << 60, 1]), "too many objects or blocks"),
        (|m| m["tensors"][0]["shape"] = Json::from(vec![1; 65]), "over the limit of 64"),
        (|m| m["tensors"][0]["shape"] = json!([-6, 4]), "invalid value"),
        (|m| m["tensors"][0]["name"] = json!("listed"), "\"listed\" is named twice"),
        (|m| m["values"][0]["name"] = json!("listed"), "\"listed\" is named twice"),
        (|m| m["tensors"][0]["name"] = json!("x".repeat(70_000)), "over the limit of 65536"),
        (|m| m["tensors"][1]["boxes"] = json!([0, 0, 0, 1]), "not a multiple of 5"),
        (|m| m["tensors"][1]["boxes"] = json!([0, 0, 0, 1, 4]), "cover 4 of 24"),
        (|m| m["tensors"][1]["boxes"] = json!([0, 0, 0, 6, 4, 3, 5, 0, 1, 4]), "overlap"),
        (|m| m["tensors"][1]["boxes"] = json!([0, 0, 0, 7, 4]), "not inside"),
        (|m| m["tensors"][1]["boxes"] = json!([0, u64::MAX, 0, 2, 4]), "not inside"),
        (|m| m["tensors"][1]["boxes"] = json!([4, 0, 0, 6, 4]), "of writer 4, but there are 4"),
        (|m| m["tensors"][1]["boxes"] = json!([1u64 << 40, 0, 0, 6, 4]), "no writer 1099511627776"),
        (|m| m["tensors"][1]["boxes"] = json!([2, 0, 0, 6, 4]), "its boxes need"),
        (|m| m["writers"] = json!([]), "placements for a grid of 1 axes"),
        (|m| m["writers"][3] = json!(null), "writer 3 holds data but has no objects"),
        (|m| m["writers"][3][0] = json!(1), "expected 1 bytes"),
        (|m| m["writers"][3][1] = json!("0123456789abcdef"), "0123456789abcdef"),
        (|m| m["writers"][3][1] = json!("+123456789abcdef"), "16 hex digits"),
        (|m| m["writers"][3][2] = json!([]), "0 objects, its boxes need 1"),
        (|m| m["writers"][3][2][0][0] = json!(u64::MAX), "its boxes need"),
        (|m| m["writers"][3][2][0][1] = json!(u64::MAX), "its boxes need"),
        (|m| m["writers"][3][2][0][1] = json!(0), "its boxes need"),
        (|m| m["compressed"] = json!(true), "expected `frames`"),
        (|m| m["values"][0]["value"] = json!({"$archive": "***"}), "value \"step\""),
        (|m| m["values"][0]["value"] = json!({"$archive": "UEs="}), "value step"),
        (|m| m["values"][0]["value"] = json!({"$what": 1}), "unknown kind of value"),
        (|m| m["tensors"] = json!({}), "a list of at most"),
        (|m| m["writers"] = json!(null), "a list of at most"),
    ];
    let files = sound(false);
    let manifest = manifest_of(&files);
    read_all(&with_manifest(&files, changed(&manifest, |_| ()))).unwrap();
    for (index, (change, expected)) in cases.iter().enumerate() {
        let lie = changed(&manifest, change);
        let _ = parse_manifest(&lie);
        let error = read_all(&with_manifest(&files, lie)).expect_err(expected);
        assert!(error.to_string().contains(expected), "case {index}: {error}, expected {expected}");
    }
}

#[test]
fn a_grid_without_writers_holds_nothing() {
    let manifest = changed(&manifest_of(&sound(false)), |m| {
        m["writers"] = json!([]);
        m["mesh"] = json!(null);
        m["classes"][0]["axes"] = json!(["S0"]);
        m["tensors"] = json!([m["tensors"][0]]);
    });
    let error = parse_manifest(&manifest).unwrap_err();
    assert!(error.to_string().contains("no writer 0"), "{error}");
}

#[test]
fn unknown_members_are_ignored() {
    let files = sound(false);
    let manifest = changed(&manifest_of(&files), |m| {
        m["later"] = json!({"a": [1]});
        m["tensors"][0]["later"] = json!(1);
        m["classes"][0]["later"] = json!("x");
    });
    read_all(&with_manifest(&files, manifest)).unwrap();
}

#[test]
fn manifests_that_are_cut_or_edited() {
    let manifest = manifest_of(&sound(false));
    for end in 0..manifest.len() {
        let error = decode("m", &manifest[..end]).unwrap_err();
        assert!(matches!(error, Error::Malformed { .. }), "{end}: {error}");
    }
    let text = String::from_utf8(manifest.clone()).unwrap();
    let edited = text.replace("placed", "Placed");
    assert!(matches!(decode("m", edited.as_bytes()), Err(Error::Damaged { .. })));
    // Newer, whatever its checksum is made of.
    let newer = br#"{"format":"titan","version":3,"body":"lz4"}"#;
    assert!(matches!(decode("m", newer), Err(Error::TooNew { .. })));
    let huge = vec![b' '; MANIFEST_BYTES_MAX as usize + 1];
    assert!(matches!(decode("m", &huge), Err(Error::OverLimit { .. })));
    let deep = seal([&b"{\"format\":\"titan\",\"version\":1,\"x\":"[..], &[b'['; 100_000], b"}"].concat());
    assert!(matches!(decode("m", &deep), Err(Error::Malformed { .. })));
}

#[test]
fn the_newest_generation_decides() {
    let files = sound(false);
    let manifest = manifest_of(&files);
    let add = |generation: u32, bytes: Vec<u8>| {
        let mut files = files.clone();
        files.push((format!("{FOLDER}/titan-{generation:04}.json"), bytes));
        files
    };
    let abandoned = seal(br#"{"format":"titan","version":1,"kind":"abandoned","generation":1}"#.to_vec());
    let error = open(&place(&add(1, abandoned))).unwrap_err().to_string();
    assert!(error.contains("given up"), "{error}");
    let next = changed(&manifest, |m| {
        m["generation"] = json!(1);
        m["tensors"][0]["name"] = json!("newer");
    });
    let reader = open(&place(&add(1, next.clone()))).unwrap();
    assert!(reader.catalog().tensors.contains_key("newer"));
    assert_eq!(reader.catalog().attributes["generation"], "1");
    // A newest generation that is damaged is not passed over in silence.
    assert!(open(&place(&add(1, next[..200].to_vec()))).is_err());
}

/// Replaces a writer's part record, and its length and checksum in the manifest.
fn with_part(files: &[(String, Vec<u8>)], writer: usize, change: impl FnOnce(&mut Json)) -> Result<()> {
    let mut files = files.to_vec();
    let name = format!("r{writer:05}.part.json");
    let part = files.iter_mut().find(|(key, _)| key.ends_with(&name)).unwrap();
    let mut json: Json = serde_json::from_slice(&part.1).unwrap();
    change(&mut json);
    part.1 = serde_json::to_vec(&json).unwrap();
    let (byte_len, sum) = (part.1.len(), format!("{:016x}", crc64(&part.1)));
    let manifest = changed(&manifest_of(&files), |m| {
        m["writers"][writer][0] = json!(byte_len);
        m["writers"][writer][1] = json!(sum);
    });
    read_all(&with_manifest(&files, manifest))
}

#[test]
fn part_records_that_lie() {
    type Change = fn(&mut Json);
    let plain: &[(Change, &str)] = &[
        (|p| p["format"] = json!("titan"), "`format` is \"titan\""),
        (|p| p["version"] = json!(2), "newer"),
        (|p| p["writer"] = json!(2), "of writer 2"),
        (|p| p["attempt"] = json!("x"), "of attempt \"x\""),
        (|p| p["objects"] = json!([]), "0 objects, expected 1"),
        (|p| p["objects"][0]["blocks"] = json!("AAAAAAAAAAA="), "8 bytes of block checksums, expected 16"),
        (|p| p["objects"][0]["blocks"] = json!("AAAAAAAAAAAAAAAAAAAAAA=="), "expected 0000000000000000"),
        (|p| p["objects"][0]["blocks"] = json!("!"), "blocks: "),
        (|p| p["objects"][0] = json!({"frames": []}), "expected `header_crc64`"),
        (|p| p["objects"][0] = json!({}), "expected `header_crc64`"),
        (|p| p["objects"] = json!(3), "a list of at most"),
    ];
    let frames: &[(Change, &str)] = &[
        (
            |p| p["objects"][0] = json!({"header_crc64": "0123456789abcdef", "blocks": ""}),
            "expected `frames`",
        ),
        (|p| p["objects"][0]["frames"] = json!([]), "frames of 0 boxes, expected 2"),
        (|p| p["objects"][0]["frames"][0] = json!([]), "frames hold 0 bytes of a box of"),
        (|p| p["objects"][0]["frames"][0][0][0] = json!(u64::MAX), "frame of"),
        (|p| p["objects"][0]["frames"][0][0][1] = json!(u64::MAX), "frame of"),
        (|p| p["objects"][0]["frames"][0][0][2] = json!(0), "frame of"),
        (|p| p["objects"][0]["frames"][0][0][2] = json!(1u64 << 40), "frame of"),
        (|p| p["objects"][0]["frames"][0][0][3] = json!(9), "codec 9 is unknown"),
        (|p| p["objects"][0]["frames"][0][0][3] = json!(256), "invalid value"),
        (|p| p["objects"][0]["frames"][0][0][4] = json!("0123456789abcdef"), "0123456789abcdef"),
    ];
    for (compress, cases) in [(false, plain), (true, frames)] {
        let files = sound(compress);
        with_part(&files, 3, |_| ()).unwrap();
        for (index, (change, expected)) in cases.iter().enumerate() {
            let error = with_part(&files, 3, change).expect_err(expected);
            assert!(error.to_string().contains(expected), "case {index}: {error}, expected {expected}");
        }
    }
}

#[test]
fn a_missing_part_record_is_told_by_its_name() {
    let mut files = sound(false);
    files.retain(|(name, _)| !name.ends_with("r00003.part.json"));
    let error = read_all(&files).unwrap_err();
    assert!(matches!(&error, Error::NotFound { object } if object.ends_with("r00003.part.json")), "{error}");
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        at in any::<prop::sample::Index>(), byte: u8, cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut manifest = MANIFEST.with(Clone::clone);
        manifest.truncate(cut.map_or(manifest.len(), |cut| cut.index(manifest.len())));
        if !manifest.is_empty() {
            let at = at.index(manifest.len());
            manifest[at] = byte;
        }
        let _ = parse_manifest(&manifest);
        // The same with a checksum that holds.
        if let Some(end) = manifest.windows(9).position(|window| window == b",\"crc64\":") {
            manifest.truncate(end);
            manifest.push(b'}');
            let _ = parse_manifest(&seal(manifest));
        }
    }
}

thread_local! {
    static MANIFEST: Vec<u8> = manifest_of(&sound(false));
}
