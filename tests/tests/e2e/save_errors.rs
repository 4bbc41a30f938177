//! A store fails in the middle of a run: every rank is told once and clearly, the step before stands, and when the store is
//! well again the run goes on.

use dcp::storage::{Environment, Place, open_url_with};
use e2e::kills::{RANKS, load_newest, save_all};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use std::collections::BTreeMap;
use std::fmt::Write;

/// The run as ranks see it with these settings.
fn run(server: &S3Server, settings: &[(&str, &str)]) -> Place {
    let given = settings.iter().map(|&(name, value)| (name.to_owned(), value.to_owned()));
    let environment: Environment = server.environment().into_iter().chain(given).collect();
    open_url_with(&format!("s3://{BUCKET}/run"), &environment).unwrap()
}

#[test]
fn a_store_that_fails_is_told_and_the_step_before_stands() {
    let server = S3Server::start(Faults::default()).unwrap();
    let (well, none) = (run(&server, &[]), Faults::default());
    let hasty = [("AWS_TIMEOUT", "100ms"), ("AWS_MAX_ATTEMPTS", "2")];
    let guessed = [("AWS_SECRET_ACCESS_KEY", "guessed")];
    let every = [0, 1, 2, 3];
    type Settings<'a> = &'a [(&'a str, &'a str)];
    let troubles: [(&str, Faults, Settings<'_>, &[usize]); 7] = [
        ("the bucket is gone", Faults { no_bucket: 100, ..none }, &[], &every),
        ("another secret", none, &guessed, &every),
        ("another secret on rank 2", none, &guessed, &[2]),
        ("a clock that is wrong", Faults { skewed: 100, ..none }, &[], &every),
        ("slower than the time allowed", Faults { slow: 100, delay_ms: 2000, ..none }, &hasty, &every),
        ("too busy", Faults { slow_down: 100, ..none }, &hasty, &every),
        ("connections that break", Faults { reset: 100, ..none }, &hasty, &every),
    ];
    let mut text = String::new();
    for (step, (title, faults, settings, ranks)) in (1..).zip(troubles) {
        let mut runs = vec![well.clone(); RANKS as usize];
        for saved in save_all(&runs, step) {
            saved.unwrap();
        }
        ranks.iter().for_each(|&rank| runs[rank] = run(&server, settings));
        server.inject(faults);
        let outcomes = save_all(&runs, step + 1);
        server.inject(none);
        assert_eq!(load_newest(&well).unwrap(), (step, true), "{title}");
        let _ = writeln!(text, "# {title}");
        let mut told: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (rank, outcome) in outcomes.iter().enumerate() {
            told.entry(outcome.as_ref().expect_err(title).with_causes()).or_default().push(rank);
        }
        for (message, ranks) in told {
            let _ = writeln!(text, "ranks {ranks:?}: {message}");
        }
    }
    let endpoint = &server.environment()[0].1;
    insta::assert_snapshot!(redacted(&text.replace(endpoint, "http://HOST")));
}

/// Without names that are drawn, and times.
fn redacted(text: &str) -> String {
    let is_hex = |char: char| matches!(char, '0'..='9' | 'a'..='f');
    let mut redacted = String::new();
    for word in text.split_inclusive(|char| !is_hex(char)) {
        match word.len() {
            33 => redacted.push_str(&format!("ATTEMPT{}", &word[32..])),
            _ => redacted.push_str(word),
        }
    }
    let without_time =
        |line: &str| match line.split_once(" in ").filter(|(_, rest)| rest.contains("ms, after")) {
            Some((before, rest)) => format!("{before} in TIME{}\n", &rest[rest.find(',').unwrap_or(0)..]),
            None => format!("{line}\n"),
        };
    redacted.lines().map(without_time).collect()
}
