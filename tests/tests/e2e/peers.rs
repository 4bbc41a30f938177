//! The peers are what they are said to be.

#[test]
fn torch_2_4_runs() {
    runs("2.4");
}

#[test]
fn torch_2_11_runs() {
    runs("2.11");
}

#[test]
fn torch_2_15_runs() {
    runs("2.15");
}

#[track_caller]
fn runs(version: &str) {
    let Some(peer) = e2e::peer(version) else { return };
    let said = peer.run_script("tests/peers/version.py".as_ref(), ["--flag", "a b"]).unwrap();
    assert_eq!(said.trim(), format!("{version} --flag a b"));

    let why = peer.run_script("tests/peers/no_such_script.py".as_ref(), [""; 0]).unwrap_err();
    assert!(why.contains("no_such_script.py") && why.contains(version), "{why}");
}
