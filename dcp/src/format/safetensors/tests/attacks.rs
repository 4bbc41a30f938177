//! Files made to mislead, one trick each.

use super::super::Safetensors;
use super::super::header::read_header;
use super::{assert_says, file, folder, inside, open};
use crate::error::{Error, ErrorKind};
use crate::format::{Candidate, Format};
use crate::storage::Place;
use crate::storage::memory::MemoryObject;
use proptest::prelude::*;
use safetensors::SafeTensors;
use serde_json::json;

/// The error of opening one file.
fn refusal(bytes: &[u8]) -> Error {
    let place = folder(&[("x.safetensors", bytes)]);
    let error = open(&inside(&place, "x.safetensors")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Data, "{error}");
    assert_says(&error.to_string(), &["step-1/x.safetensors"]);
    // In a folder of its own it cannot be read either.
    assert_eq!(open(&place).unwrap_err().to_string(), error.to_string());
    error
}

#[test]
fn attacks() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let two = |first: &str, second: &str| {
        let entry = |offsets: &str| format!(r#"{{"dtype":"U8","shape":[4],"data_offsets":{offsets}}}"#);
        format!(r#"{{"a":{},"b":{}}}"#, entry(first), entry(second))
    };
    let deep = |value: String| format!(r#"{{"a":{value}"#);
    let cases: &[(&str, String, &[&str])] = &[
        ("no JSON", "hello".into(), &["not the JSON expected"]),
        ("no object", "[]".into(), &["expected an object of tensors"]),
        ("an empty header", String::new(), &["EOF"]),
        ("cut JSON", r#"{"a":{"dtype":"U8""#.into(), &["EOF"]),
        ("two objects", "{}{}".into(), &["trailing characters"]),
        ("deep nesting", deep("[".repeat(100_000)), &["`a`"]),
        ("deep nesting aside", deep(format!(r#"{{"x":{}"#, "[".repeat(100_000))), &["`a`", "EOF"]),
        ("a tensor that is none", r#"{"a":3}"#.into(), &["`a`", "`dtype`, `shape` and `data_offsets`"]),
        ("no dtype", r#"{"a":{"shape":[],"data_offsets":[0,1]}}"#.into(), &["`a`", "missing field `dtype`"]),
        ("a repeated field", r#"{"a":{"dtype":"U8","dtype":"U8"}}"#.into(), &["duplicate field"]),
        ("a repeated name", two("[0,4]", "[4,8]").replace("\"b\"", "\"a\""), &["`a` occurs twice"]),
        ("a repeated metadata", r#"{"__metadata__":{},"__metadata__":{}}"#.into(), &["occurs twice"]),
        ("a repeated text", r#"{"__metadata__":{"k":"1","k":"2"}}"#.into(), &["`k` occurs twice"]),
        ("a number as text", r#"{"__metadata__":{"k":1}}"#.into(), &["`k`", "expected a string"]),
        ("an unknown type", one("F99", "[1]", "[0,1]"), &["`a`", "F99", "BF16"]),
        ("a negative offset", one("U8", "[1]", "[-1,0]"), &["`a`", "-1"]),
        ("a huge offset", one("U8", "[1]", "[0,18446744073709551616]"), &["`a`", "invalid type"]),
        ("three offsets", one("U8", "[1]", "[0,1,2]"), &["`a`"]),
        ("reversed offsets", one("U8", "[1]", "[1,0]"), &["`a`", "ends at 0", "starts at 1"]),
        (
            "data past 2^64",
            one("U8", "[18446744073709551615]", "[0,18446744073709551615]"),
            &["ends at byte"],
        ),
        ("a shape past 2^64", one("U8", "[4294967296,4294967296]", "[0,0]"), &["`a`", "under 2^64"]),
        ("bytes past 2^64", one("F64", "[4611686018427387904]", "[0,8]"), &["`a`", "under 2^64"]),
        ("a negative dim", one("U8", "[-1]", "[0,1]"), &["`a`"]),
        ("too few bytes", one("F32", "[2]", "[0,4]"), &["`a`", "4 bytes", "8 bytes"]),
        ("too many bytes", one("F32", "[1]", "[0,8]"), &["`a`", "8 bytes", "4 bytes"]),
        ("half a byte", one("F4", "[3]", "[0,1]"), &["`a`", "no whole number of bytes"]),
        ("many dims", one("U8", &format!("{:?}", vec![1; 65]), "[0,1]"), &["`a`", "65 dims", "64"]),
        ("a hole in front", one("U8", "[1]", "[1,2]"), &["`a`", "hole", "starts at 1"]),
        ("a hole between", two("[0,4]", "[5,9]"), &["`b`", "hole", "starts at 5", "ends at 4"]),
        ("an overlap", two("[0,4]", "[3,7]"), &["`b`", "overlaps", "starts at 3", "ends at 4"]),
        ("the same bytes twice", two("[0,4]", "[0,4]"), &["`b`", "overlaps"]),
    ];
    for (trick, json, expected) in cases {
        let error = refusal(&file(json, 16)).to_string();
        assert_says(&error, expected);
        assert!(error.len() < 600, "{trick}: {error}");
    }
}

#[test]
fn lengths_that_lie() {
    let whole = super::file_of("a", 4);
    // Every cut inside the header tells how long the file is and how long it should be.
    for cut in 1..whole.len() - 4 {
        let error = refusal(&whole[..cut]);
        let Error::Truncated { found, expected, .. } = error else { panic!("{error}") };
        assert_eq!(found, cut as u64);
        assert_eq!(expected, if cut < 8 { 8 } else { whole.len() as u64 - 4 });
    }
    assert!(matches!(refusal(b""), Error::Truncated { found: 0, expected: 8, .. }));
    for length in [u64::MAX, u64::MAX - 7, 100_000_001] {
        let error = refusal(&[&length.to_le_bytes(), &whole[8..]].concat());
        assert!(
            matches!(error, Error::OverLimit { found, limit: 100_000_000, .. } if found == length),
            "{error}"
        );
    }
    let error = refusal(&[&99_999_999u64.to_le_bytes(), &whole[8..]].concat());
    assert!(matches!(error, Error::Truncated { expected: 100_000_007, .. }), "{error}");
}

#[test]
fn a_git_lfs_pointer_is_told_as_such() {
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n";
    assert_says(&refusal(pointer).to_string(), &["Git LFS pointer", "git lfs pull"]);
}

#[test]
fn a_header_longer_than_the_first_read() {
    let entry =
        |at: usize| format!(r#""{at:04}":{{"dtype":"U8","shape":[1],"data_offsets":[{at},{}]}}"#, at + 1);
    let entries: Vec<_> = (0..2000).map(entry).collect();
    let bytes = file(&format!("{{{}}}", entries.join(",")), 2000);
    assert!(bytes.len() > 100_000);
    let reader = open(&folder(&[("x.safetensors", &bytes)])).unwrap();
    assert_eq!(reader.catalog().tensors.len(), 2000);
    assert_eq!(super::contents(&*reader, "1999"), [(1999 % 256) as u8]);
}

#[test]
fn boxes_that_lie() {
    let boxes = |info: &str| {
        let header = json!({
            "__metadata__": {"DCP_SHARDING_INFO": info},
            "a": {"dtype": "U8", "shape": [2, 2], "data_offsets": [0, 4]},
        });
        file(&header.to_string(), 4)
    };
    for (info, expected) in [
        ("", "EOF"),
        (r#"{"a": {}}"#, "missing field `saved_offsets`"),
        (r#"{"a": {"saved_offsets": [0, 0]}, "a": {"saved_offsets": [0, 0]}}"#, "`a` occurs twice"),
        (r#"{"a": {"saved_offsets": [0, -1]}}"#, "-1"),
    ] {
        assert_says(&refusal(&boxes(info)).to_string(), &["DCP_SHARDING_INFO", expected]);
    }
    for (info, expected) in [
        ("{}", "does not name it"),
        (r#"{"a": {"saved_offsets": [0]}}"#, "at [0]"),
        (r#"{"a": {"saved_offsets": [0, 18446744073709551614]}}"#, "at [0, 18446744073709551614]"),
        (r#"{"a": {"saved_offsets": [4294967296, 4294967296]}}"#, "under 2^64"),
    ] {
        let error = open(&folder(&[("x.safetensors", &boxes(info))])).unwrap_err();
        assert!(matches!(error, Error::BadTensor { .. }), "{error}");
        assert_says(&error.to_string(), &["a: ", expected]);
    }
}

#[test]
fn an_index_that_leaves_its_folder() {
    let x = super::file_of("a", 4);
    for outside in ["../x.safetensors", "/x.safetensors", "a/../../x.safetensors"] {
        let index = json!({"weight_map": {"a": outside}}).to_string();
        let place = folder(&[("x.safetensors", &x), ("model.safetensors.index.json", index.as_bytes())]);
        let error = open(&place).unwrap_err();
        assert_says(
            &error.to_string(),
            &["model.safetensors.index.json", outside, "no file below its folder"],
        );
    }
}

#[test]
fn folders_of_other_formats_are_left_alone() {
    let x = super::file_of("a", 4);
    for name in [".metadata", "__0.metadata", "__12.metadata", "titan-0001.json"] {
        let candidate = Candidate::new(&folder(&[("x.safetensors", &x), (name, b"x")])).unwrap();
        assert!(!Safetensors.probe(&candidate), "{name}");
    }
    for name in ["__.metadata", "__a.metadata", "titan.json", "config.json"] {
        let candidate = Candidate::new(&folder(&[("x.safetensors", &x), (name, b"x")])).unwrap();
        assert!(Safetensors.probe(&candidate), "{name}");
    }
    let place = folder(&[
        ("plain", &x),
        ("zip", b"PK\x03\x04{{{{{{{{"),
        ("short", b"\x02"),
        ("deeper/x.safetensors", &x),
    ]);
    let probe = |place: &Place| Safetensors.probe(&Candidate::new(place).unwrap());
    assert!(probe(&inside(&place, "plain")));
    assert!(!probe(&inside(&place, "zip")) && !probe(&inside(&place, "short")) && !probe(&place));
}

/// An entry of a header that is right or nearly so.
fn entry() -> impl Strategy<Value = (String, Vec<u64>, i64, i64)> {
    let dtype = prop::sample::select(vec!["BOOL", "U8", "F4", "F6_E2M3", "F16", "BF16", "F32", "F64", "C64"]);
    let slip = || prop_oneof![9 => Just(0), 1 => -2..3i64];
    (dtype.prop_map(str::to_owned), prop::collection::vec(0u64..4, 0..4), slip(), slip())
}

proptest! {
    /// Changed bytes give an error or a catalog whose chunks lie in the file or are reported, never a panic.
    #[test]
    fn changed_bytes_never_panic(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let header = json!({
            "__metadata__": {"DCP_SHARDING_INFO": r#"{"a": {"saved_offsets": [4, 0]}, "b": {"saved_offsets": []}}"#},
            "a": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
            "b": {"dtype": "U8", "shape": [], "data_offsets": [24, 25]},
        });
        let mut bytes = file(&header.to_string(), 25);
        let header_end = bytes.len() - 25;
        for (at, byte) in changes {
            bytes[at.index(header_end)] = byte;
        }
        let place = folder(&[("x.safetensors", &bytes)]);
        if let Ok(reader) = open(&place) {
            let catalog = reader.catalog();
            let cut = catalog.objects[0].byte_len > bytes.len() as u64;
            prop_assert!(!cut || !catalog.findings.is_empty());
            for (fqn, tensor) in &catalog.tensors {
                for chunk in tensor.chunks.all(&tensor.spec.shape).unwrap() {
                    prop_assert!(chunk.byte_offset + chunk.byte_len <= catalog.objects[0].byte_len);
                    prop_assert!(reader.resolve(fqn, tensor, &chunk).is_ok());
                }
            }
        }
    }

    /// A file is read if and only if the safetensors library reads it.
    #[test]
    fn agrees_with_the_library(entries in prop::collection::vec(entry(), 0..4), extra in prop_oneof![9 => Just(0), 1 => -2..3i64]) {
        let bits = |dtype: &str| match dtype { "F4" => 4, "F6_E2M3" => 6, "F16" | "BF16" => 16, "F32" => 32, "F64" | "C64" => 64, _ => 8 };
        let mut header = serde_json::Map::new();
        let mut end = 0i64;
        for (at, (dtype, shape, from_slip, until_slip)) in entries.iter().enumerate() {
            let byte_len = shape.iter().product::<u64>() as i64 * bits(dtype) / 8;
            let offsets = [end + from_slip, end + byte_len + until_slip];
            header.insert(format!("t{at}"), json!({"dtype": dtype, "shape": shape, "data_offsets": offsets}));
            end += byte_len;
        }
        let bytes = file(&serde_json::Value::Object(header).to_string(), (end + extra).max(0) as usize);
        let ours = read_header(&MemoryObject::new("x", bytes.as_slice()), 0, "x");
        let ours = ours.map(|header| header.end == bytes.len() as u64);
        let library = SafeTensors::deserialize(&bytes);
        prop_assert_eq!(matches!(ours, Ok(true)), library.is_ok(), "{:?}, {:?}", ours, library);
    }
}
