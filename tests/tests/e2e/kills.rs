//! A job that is killed at any moment loses nothing that it said was committed.
//!
//! `TITAN_KILLS` and `TITAN_KILLS_S3` say how often; `cargo xtask test --long` sets them to 1,000 and 200.
//! `TITAN_KILLS_SEED` gives other moments.

use e2e::kills::{Campaign, Seen};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::io::Write;
use std::path::Path;

fn number(variable: &str, otherwise: u64) -> u64 {
    match std::env::var(variable) {
        Ok(number) => number.parse().unwrap_or_else(|error| panic!("{variable}={number}: {error}")),
        Err(_) => otherwise,
    }
}

#[track_caller]
fn check(what: &str, url: &str, environment: &[(String, String)], kills: u64) {
    let program = Path::new(env!("CARGO_BIN_EXE_save_loop"));
    let seed = number("TITAN_KILLS_SEED", 1);
    let seen = Campaign { program, url, environment, kills, seed }.run().unwrap();
    // Past libtest's capture, which shows nothing of a test that ends well.
    let line = format!("KILLS {what}, seed {seed}: {seen}\n");
    std::io::stderr().write_all(line.as_bytes()).unwrap();
    assert_eq!(Seen { lost: 0, mixed: 0, stuck: 0, kills, ..seen }, seen);
    assert!(seen.saves > 0, "nothing was ever saved");
}

#[test]
fn killed_while_saving_to_disk() {
    let folder = tempfile::tempdir().unwrap();
    check("disk", folder.path().to_str().unwrap(), &[], number("TITAN_KILLS", 60));
}

#[test]
fn killed_while_saving_to_s3() {
    let server = S3Server::start(Faults::default()).unwrap();
    check("S3", &format!("s3://{BUCKET}"), &server.environment(), number("TITAN_KILLS_S3", 6));
}
