//! `cargo xtask sim`: `dcp::commit::sim` over many seeds, or one of them event by event.

use crate::process::{cargo, run as run_command};
use anyhow::Result;
use clap::Args;
use std::path::Path;

#[derive(Args)]
pub(crate) struct SimArgs {
    /// Seeds to run, from 0
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// Run this seed alone and print its events
    #[arg(long)]
    seed: Option<u64>,
    /// Most ranks of a job; part of what a seed means
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=64))]
    ranks: u32,
}

/// `cargo xtask sim`. The simulator is built as tests are, so that sums that overflow are found too.
pub(crate) fn run(root: &Path, args: &SimArgs) -> Result<()> {
    std::env::set_current_dir(root)?;
    let mut command =
        cargo(&["run", "--quiet", "-p", "dcp", "--features", "testing", "--example", "sim", "--"]);
    command.arg(args.ranks.to_string());
    match args.seed {
        Some(seed) => command.args(["seed", &seed.to_string()]),
        None => command.args(["seeds", &args.seeds.to_string()]),
    };
    run_command(&mut command)
}
