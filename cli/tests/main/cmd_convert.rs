use super::*;

#[test]
fn converts_to_files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["convert", LLAMA, "TMP/a.safetensors", "--dry-run"],
            &["convert", LLAMA, "TMP/a.safetensors"],
            &["convert", LLAMA, "TMP/b.safetensors", "--exclude", "optimizer.*", "--dtype", "bf16"],
            &["convert", LLAMA, "TMP/c", "--to", "safetensors", "--shard-size", "500kB", "--json"],
            &["convert", BOXES, "TMP/d", "--to", "safetensors", "--sharded"],
            &["convert", LLAMA, "TMP/a.safetensors"],
            &["diff", LLAMA, "TMP/c"],
            &["diff", BOXES, "TMP/d"],
        ]
    ));
}
