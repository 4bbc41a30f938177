//! The commands. To add one: a file here, a line in each of the two tables.

mod cat;
mod convert;
mod cp;
mod diff;
mod inspect;
mod ls;
mod prune;
mod reshard;
mod verify;

use crate::error::{Outcome, Result};

/// Every command.
#[derive(clap::Subcommand)]
pub(crate) enum Command {
    Ls(ls::Args),
    Inspect(inspect::Args),
    Cat(cat::Args),
    Verify(verify::Args),
    Diff(diff::Args),
    Convert(convert::Args),
    Reshard(reshard::Args),
    Cp(cp::Args),
    Prune(prune::Args),
}

impl Command {
    /// Does what was asked.
    pub(crate) fn run(&self) -> Result<Outcome> {
        match self {
            Command::Ls(args) => ls::run(args),
            Command::Inspect(args) => inspect::run(args),
            Command::Cat(args) => cat::run(args),
            Command::Verify(args) => verify::run(args),
            Command::Diff(args) => diff::run(args),
            Command::Convert(args) => convert::run(args),
            Command::Reshard(args) => reshard::run(args),
            Command::Cp(args) => cp::run(args),
            Command::Prune(args) => prune::run(args),
        }
    }
}
