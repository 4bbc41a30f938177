//! A job that is killed at any moment loses nothing that it said was committed.
//!
//! `TITAN_KILLS` and `TITAN_KILLS_S3` say how often; `cargo xtask test --long` sets them to 1,000 and 200.

use e2e::kills::{Seen, campaign};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::path::Path;

fn how_often(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).ok().and_then(|number| number.parse().ok()).unwrap_or(otherwise)
}

#[track_caller]
fn check(url: &str, environment: &[(String, String)], kills: u64) {
    let program = Path::new(env!("CARGO_BIN_EXE_save_loop"));
    let seen = campaign(program, url, environment, kills, 1).unwrap();
    println!("{seen:?}");
    assert_eq!(Seen { lost: 0, mixed: 0, stuck: 0, kills, ..seen }, seen);
    assert!(seen.saves > 0, "nothing was ever saved");
}

#[test]
fn killed_while_saving_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    let url = folder.path().join("run");
    check(url.to_str().unwrap(), &[], how_often("TITAN_KILLS", 54));
}

#[test]
fn killed_while_saving_to_s3() {
    let server = S3Server::start(Faults::default()).unwrap();
    check(&format!("s3://{BUCKET}/run"), &server.environment(), how_often("TITAN_KILLS_S3", 6));
}
