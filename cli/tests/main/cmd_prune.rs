use super::*;

/// A run of five steps of two files each, the last of which is not whole.
fn make_run(folder: &Path) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures").join(LLAMA);
    let run = folder.join("run");
    for step in [100, 200, 300, 400, 500] {
        let step = run.join(format!("step-{step}"));
        let converted = dcp_convert(&file, &step);
        assert_eq!(converted.0, 0, "{}", converted.1);
    }
    let attempt = std::fs::read_dir(run.join("step-500")).unwrap();
    let attempt = attempt.map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    for object in std::fs::read_dir(attempt).unwrap() {
        let object = object.unwrap().path();
        if object.extension().is_some_and(|extension| extension == "safetensors") {
            std::fs::remove_file(object).unwrap();
        }
    }
    std::fs::create_dir(run.join("step-600")).unwrap();
    std::fs::write(run.join("step-600/__0_0.distcp"), b"half").unwrap();
    std::fs::write(run.join("step-100/notes.txt"), b"mine").unwrap();
}

fn dcp_convert(from: &Path, to: &Path) -> (i32, String) {
    run(
        to.parent().unwrap().parent().unwrap(),
        &["convert", "--to", "titan", from.to_str().unwrap(), to.to_str().unwrap()],
    )
}

#[test]
fn keeps_what_is_wanted() {
    let folder = tempfile::tempdir().unwrap();
    make_run(folder.path());
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["prune", "TMP/run", "--keep-latest", "2", "--dry-run"],
            &["prune", "TMP/run", "--keep-latest", "2", "--keep-every", "200", "--older-than", "0s"],
            &["prune", "TMP/run", "--keep-latest", "1"],
            &["ls", "TMP/run"],
        ]
    ));
}

#[test]
fn says_it_in_json() {
    let folder = tempfile::tempdir().unwrap();
    make_run(folder.path());
    let (code, text) =
        run(folder.path(), &["prune", "TMP/run", "--keep-latest", "1", "--json", "--older-than", "0s"]);
    assert_eq!(code, 0, "{text}");
    // The names of attempts are drawn.
    let mut document: serde_json::Value =
        serde_json::from_str(&text[..text.find("--- stderr").unwrap()].replace("TIME,", "0")).unwrap();
    for step in document["steps"].as_array_mut().unwrap() {
        for action in step["actions"].as_array_mut().unwrap() {
            let object = action["object"].as_str().unwrap();
            let parts = object.split('/').map(|part| if part.len() == 32 { "ATTEMPT" } else { part });
            action["object"] = parts.collect::<Vec<_>>().join("/").into();
        }
        step["actions"].as_array_mut().unwrap().sort_by_key(|action| action.to_string());
    }
    insta::assert_snapshot!(serde_json::to_string_pretty(&document).unwrap());
}

#[test]
fn refuses_what_makes_no_sense() {
    let folder = tempfile::tempdir().unwrap();
    make_run(folder.path());
    insta::assert_snapshot!(session(
        folder.path(),
        &[
            &["prune", "TMP/run", "--keep-latest", "0"],
            &["prune", "TMP/run", "--keep-every", "100"],
            &["prune", "TMP/run", "--older-than", "yesterday"],
            &["prune", "TMP/run/step-100", "--keep-latest", "1"],
            &["prune", "TMP/nowhere"],
        ]
    ));
}
