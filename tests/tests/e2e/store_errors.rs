//! What is said when a store cannot be used: one message, with what was found and what to do.

use dcp::format::open;
use dcp::storage::{Environment, open_url_with};
use dcp::{Error, Result};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::TcpListener;

/// Settings of a server, some of them replaced.
fn settings(server: &S3Server, replaced: &[(&str, &str)]) -> Environment {
    let mut variables: BTreeMap<String, String> = server.environment().into_iter().collect();
    let replaced = replaced.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    variables.extend(replaced);
    variables.into_iter().collect()
}

/// What `ls` and `convert` do first with a place: read and write it.
fn session(bucket: &str, environment: &Environment) -> String {
    let url = format!("s3://{bucket}/run/step-10");
    let read = || -> Result<()> { open(&open_url_with(&url, environment)?).map(drop) };
    let write = || -> Result<()> {
        let place = open_url_with(&url, environment)?;
        place.store.put(&place.key.join("object")?, b"bytes")
    };
    format!("read\n{}write\n{}", said(read()), said(write()))
}

/// The message and its causes, as the program prints them.
fn said(outcome: Result<()>) -> String {
    let Err(error) = outcome else { return "done\n".to_owned() };
    let mut text = format!("{:?}: {error}\n", error.kind());
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        let _ = writeln!(text, "caused by: {inner}");
        cause = inner.source();
    }
    text
}

#[test]
fn every_way_a_store_fails_has_its_message() {
    let healthy = S3Server::start(Faults::default()).unwrap();
    let always = |faults| S3Server::start(faults).unwrap();
    let mut text = String::new();
    let mut note = |title: &str, bucket: &str, environment: &Environment| {
        let _ = writeln!(text, "# {title}\n{}", session(bucket, environment));
    };
    note("a bucket that is not there", "no-such-bucket", &settings(&healthy, &[]));
    note("an unknown key", BUCKET, &settings(&healthy, &[("AWS_ACCESS_KEY_ID", "nobody")]));
    note("another secret", BUCKET, &settings(&healthy, &[("AWS_SECRET_ACCESS_KEY", "guessed")]));
    let skewed = always(Faults { skewed: 100, ..Faults::default() });
    note("a clock that is wrong", BUCKET, &settings(&skewed, &[]));
    let slow = always(Faults { slow: 100, delay_ms: 2000, ..Faults::default() });
    let hasty = [("AWS_TIMEOUT", "100ms"), ("AWS_MAX_ATTEMPTS", "2")];
    note("a store slower than the time allowed", BUCKET, &settings(&slow, &hasty));
    // A port that was free a moment ago: nobody listens there.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let nowhere = format!("http://127.0.0.1:{port}");
    let endpoint = [("AWS_ENDPOINT_URL", nowhere.as_str()), ("AWS_MAX_ATTEMPTS", "2")];
    note("nobody listens", BUCKET, &settings(&healthy, &endpoint));
    let busy = always(Faults { slow_down: 100, ..Faults::default() });
    note("a store that is too busy", BUCKET, &settings(&busy, &[("AWS_MAX_ATTEMPTS", "2")]));
    let conflicts = always(Faults { conflict: 100, ..Faults::default() });
    note("writes that are always in conflict", BUCKET, &settings(&conflicts, &[]));
    let endpoints =
        [&healthy, &skewed, &slow, &busy, &conflicts].map(|server| server.environment()[0].1.clone());
    for endpoint in endpoints.iter().chain([&nowhere]) {
        text = text.replace(endpoint.as_str(), "http://HOST");
    }
    insta::assert_snapshot!(text.lines().map(|line| redacted(line) + "\n").collect::<String>());
}

/// Takes the time out of `performing GET http://HOST/... in 1.2s`.
fn redacted(line: &str) -> String {
    let Some((before, rest)) = line.split_once(" in ").filter(|(before, _)| before.contains("http://HOST"))
    else {
        return line.to_owned();
    };
    let until = rest.find([',', ' ']).unwrap_or(rest.len());
    format!("{before} in TIME{}", &rest[until..])
}

#[test]
fn wrong_settings_are_named() {
    let server = S3Server::start(Faults::default()).unwrap();
    for (name, value) in [("AWS_MAX_ATTEMPTS", "0"), ("AWS_MAX_ATTEMPTS", "few")] {
        let error = open_url_with("s3://bucket", &settings(&server, &[(name, value)])).unwrap_err();
        assert!(matches!(&error, Error::BadSetting { name: found, .. } if found == name), "{error}");
    }
    let error = open_url_with("s3://bucket", &settings(&server, &[("AWS_TIMEOUT", "long")])).unwrap_err();
    assert!(error.to_string().contains("long"), "{error}");
}
