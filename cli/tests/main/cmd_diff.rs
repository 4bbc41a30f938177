use super::*;

#[test]
fn tells_every_difference() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["diff", LLAMA, LLAMA],
            &["diff", TWO_FILES, BOXES],
            &["diff", TWO_FILES, BOXES, "--json"],
            &["convert", LLAMA, "TMP/b.safetensors", "--dtype", "bf16", "--include", "output.*"],
            &["diff", LLAMA, "TMP/b.safetensors", "--include", "output.*"],
            &["diff", LLAMA, "TMP/b.safetensors", "--include", "output.*", "--rtol", "0.01"],
        ]
    ));
}
