use super::*;

#[test]
fn cuts_for_other_degrees() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["reshard", LLAMA, "TMP/a", "--to", "safetensors", "--dp-shard", "3", "--tp", "2"],
            &["diff", LLAMA, "TMP/a"],
            &["reshard", LLAMA, "TMP/b", "--to", "safetensors", "--pp", "2", "--dry-run", "--json"],
        ]
    ));
}
