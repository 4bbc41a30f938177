//! `titan-ckpt`: look into, check, compare, convert and reshard training checkpoints.

mod args;
mod commands;
mod error;
mod names;
mod npy;
mod page;
mod place;
mod slice;
mod task;
mod tensor_text;
mod ui;
mod value_text;

use clap::Parser;
use std::process::ExitCode;

/// Look into, check, compare, convert and reshard training checkpoints.
///
/// A checkpoint is named by a path or URL: a folder of PyTorch DCP, of safetensors or of titan's own format, or a single
/// file. Nothing is ever overwritten. Exit codes: 0 ok, 1 a difference or damage was found, 2 wrong usage, 3 bad data,
/// 4 input or output failed, 70 a bug.
#[derive(Parser)]
#[command(name = "titan-ckpt", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    std::panic::set_hook(Box::new(|panic| {
        ui::note(format_args!("{panic}\nthis is a bug in titan-ckpt; please report the lines above"));
        std::process::exit(error::EXIT_BUG);
    }));
    let cli = Cli::parse_from(commands::in_order(std::env::args_os()));
    raise_open_file_limit();
    match cli.command.run() {
        Ok(outcome) => outcome.into(),
        Err(error) => error.report(),
    }
}

/// Raises the soft limit on open files to the hard one: a checkpoint may have thousands of objects. Where the system
/// refuses, the old limit stays, and running into it is an error with its own message.
fn raise_open_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        let _ = setrlimit(Resource::Nofile, raised);
    }
}
