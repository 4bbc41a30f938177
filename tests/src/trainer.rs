//! The binary `titan-train`, built when a test first asks for it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Loss and gradient norm by step.
pub type Figures = BTreeMap<u64, (f64, f64)>;

/// A command that runs the trainer on the CPU in a folder, with one thread per rank and without the launchers that the
/// tests' own environment may name.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(folder).stdin(Stdio::null());
    command.env("OMP_NUM_THREADS", "1").env("TITAN_TORCH_CUDA", "off");
    for variable in ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "SLURM_STEP_ID", "PMI_RANK"] {
        command.env_remove(variable);
    }
    command
}

/// Where cargo puts it. Cargo builds it only where something has changed.
fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "-p", "titan-train", "--bin", "titan-train"]);
        let status = cargo.current_dir(crate::workspace()).status().expect("cargo runs");
        assert!(status.success(), "titan-train is not built: {status}");
        let test = std::env::current_exe().expect("this program has a path");
        let profile = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
        profile.join("titan-train")
    })
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
