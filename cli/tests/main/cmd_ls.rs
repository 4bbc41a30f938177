use super::*;

#[test]
fn lists_tensors() {
    let folder = tempfile::tempdir().unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["ls", TWO_FILES],
            &["ls", "--long", BOXES],
            &["ls", "--json", TWO_FILES],
            &["ls", LLAMA, "--include", "layers.*.attention.*", "--exclude", "*.w[ko].*"],
        ]
    ));
}

#[test]
fn lists_the_steps_of_a_run() {
    let folder = tempfile::tempdir().unwrap();
    for step in ["step-9", "step-10", "step-100"] {
        assert_eq!(
            run(folder.path(), &["convert", TWO_FILES, &format!("TMP/run/{step}"), "--to", "safetensors"]).0,
            0
        );
    }
    std::fs::create_dir_all(folder.path().join("run/step-200")).unwrap();
    std::fs::write(folder.path().join("run/step-200/half"), "x").unwrap();
    std::fs::create_dir_all(folder.path().join("run/logs")).unwrap();
    std::fs::write(folder.path().join("run/logs/events"), "x").unwrap();
    insta::assert_snapshot!(session(folder.path(), &[&["ls", "TMP/run"], &["ls", "--json", "TMP/run"]]));
}
