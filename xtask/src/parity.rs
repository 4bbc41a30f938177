//! `cargo xtask parity`: the trainer's losses beside TorchTitan's on every mesh, into `docs/parity.md`.

use crate::models;
use crate::process::{cargo, run as run_command};
use anyhow::Result;
use std::path::Path;

const TABLE: &str = "docs/parity.md";

pub(crate) fn run(root: &Path) -> Result<()> {
    let python = models::ensure_installed(root)?;
    let test = ["test", "--package", "e2e", "--test", "e2e", "training::parity", "--", "--nocapture"];
    run_command(
        cargo(&test)
            .env(models::VARIABLE, python)
            .env("TITAN_PARITY_TABLE", root.join(TABLE))
            .current_dir(root),
    )?;
    println!("written: {TABLE}");
    Ok(())
}
