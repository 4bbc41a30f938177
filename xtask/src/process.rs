//! Child processes whose output is shown while it is read.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use wait4::Wait4;

/// A command as a person would type it.
pub(crate) fn words(command: &Command) -> String {
    let word = |word: &OsStr| word.to_string_lossy().into_owned();
    std::iter::once(word(command.get_program()))
        .chain(command.get_args().map(word))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs a command; every line of its output is handed to `line` as it comes, in the order each stream gave it.
pub(crate) fn watch(command: &mut Command, line: impl FnMut(&str) + Send) -> Result<ExitStatus> {
    Ok(watch_used(command, line)?.0)
}

/// The same, with the most resident memory that it or one of its children took, in bytes.
pub(crate) fn watch_used(command: &mut Command, line: impl FnMut(&str) + Send) -> Result<(ExitStatus, u64)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("could not start {}", words(command)))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let line = Mutex::new(line);
    std::thread::scope(|scope| {
        if let Some(stderr) = stderr {
            scope.spawn(|| lines(stderr, &line));
        }
        if let Some(stdout) = stdout {
            lines(stdout, &line);
        }
    });
    let used = child.wait4().with_context(|| format!("lost {}", words(command)))?;
    Ok((used.status, used.rusage.maxrss))
}

/// Runs a command with its output indented; a failure is an error that names it.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = watch(command, |line| println!("    {line}"))?;
    if !status.success() {
        bail!("`{}` failed: {status}", words(command));
    }
    Ok(())
}

/// Runs a command for what it prints on stdout; its stderr goes into the error when it fails.
pub(crate) fn read(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("could not start {}", words(command)))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed: {}\n{}", words(command), output.status, stderr.trim_end());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{}` printed no UTF-8", words(command)))
}

/// A `cargo` command, by the cargo that runs us.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args);
    command
}

/// Installs a cargo subcommand from its crate unless it is there.
pub(crate) fn ensure_subcommand(name: &str) -> Result<()> {
    if cargo(&[name, "--version"]).output().is_ok_and(|output| output.status.success()) {
        return Ok(());
    }
    println!("    cargo {name} is missing: installing cargo-{name}");
    run(&mut cargo(&["install", &format!("cargo-{name}"), "--locked"]))
}

fn lines<F: FnMut(&str)>(stream: impl Read, line: &Mutex<F>) {
    let mut stream = BufReader::new(stream);
    let mut bytes = Vec::new();
    while stream.read_until(b'\n', &mut bytes).is_ok_and(|byte_len| byte_len > 0) {
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(mut line) = line.lock() {
            line(text.trim_end_matches(['\n', '\r']));
        }
        bytes.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_streams_are_seen_and_the_status_is_kept() {
        let mut seen = Vec::new();
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; printf last; exit 3"]);
        let status = watch(&mut command, |line| seen.push(line.to_owned())).unwrap();
        seen.sort();
        assert_eq!(seen, ["err", "last", "out"]);
        assert_eq!(status.code(), Some(3));
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo why >&2; exit 1"]);
        let message = read(&mut command).unwrap_err().to_string();
        assert!(message.contains("sh -c") && message.contains("why"), "{message}");
    }
}
