use super::*;
use std::process::Stdio;
use std::time::Duration;

#[test]
fn copies_what_is_not_there() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(folder.path().join("other")).unwrap();
    std::fs::write(folder.path().join("other/a"), b"another").unwrap();
    std::fs::write(folder.path().join("a"), b"contents").unwrap();
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["cp", TWO_FILES, "TMP/copy", "--dry-run"],
            &["cp", TWO_FILES, "TMP/copy", "--verify"],
            &["cp", TWO_FILES, "TMP/copy", "--dry-run"],
            &["cp", TWO_FILES, "TMP/copy"],
            &["cp", TWO_FILES, "TMP/copy", "--json"],
            &["diff", TWO_FILES, "TMP/copy"],
            &["cp", "TMP/a", "TMP/copy/"],
            &["cp", "TMP/a", "TMP/other/"],
        ]
    ));
}

/// Killed while it writes, the copy is no checkpoint and leaves one file that says so; the same command completes it.
#[test]
fn goes_on_after_it_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (source, copy) = (folder.path().join("step-1"), folder.path().join("copy"));
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("model.safetensors.index.json"), b"{}").unwrap();
    std::fs::write(source.join("a.safetensors"), vec![1; 64 << 20]).unwrap();
    std::fs::write(source.join("b.safetensors"), vec![2; 64 << 20]).unwrap();
    let mut killed = 0;
    for pause_ms in 0..60 {
        let mut child = Command::new(env!("CARGO_BIN_EXE_titan-ckpt"))
            .args(["cp", "--threads", "1"])
            .args([&source, &copy])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pause_ms));
        child.kill().unwrap();
        killed += usize::from(!child.wait().unwrap().success());
        let committed = copy.join("model.safetensors.index.json").exists();
        let whole =
            |name: &str| std::fs::metadata(copy.join(name)).is_ok_and(|found| found.len() == 64 << 20);
        assert!(!committed || (whole("a.safetensors") && whole("b.safetensors")));
    }
    assert!(killed > 0);
    let (code, text) = run(folder.path(), &["cp", "TMP/step-1", "TMP/copy", "--verify"]);
    assert_eq!(code, 0, "{text}");
    for name in ["a.safetensors", "b.safetensors", "model.safetensors.index.json"] {
        assert!(std::fs::read(copy.join(name)).unwrap() == std::fs::read(source.join(name)).unwrap());
    }
    assert_eq!(std::fs::read_dir(&copy).unwrap().count(), 3, "nothing else is left");
}
