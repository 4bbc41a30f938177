//! Support of the end-to-end tests: the real PyTorch as a peer, skips that are counted, checkpoints too large to store.
//!
//! `cargo xtask test` makes the Python environments and names their interpreters in `TITAN_PYTHON_2_11` and the like.
//! A test that needs one asks for it and returns early without it:
//!
//! ```no_run
//! let Some(peer) = e2e::peer("2.11") else { return };
//! let said = peer.run_script("tests/peers/load.py".as_ref(), ["checkpoint"]).unwrap();
//! assert_eq!(said.trim(), "equal");
//! ```

pub mod interrupted;
pub mod kills;
pub mod large;
pub mod s3_server;
pub mod startup;
pub mod synthetic;
pub mod trainer;

use std::ffi::OsStr;
use std::io::Write;
use std::panic::Location;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// An interpreter with a real PyTorch.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Major and minor version of PyTorch, such as `2.11`.
    pub version: String,
    /// The interpreter.
    pub python: PathBuf,
}

/// Finds the interpreter with PyTorch `version` (`2.4`, `2.11`, `2.15`).
///
/// Without one the caller's test is counted as skipped: `None` means that it must return.
#[track_caller]
pub fn peer(version: &str) -> Option<Peer> {
    named_by(&format!("TITAN_PYTHON_{}", version.replace('.', "_")), version)
}

/// Finds the interpreter with TorchTitan and transformers, over PyTorch 2.11; else as [`peer`].
#[track_caller]
pub fn models() -> Option<Peer> {
    named_by("TITAN_PYTHON_MODELS", "2.11")
}

#[track_caller]
fn named_by(variable: &str, version: &str) -> Option<Peer> {
    match std::env::var_os(variable).filter(|python| !python.is_empty()) {
        Some(python) => Some(Peer { version: version.to_owned(), python: PathBuf::from(python) }),
        None => {
            skip(&format!("{variable} is not set; `cargo xtask test` sets it"));
            None
        }
    }
}

/// Counts the caller's test as skipped.
///
/// The line goes to stderr past libtest's capture, which shows nothing of a test that ends well.
#[track_caller]
pub fn skip(reason: &str) {
    let location = Location::caller();
    let file = Path::new(location.file()).file_stem().unwrap_or_default().to_string_lossy();
    // libtest names a test's thread after the test, except when it runs tests one at a time in the main thread.
    let name = match std::thread::current().name() {
        Some(name) if name != "main" => format!("{file}::{name}"),
        _ => format!("{file}:{}", location.line()),
    };
    let line = format!("SKIP {name}: {reason}\n");
    std::io::stderr().write_all(line.as_bytes()).expect("stderr takes a line");
}

/// The folder of fixtures.
pub fn fixtures() -> PathBuf {
    workspace().join("fixtures")
}

/// The root of the workspace.
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is a folder of the workspace")
}

impl Peer {
    /// Runs a script (relative to the workspace) on CPU and gives what it prints.
    ///
    /// Errors: how it ended and everything it wrote, when it does not end with status 0.
    pub fn run_script<A: AsRef<OsStr>>(
        &self,
        script: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, String> {
        let script = workspace().join(script).into_os_string();
        let args = args.into_iter().map(|arg| arg.as_ref().to_owned());
        self.run(workspace(), std::iter::once(script).chain(args))
    }

    /// Runs the interpreter on CPU, in a folder, and gives what it prints.
    ///
    /// Errors: how it ended and everything it wrote, when it does not end with status 0.
    pub fn run<A: AsRef<OsStr>>(
        &self,
        folder: &Path,
        args: impl IntoIterator<Item = A>,
    ) -> Result<String, String> {
        let mut command = Command::new(&self.python);
        command.args(args).current_dir(folder).stdin(Stdio::null());
        // Gloo over the loopback device, one thread a process: as quiet and repeatable as PyTorch gets.
        command
            .env("GLOO_SOCKET_IFNAME", "lo")
            .env("OMP_NUM_THREADS", "1")
            .env("PYTHONDONTWRITEBYTECODE", "1");
        let output = command
            .output()
            .map_err(|error| format!("could not start {}: {error}", self.python.display()))?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        if output.status.success() {
            return Ok(stdout);
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        let args: Vec<_> = command.get_args().map(OsStr::to_string_lossy).collect();
        let (args, version) = (args.join(" "), &self.version);
        Err(format!("{args} under PyTorch {version}: {}\n{stdout}\n{stderr}", output.status))
    }
}
