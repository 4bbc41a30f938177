//! `cargo xtask test`: everything that must hold, in one command, here and in CI.
//!
//! The last line is `N passed, N failed, N skipped`, and after `--long` what was run beyond the normal. Tests are counted
//! over all of cargo's test output; a check that is no test (format, lints, licences, tidy, fixtures, environments)
//! counts as one failure when it fails and as nothing when it holds. A test that needs a peer which is not there prints
//! `SKIP name: reason` and counts as skipped, not as passed; where `CI` is set, a skip is a failure.

use crate::moto::{self, MotoServer};
use crate::peers::{self, PEERS, Ready};
use crate::process::{cargo, ensure_subcommand, run as run_command, watch, words};
use crate::{fixtures, libtorch, models, tidy};
use anyhow::{Result, bail};
use clap::Args;
use regex::Regex;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

#[derive(Args)]
pub(crate) struct TestArgs {
    /// Without the real PyTorch and moto: what needs them is skipped, and nothing but libtorch is downloaded, once
    #[arg(long)]
    quick: bool,
    /// More of what takes long: 1,000 kills of a job that saves to disk, 200 of one that saves to S3; runs that are saved on
    /// each of 8 meshes go on on each of 8, not of 2
    #[arg(long)]
    long: bool,
}

/// What `--long` runs more often: the variable of a test, its value, and how the summary tells it.
const LONG: [(&str, &str, &str); 3] = [
    ("TITAN_KILLS", "1000", "1,000 kills on disk"),
    ("TITAN_KILLS_S3", "200", "200 kills on S3"),
    ("TITAN_MESHES", "8", "8 x 8 meshes"),
];

/// `cargo xtask test`.
pub(crate) fn run(root: &Path, args: &TestArgs) -> Result<()> {
    std::env::set_current_dir(root)?;
    let start = Instant::now();
    let mut suite = Suite::default();
    suite.step("format", |_| run_command(&mut cargo(&["fmt", "--all", "--check"])));
    suite.step("libtorch", |_| libtorch::ensure_libtorch(root));
    suite.step("lints", |_| {
        run_command(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
    });
    // Advisories are left out: they need a database from the network, and would fail a tree that did not change.
    suite.step("licences, bans, sources", |_| {
        ensure_subcommand("deny")?;
        run_command(&mut cargo(&["deny", "check", "bans", "licenses", "sources"]))
    });
    suite.step("tidy", |_| tidy::run(root));
    suite.step("tests", |tally| {
        cargo_test(tally, &mut cargo(&["test", "--workspace", "--exclude", "e2e", "--no-fail-fast"]))
    });
    suite.step("fixtures", |_| fixtures::check(root).map(|checked| println!("    {checked}")));

    let (mut ready, mut server, mut torchtitan) = (Vec::new(), None, None);
    if !args.quick {
        for peer in PEERS {
            suite.step(&format!("PyTorch {}", peer.torch), |_| {
                ready.push(peers::ensure_peer(root, peer)?);
                Ok(())
            });
        }
        suite.step(models::PRODUCER, |_| {
            torchtitan = Some(models::ensure_installed(root)?);
            Ok(())
        });
        suite.step(&format!("S3 server moto {}", moto::VERSION), |_| {
            let python = moto::ensure_installed(root)?;
            server = Some(MotoServer::start(root, &python)?);
            Ok(())
        });
    }
    suite.step("end to end", |tally| {
        let mut command = cargo(&["test", "-p", "e2e", "--no-fail-fast"]);
        tell_peers(&mut command, &ready, torchtitan.as_deref(), server.as_ref());
        if args.long {
            command.envs(LONG.map(|(variable, value, _)| (variable, value)));
            tally.long = LONG.map(|(.., what)| what).to_vec();
        }
        cargo_test(tally, &mut command)
    });
    drop(server);
    suite.finish(start)
}

/// Tells tests where the interpreters and the S3 server are, and hides those that the caller's environment may name.
fn tell_peers(
    command: &mut Command,
    ready: &[Ready],
    torchtitan: Option<&Path>,
    server: Option<&MotoServer>,
) {
    for peer in PEERS {
        command.env_remove(peer.variable());
    }
    for ready in ready {
        command.env(ready.peer.variable(), &ready.python);
    }
    match torchtitan {
        Some(python) => command.env(models::VARIABLE, python),
        None => command.env_remove(models::VARIABLE),
    };
    match server {
        Some(server) => command.env(moto::VARIABLE, &server.address),
        None => command.env_remove(moto::VARIABLE),
    };
}

/// Runs `cargo test`, shows its output and counts it.
fn cargo_test(tally: &mut Tally, command: &mut Command) -> Result<()> {
    let failed_before = tally.failed;
    let status = watch(command, |line| {
        println!("    {line}");
        tally.line(line);
    })?;
    // Failed tests are counted already; a failure without one (such as a compile error) must not pass for none.
    if !status.success() && tally.failed == failed_before {
        bail!("`{}` failed: {status}", words(command));
    }
    Ok(())
}

/// Counts over all steps.
#[derive(Default, Debug, PartialEq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    /// Tests that said they were skipped, each with its reason.
    skipped: BTreeMap<String, String>,
    /// What was run beyond the normal.
    long: Vec<&'static str>,
}

impl Tally {
    /// Counts one line of cargo's test output.
    fn line(&mut self, line: &str) {
        static RESULT: LazyLock<Regex> = LazyLock::new(|| {
            Regex::new(r"^test result: \w+\. (\d+) passed; (\d+) failed; (\d+) ignored;").expect("a constant")
        });
        if let Some(counts) = RESULT.captures(line) {
            let count = |index: usize| counts[index].parse::<u64>().unwrap_or(0);
            self.passed += count(1);
            self.failed += count(2);
            self.ignored += count(3);
        } else if let Some((name, reason)) = line.strip_prefix("SKIP ").and_then(|skip| skip.split_once(": "))
        {
            self.skipped.insert(name.to_owned(), reason.to_owned());
        }
    }

    /// Tests that were not run. A skipped test ends well, so that libtest counts it as passed.
    fn skips(&self) -> u64 {
        self.skipped.len() as u64 + self.ignored
    }

    fn summary(&self) -> String {
        let passed = self.passed.saturating_sub(self.skipped.len() as u64);
        let long = match self.long.is_empty() {
            true => String::new(),
            false => format!(" (long: {})", self.long.join(", ")),
        };
        format!("{passed} passed, {} failed, {} skipped{long}", self.failed, self.skips())
    }
}

/// The steps taken so far.
#[derive(Default)]
struct Suite {
    tally: Tally,
    /// Title and cause of the checks that did not hold.
    broken: Vec<(String, String)>,
    steps: u32,
}

impl Suite {
    fn step(&mut self, title: &str, body: impl FnOnce(&mut Tally) -> Result<()>) {
        self.steps += 1;
        println!("==> {}. {title}", self.steps);
        let start = Instant::now();
        let failed_before = self.tally.failed;
        let outcome = match body(&mut self.tally) {
            Ok(()) if self.tally.failed == failed_before => "ok",
            Ok(()) => "FAILED",
            Err(error) => {
                println!("    error: {error:#}");
                self.tally.failed += 1;
                self.broken.push((title.to_owned(), format!("{error:#}")));
                "FAILED"
            }
        };
        println!("<== {}. {title}: {outcome} [{:.1} s]", self.steps, start.elapsed().as_secs_f64());
    }

    fn finish(mut self, start: Instant) -> Result<()> {
        println!();
        for (name, reason) in &self.tally.skipped {
            println!("skipped {name}: {reason}");
        }
        for (title, cause) in &self.broken {
            println!("failed {title}: {cause}");
        }
        if self.tally.skips() > 0 && std::env::var("CI").is_ok_and(|ci| ci == "true" || ci == "1") {
            println!("failed: CI is set, and {} tests were skipped", self.tally.skips());
            self.tally.failed += 1;
        }
        println!("all steps: {:.0} s", start.elapsed().as_secs_f64());
        println!("{}", self.tally.summary());
        if self.tally.failed > 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_and_skips_are_summed() {
        let mut tally = Tally::default();
        let output = "running 3 tests\n\
            test layout::tests::tiles ... ok\n\
            test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            SKIP torch::loads_ours: TITAN_PYTHON_2_4 is not set\n\
            SKIP torch::loads_ours: TITAN_PYTHON_2_11 is not set\n\
            test result: FAILED. 2 passed; 1 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.10s\n\
            SKIPPED is another word\n";
        output.lines().for_each(|line| tally.line(line));
        assert_eq!(tally.summary(), "4 passed, 1 failed, 2 skipped");
        tally.long = vec!["1,000 kills", "more"];
        assert_eq!(tally.summary(), "4 passed, 1 failed, 2 skipped (long: 1,000 kills, more)");
    }

    #[test]
    fn a_check_that_fails_counts_once_and_later_steps_run() {
        let mut suite = Suite::default();
        suite.step("broken", |_| bail!("why"));
        suite.step("tests", |tally| {
            tally.line("test result: ok. 5 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
            Ok(())
        });
        assert_eq!(suite.tally.summary(), "5 passed, 1 failed, 0 skipped");
        assert_eq!(suite.broken, [("broken".to_owned(), "why".to_owned())]);
    }

    #[test]
    fn a_test_command_that_does_not_build_is_an_error() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo 'error: could not compile' >&2; exit 101"]);
        assert!(cargo_test(&mut Tally::default(), &mut command).is_err());
    }
}
