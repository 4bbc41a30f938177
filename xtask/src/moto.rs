//! An S3 server by other hands: moto from PyPI, in the ignored folder `.peers/moto`, run while tests need it.
//!
//! It has every condition and multipart upload that we use. It looks whether a key exists and then writes it, so that it
//! is no judge of races.
//!
//! Environment variables: `TITAN_PEERS` and `TITAN_PYTHON`, as for the other peers.

use crate::peers::{BasePython, ensure_environment, install};
use crate::process::{read, run as run_command};
use anyhow::{Context, Result, bail, ensure};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Tells tests where it listens.
pub(crate) const VARIABLE: &str = "TITAN_S3_MOTO";
/// The bucket that it has.
const BUCKET: &str = "bucket";
pub(crate) const VERSION: &str = "5.2.1";
/// Minor versions of CPython 3 that it and what it needs have wheels for, first and last.
const PYTHON_MINOR: (u32, u32) = (10, 14);
const SERVER: &str = include_str!("../peers/moto_server.py");
const PROBE: &str = "import importlib.metadata, moto.server; print(importlib.metadata.version('moto'))";
/// It starts within seconds, also on a machine that is busy.
const START_TIMEOUT: Duration = Duration::from_secs(120);

/// Finds the environment, or makes it; gives its interpreter.
pub(crate) fn ensure_installed(root: &Path) -> Result<PathBuf> {
    let base = BasePython::find("moto", PYTHON_MINOR)?;
    let recipe = format!("moto {VERSION} {} {PROBE}", base.minor);
    let python = ensure_environment(root, "moto", &recipe, |folder| {
        run_command(Command::new(&base.program).args(["-m", "venv", "--without-pip"]).arg(folder))?;
        install(&base, folder, &[&format!("moto[server]=={VERSION}")], &[])
    })?;
    let found = read(Command::new(&python).args(["-c", PROBE]))?;
    ensure!(found.trim() == VERSION, "{} has moto {found}, expected {VERSION}", python.display());
    Ok(python)
}

/// A running server; it ends when dropped, and with this process however that ends.
#[derive(Debug)]
pub(crate) struct MotoServer {
    child: Child,
    /// It runs until this is closed.
    _stdin: Option<ChildStdin>,
    /// Its address, `http://127.0.0.1:PORT`.
    pub(crate) address: String,
}

impl MotoServer {
    /// Starts it on a free port; waits until it answers.
    pub(crate) fn start(root: &Path, python: &Path) -> Result<Self> {
        let log = root.join(".peers/moto.log");
        let mut command = Command::new(python);
        command.args(["-c", SERVER, BUCKET]).stdin(Stdio::piped()).stdout(Stdio::piped());
        command.stderr(File::create(&log).with_context(|| format!("could not create {}", log.display()))?);
        let mut child = command.spawn().with_context(|| format!("could not start {}", python.display()))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut server = MotoServer { child, _stdin: stdin, address: String::new() };
        let (sender, receiver) = mpsc::channel();
        if let Some(stdout) = stdout {
            std::thread::spawn(move || {
                let mut line = String::new();
                // An error and an end look alike: no address came.
                let _ = BufReader::new(stdout).read_line(&mut line);
                let _ = sender.send(line);
            });
        }
        server.address = receiver.recv_timeout(START_TIMEOUT).unwrap_or_default().trim().to_owned();
        if !server.address.starts_with("http://") {
            let said = fs::read_to_string(&log).unwrap_or_default();
            let last: Vec<_> = said.lines().rev().take(10).collect();
            let last: Vec<_> = last.into_iter().rev().collect();
            bail!("moto did not start within {} s:\n{}", START_TIMEOUT.as_secs(), last.join("\n"));
        }
        Ok(server)
    }
}

impl Drop for MotoServer {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
