//! The real transformers, diffusers and TorchTitan on a CPU, in the ignored folder `.peers/models`: they make the fixtures of
//! model families, and TorchTitan goes on from training states of ours.
//!
//! Environment variables: `TITAN_PEERS` and `TITAN_PYTHON`, as for the other peers.

use crate::peers::{self, BasePython, ensure_environment, install};
use crate::process::read;
use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Tells tests where the interpreter is.
pub(crate) const VARIABLE: &str = "TITAN_PYTHON_MODELS";
/// The PyTorch below them.
const TORCH: &str = "2.11";
/// With what they import.
const PACKAGES: &[&str] = &[
    "transformers==5.23.0",
    "diffusers==0.42.1",
    "importlib_metadata",
    "requests",
    "tensorboard",
    "tyro",
    "tokenizers",
    "einops",
    "pillow",
    "datasets",
    "tabulate",
];
/// Without what they would pull for GPUs. TorchTitan imports triton, which it needs on a GPU alone.
const ALONE: &[&str] = &["torchdata", "torchtitan==0.2.2", "triton==3.6.0"];
const PROBE: &str =
    "import diffusers, torchtitan, transformers; print(transformers.__version__, diffusers.__version__)";
const VERSIONS: &str = "5.23.0 0.42.1";
/// What fixtures say made them.
pub(crate) const PRODUCER: &str = "transformers 5.23.0, diffusers 0.42.1, torchtitan 0.2.2, torch 2.11.0";

/// Finds the environment, or makes it; gives its interpreter.
pub(crate) fn ensure_installed(root: &Path) -> Result<PathBuf> {
    let given = std::env::var_os("TITAN_PEERS").map(|folder| Path::new(&folder).join("models/bin/python"));
    if let Some(python) = given.filter(|python| python.exists()) {
        return check(python);
    }
    let peer = peers::find(TORCH)?;
    let base = BasePython::find("transformers", (10, 13))?;
    let recipe = format!("{} {PACKAGES:?} {ALONE:?} {} {PROBE}", peer.torch, base.minor);
    let python = ensure_environment(root, "models", &recipe, |folder| {
        peers::make(peer, &base, folder)?;
        install(&base, folder, PACKAGES, &["--upgrade"])?;
        install(&base, folder, ALONE, &["--no-deps", "--upgrade"])
    })?;
    check(python)
}

fn check(python: PathBuf) -> Result<PathBuf> {
    let found = read(Command::new(&python).args(["-c", PROBE]))
        .with_context(|| format!("{} does not work", python.display()))?;
    let found = found.lines().last().unwrap_or_default().trim();
    ensure!(found == VERSIONS, "{} has {found}, expected {VERSIONS}", python.display());
    Ok(python)
}
