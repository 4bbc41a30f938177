//! Folders whose files, index and names disagree.

use super::{assert_says, contents, file, file_of, folder, inside, open, told};
use crate::error::Error;
use crate::model::{DType, Severity};
use serde_json::json;

const INDEX: &str = "model.safetensors.index.json";

fn index(weight_map: serde_json::Value) -> Vec<u8> {
    json!({ "metadata": { "total_size": 8, "kind": "x" }, "weight_map": weight_map }).to_string().into_bytes()
}

#[test]
fn text_entries_become_attributes() {
    let json =
        r#"{"__metadata__":{"format":"pt","a":"b"},"x":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#;
    let reader = open(&inside(&folder(&[("m.safetensors", &file(json, 1))]), "m.safetensors")).unwrap();
    let attributes: Vec<_> = reader.catalog().attributes.iter().collect();
    assert_eq!(attributes, [(&"format".to_owned(), &"pt".to_owned()), (&"a".to_owned(), &"b".to_owned())]);
    assert_eq!(contents(&*reader, "x"), [0]);
    assert_says(&reader.value(&"x".into()).unwrap_err().to_string(), &["`x`", "tensors only"]);
}

#[test]
fn plain_files_that_share_no_tensor() {
    let (a, b) = (file_of("a", 3), file_of("b", 5));
    let place = folder(&[("1.safetensors", &a), ("2.safetensors", &b), ("config.json", b"{}")]);
    let reader = open(&place).unwrap();
    assert_eq!(reader.catalog().tensors.len(), 2);
    assert!(reader.catalog().findings.is_empty());
    assert_eq!(contents(&*reader, "b"), [0, 1, 2, 3, 4]);
    let error = open(&folder(&[("1.safetensors", &a), ("2.safetensors", &a)])).unwrap_err();
    assert!(matches!(error, Error::BadTensor { .. }));
    assert_says(&error.to_string(), &["a: ", "`1.safetensors`", "`2.safetensors`", "open one file"]);
}

#[test]
fn numbered_files_that_are_missing() {
    let (a, b) = (file_of("a", 3), file_of("b", 5));
    let place = folder(&[("model-00001-of-00003.safetensors", &a), ("model-00003-of-00003.safetensors", &b)]);
    let reader = open(&place).unwrap();
    let damage = told(&reader.catalog().findings, Severity::Damage);
    assert_eq!(damage.len(), 1, "{damage:?}");
    assert_says(damage[0], &["3 files", "only 2", "number 2"]);
    // A file opened by itself is not blamed for the others.
    let reader = open(&inside(&place, "model-00003-of-00003.safetensors")).unwrap();
    assert!(reader.catalog().findings.is_empty());
}

#[test]
fn the_index_decides_which_files_count() {
    let (a, b) = (file_of("a", 3), file_of("b", 5));
    let map = index(json!({"a": "part/1.safetensors", "b": "2.safetensors"}));
    let extra = file_of("a", 7);
    let place = folder(&[
        ("part/1.safetensors", &a),
        ("2.safetensors", &b),
        ("consolidated.safetensors", &extra),
        (INDEX, &map),
    ]);
    let reader = open(&place).unwrap();
    assert_eq!(contents(&*reader, "a"), [0, 1, 2]);
    assert_eq!(reader.catalog().attributes["total_size"], "8");
    assert_eq!(reader.catalog().attributes["kind"], "x");
    let findings = &reader.catalog().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].severity, Severity::Note);
    assert_eq!(findings[0].object.as_ref().unwrap().name(), "consolidated.safetensors");
    assert_says(&findings[0].message, &[INDEX, "left out"]);
}

#[test]
fn an_index_that_disagrees_with_its_files() {
    // `a` is in both files, `c` in none, `d` and `e` in no entry; `f` is in a file that is not there.
    let entry = |at: u64| json!({"dtype": "U8", "shape": [1], "data_offsets": [at, at + 1]});
    let first = file(&json!({"a": entry(0), "b": entry(1), "e": entry(2)}).to_string(), 3);
    let second = file(&json!({"a": entry(0), "d": entry(1), "e": entry(2)}).to_string(), 3);
    let map = json!({"a": "2.safetensors", "b": "1.safetensors", "c": "1.safetensors", "f": "3.safetensors"});
    let place = folder(&[("1.safetensors", &first), ("2.safetensors", &second), (INDEX, &index(map))]);
    let reader = open(&place).unwrap();
    let names: Vec<_> = reader.catalog().tensors.keys().map(|fqn| fqn.as_str()).collect();
    assert_eq!(names, ["b", "e", "a", "d"]);
    let findings = &reader.catalog().findings;
    let of = |severity, name: &str| {
        let found: Vec<_> = findings
            .iter()
            .filter(|f| f.severity == severity && f.object.as_ref().is_some_and(|key| key.name() == name))
            .collect();
        found
            .into_iter()
            .map(|f| (f.fqn.as_ref().map(|fqn| fqn.as_str()), f.message.as_str()))
            .collect::<Vec<_>>()
    };
    assert_eq!(findings.len(), 6, "{findings:#?}");
    assert_eq!(of(Severity::Damage, "1.safetensors")[0].0, Some("c"));
    assert_says(
        of(Severity::Damage, "3.safetensors")[0].1,
        &["no such object", "tensors lost with it: 1, such as `f`"],
    );
    let notes = of(Severity::Note, "1.safetensors");
    assert_says(notes[0].1, &["does not name", "1 of the tensors", "`e`"]);
    assert_says(notes[1].1, &["left out", "1 of the tensors", "`a`"]);
    let notes = of(Severity::Note, "2.safetensors");
    assert_says(notes[0].1, &["does not name", "1 of the tensors", "`d`"]);
    assert_says(notes[1].1, &["left out", "1 of the tensors", "`e`"]);
}

#[test]
fn one_damaged_file_does_not_hide_the_others() {
    let (a, b) = (file_of("a", 3), file_of("b", 5));
    let damaged = &b[..20];
    let map = index(json!({"a": "1.safetensors", "b": "2.safetensors"}));
    for place in [
        folder(&[("1.safetensors", &a), ("2.safetensors", damaged)]),
        folder(&[("1.safetensors", &a), ("2.safetensors", damaged), (INDEX, &map)]),
    ] {
        let reader = open(&place).unwrap();
        assert_eq!(contents(&*reader, "a"), [0, 1, 2]);
        let damage = told(&reader.catalog().findings, Severity::Damage);
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_says(damage[0], &["2.safetensors", "ends at byte 20", "truncated"]);
    }
    let error = open(&folder(&[(INDEX, &map)])).unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error}");
}

#[test]
fn files_of_another_length_than_their_header_says() {
    let whole = file_of("a", 8);
    let longer = [&whole[..], &[0; 3]].concat();
    for (bytes, parts) in [
        (&whole[..whole.len() - 5], ["it has 64 bytes", "speaks of 69", "tensors cut off: 1"]),
        (&longer, ["it has 72 bytes", "speaks of 69", "will refuse"]),
    ] {
        let reader = open(&folder(&[("x.safetensors", bytes)])).unwrap();
        let findings = &reader.catalog().findings;
        assert_eq!((findings.len(), findings[0].severity), (1, Severity::Damage));
        assert_says(&findings[0].message, &parts);
        let object = &reader.catalog().objects[0];
        assert_eq!((object.byte_len, object.exact), (69, true));
    }
}

#[test]
fn indexes_side_by_side() {
    let (a, b) = (file_of("a", 3), file_of("a", 5));
    let full = index(json!({"a": "d.safetensors"}));
    let half = index(json!({"a": "d.fp16.safetensors"}));
    let files: Vec<(&str, &[u8])> = vec![
        ("d.safetensors", &a),
        ("d.fp16.safetensors", &b),
        ("d.safetensors.index.json", &full),
        ("d.fp16.safetensors.index.json", &half),
    ];
    let place = folder(&files);
    let error = open(&place).unwrap_err();
    assert!(matches!(error, Error::Usage(_)));
    assert_says(&error.to_string(), &["d.fp16.safetensors.index.json", "d.safetensors.index.json"]);
    let reader = open(&inside(&place, "d.fp16.safetensors.index.json")).unwrap();
    assert_eq!(contents(&*reader, "a").len(), 5);
    // One alone is the index whatever its name; the usual name wins.
    assert_eq!(contents(&*open(&folder(&files[..3])).unwrap(), "a").len(), 3);
    let usual = [&files[..], &[(INDEX, &half)]].concat();
    assert_eq!(contents(&*open(&folder(&usual)).unwrap(), "a").len(), 5);
}

/// A file of one box.
fn box_file(dtype: &str, shape: &[u64], start: &[u64]) -> Vec<u8> {
    let bytes = shape.iter().product::<u64>() * if dtype == "U8" { 1 } else { 2 };
    let header = json!({
        "__metadata__": {"DCP_SHARDING_INFO": json!({"a": {"saved_offsets": start}}).to_string()},
        "a": {"dtype": dtype, "shape": shape, "data_offsets": [0, bytes]},
    });
    file(&header.to_string(), bytes as usize)
}

#[test]
fn boxes_span_the_tensor_and_may_be_empty() {
    let name = |writer: u32| format!("shard-{writer:05}-model-00001-of-00001.safetensors");
    let names = [name(1), name(2), name(4)];
    let files = [
        box_file("U8", &[2, 3], &[0, 0]),
        box_file("U8", &[1, 3], &[2, 0]),
        box_file("U8", &[0, 3], &[3, 0]),
    ];
    let listed: Vec<_> = names.iter().map(String::as_str).zip(files.iter().map(Vec::as_slice)).collect();
    let reader = open(&folder(&listed)).unwrap();
    let tensor = &reader.catalog().tensors["a"];
    assert_eq!((tensor.spec.dtype, &tensor.spec.shape[..]), (DType::U8, &[3, 3][..]));
    assert_eq!(contents(&*reader, "a"), [0, 1, 2, 3, 4, 5, 0, 1, 2]);
    let notes = told(&reader.catalog().findings, Severity::Note);
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert_says(notes[0], &["no file of writer 2", "later writer"]);
    assert_says(notes[1], &["cannot be noticed"]);
}

#[test]
fn boxes_that_contradict_each_other() {
    let first = box_file("U8", &[2, 3], &[0, 0]);
    for (second, expected) in [
        (box_file("F16", &[1, 3], &[2, 0]), "uint8 in one and float16"),
        (box_file("U8", &[1, 3, 1], &[2, 0, 0]), "2 dims in one and 3"),
        (file_of("a", 3), "2 dims in one and 1"),
        (file(r#"{"a":{"dtype":"U8","shape":[2,3],"data_offsets":[0,6]}}"#, 6), "open one file"),
    ] {
        let error = open(&folder(&[("1.safetensors", &first), ("2.safetensors", &second)])).unwrap_err();
        assert!(matches!(error, Error::BadTensor { .. }));
        assert_says(&error.to_string(), &["a: `1.safetensors` and `2.safetensors`", expected]);
    }
}

#[test]
fn scalars_that_pytorch_consolidated_are_told() {
    let scalar = file(r#"{"s":{"dtype":"U8","shape":[],"data_offsets":[0,1]}}"#, 1);
    let shard = box_file("U8", &[1], &[0]);
    let shard = ("sharded/shard-00001-model-00001-of-00001.safetensors", shard.as_slice());
    let reader = open(&folder(&[("model-00001-of-00001.safetensors", &scalar), shard])).unwrap();
    let findings = &reader.catalog().findings;
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert_eq!(findings[0].fqn.as_ref().map(|fqn| fqn.as_str()), Some("s"));
    assert_says(&findings[0].message, &["as zero", "`sharded`"]);
}

#[test]
fn more_files_than_are_kept_open() {
    let files: Vec<_> =
        (0..200).map(|at| (format!("{at}.safetensors"), file_of(&at.to_string(), at))).collect();
    let files: Vec<_> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice())).collect();
    let reader = open(&folder(&files)).unwrap();
    for at in (0..200).chain([0, 199]) {
        assert_eq!(contents(&*reader, &at.to_string()).len(), at);
    }
}
