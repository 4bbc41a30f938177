use super::*;

#[test]
fn prints_slices() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["cat", LLAMA, "output.weight"],
            &["cat", LLAMA, "output.weight[0:2,-3:]"],
            &["cat", LLAMA, "output.weight[-1, 4]"],
            &["cat", LLAMA, "output.weight[5:5]"],
            &["cat", LLAMA, "output.weight[0:2,-1]", "--json"],
            &["cat", DTYPES, "dt.bool"],
            &["cat", DTYPES, "dt.bfloat16"],
            &["cat", DTYPES, "dt.int64[0]"],
        ]
    ));
}

#[test]
fn writes_numpy_files() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = run(folder.path(), &["cat", LLAMA, "output.weight[1:3,0:2]", "--npy", "TMP/a.npy"]);
    assert_eq!((code, &*text), (0, "--- stderr\nwrote TMP/a.npy\n"));
    let bytes = std::fs::read(folder.path().join("a.npy")).unwrap();
    assert!(bytes.starts_with(
        b"\x93NUMPY\x01\x00\x76\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }"
    ));
    assert_eq!(bytes.len(), 128 + 4 * 4);
    let (_, shown) = run(folder.path(), &["cat", LLAMA, "output.weight[1:3,0:2]", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    let last = f32::from_le_bytes(*bytes.last_chunk().unwrap());
    assert_eq!(shown["data"][1][1].as_f64().unwrap() as f32, last);
    let (_, text) = run(folder.path(), &["cat", DTYPES, "dt.bfloat16", "--npy", "TMP/b.npy"]);
    assert!(text.ends_with("note: numpy has no bfloat16; its bits are written as uint16\n"), "{text}");
}
