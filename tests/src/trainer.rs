//! The binaries `titan-train` and `titan-ckpt`, built when a test first asks for them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// Loss and gradient norm by step.
pub type Figures = BTreeMap<u64, (f64, f64)>;

/// A command that runs the trainer on the CPU in a folder, with one thread per rank and without the launchers that the
/// tests' own environment may name.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary("titan-train"));
    command.current_dir(folder).stdin(Stdio::null());
    command.env("OMP_NUM_THREADS", "1").env("TITAN_TORCH_CUDA", "off");
    for variable in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "SLURM_STEP_ID", "PMI_RANK"] {
        command.env_remove(variable);
    }
    command
}

/// A command of `titan-ckpt`.
pub fn titan_ckpt() -> Command {
    Command::new(binary("titan-ckpt"))
}

/// Where cargo puts a package's binary of the same name. Cargo builds it only where something has changed; with this
/// package beside it, so that crates have the same features and what the tests were built from serves again.
fn binary(name: &'static str) -> PathBuf {
    static BUILT: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    let mut built = BUILT.lock().unwrap_or_else(PoisonError::into_inner);
    if built.insert(name) {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "-p", env!("CARGO_PKG_NAME"), "-p", name, "--bin", name]);
        let output = cargo.current_dir(crate::workspace()).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} is not built: {}\n{said}", output.status);
    }
    let test = std::env::current_exe().expect("this program has a path");
    test.ancestors().nth(2).expect("target/PROFILE/deps/TEST").join(name)
}

/// Reads lines that have `step:  6  loss:  7.70003  grad_norm:  0.8315` in them: ours and TorchTitan's.
pub fn figures(said: &str) -> Figures {
    let of_line = |line: &str| {
        let (_, rest) = line.split_once("step:")?;
        let (step, rest) = rest.split_once("loss:")?;
        let (loss, rest) = rest.split_once("grad_norm:")?;
        let norm = rest.split_whitespace().next()?.parse().ok()?;
        Some((step.trim().parse().ok()?, (loss.trim().parse().ok()?, norm)))
    };
    said.lines().filter_map(of_line).collect()
}
