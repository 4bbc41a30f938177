//! Project automation: `cargo xtask COMMAND`. Every check that is run anywhere is a command here.

mod bench;
mod demo;
mod fixtures;
mod fuzz;
mod libtorch;
mod made;
mod memory;
mod models;
mod moto;
mod nccl;
mod parity;
mod peers;
mod process;
mod sim;
mod test;
mod tidy;

use anyhow::Result;
use clap::{Parser, Subcommand};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Project automation")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Time ours against the peers and the raw limit, in turns; --write puts the result into BENCHMARKS.md
    Bench(bench::BenchArgs),
    /// Make a checkpoint from a fixture, then look into it, check, reshard, convert and compare it, with timings
    Demo(demo::DemoArgs),
    /// Everything that must hold: format, lints, licences, tidy, tests, fixtures, and PyTorch reading what we write
    Test(test::TestArgs),
    /// Run the commit protocol in a simulated store against every order of events, or replay one seed
    Sim(sim::SimArgs),
    /// House rules that rustc and clippy do not know
    Tidy,
    /// Check the checkpoints under fixtures/ against their lock file, or make them again
    Fixtures(fixtures::FixturesArgs),
    /// Fuzz the parsers
    Fuzz(fuzz::FuzzArgs),
    /// Measure the most memory that the commands take on large checkpoints; --write puts it into BENCHMARKS.md
    Memory(memory::MemoryArgs),
    /// Fetch libtorch for the trainer into .libtorch, once
    Libtorch(libtorch::LibtorchArgs),
    /// Build the part of process groups that needs NCCL, for machines with GPUs
    Nccl,
    /// Compare the trainer's losses with TorchTitan's on every mesh, into docs/parity.md
    Parity,
    /// Make the Python environments with the real PyTorch versions that tests compare against
    Peers(peers::PeersArgs),
}

fn main() -> ExitCode {
    match run(&root(), &Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(root: &Path, command: &Command) -> Result<()> {
    match command {
        Command::Bench(args) => bench::run(root, args),
        Command::Demo(args) => demo::run(root, args),
        Command::Test(args) => test::run(root, args),
        Command::Sim(args) => sim::run(root, args),
        Command::Tidy => tidy::run(root),
        Command::Fixtures(args) => fixtures::run(root, args),
        Command::Fuzz(args) => fuzz::run(root, args),
        Command::Memory(args) => memory::run(root, args),
        Command::Libtorch(args) => libtorch::run(root, args),
        Command::Nccl => nccl::run(root),
        Command::Parity => parity::run(root),
        Command::Peers(args) => peers::run(root, args),
    }
}

/// The folder of the workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the workspace").to_owned()
}
