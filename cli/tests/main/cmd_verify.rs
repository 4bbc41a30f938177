use super::*;

#[test]
fn says_whether_it_is_sound() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[&["verify", BOXES], &["verify", "--deep", LLAMA], &["verify", "--deep", "--json", TWO_FILES]]
    ));
}

#[test]
fn names_what_is_damaged_and_exits_with_1() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(
        run(folder.path(), &["convert", TWO_FILES, "TMP/c", "--to", "safetensors", "--shard-size", "50"]).0,
        0
    );
    let file = folder.path().join("c/model-00002-of-00002.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 3]).unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[&["verify", "TMP/c"], &["verify", "TMP/c", "--deep", "--json"]]
    ));
}
