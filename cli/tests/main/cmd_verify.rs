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

#[test]
fn a_reader_that_leaves_early_does_not_hide_the_damage() {
    let folder = tempfile::tempdir().unwrap();
    let fixtures = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let path = folder.path().join("cut.safetensors");
    let mut bytes = std::fs::read(fixtures.join(crate::LLAMA)).unwrap();
    bytes.truncate(bytes.len() - 1);
    std::fs::write(&path, bytes).unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_titan-ckpt"));
    let status = command.arg("verify").arg(&path).stdout(writer).status().unwrap();
    assert_eq!(status.code(), Some(1));
}
