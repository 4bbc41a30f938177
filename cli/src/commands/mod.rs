//! The commands. To add one: a file here, a line in each of the two tables.

mod cat;
mod convert;
mod cp;
mod diff;
mod from_hf;
mod inspect;
mod ls;
mod plan;
mod prune;
mod reshard;
mod seed;
mod to_hf;
mod verify;

use crate::error::{Outcome, Result};
use crate::ui;
use ::convert::exchange::Report;
pub(crate) use plan::in_order;
use std::collections::BTreeMap;

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
    ToHf(to_hf::Args),
    FromHf(from_hf::Args),
    Seed(seed::Args),
    Plan(plan::Args),
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
            Command::ToHf(args) => to_hf::run(args),
            Command::FromHf(args) => from_hf::run(args),
            Command::Seed(args) => seed::run(args),
            Command::Plan(args) => plan::run(args),
            Command::Cp(args) => cp::run(args),
            Command::Prune(args) => prune::run(args),
        }
    }
}

/// Tells how the native side names its tensors, where not all are named alike.
fn note_names(report: &Report) {
    if let Some(spelling) = report.spelling {
        ui::note(format_args!("native tensors, names of {spelling}"));
    }
    if let Some(first) = report.respelled.first() {
        let count = ui::count(report.respelled.len(), "tensor");
        ui::note(format_args!("names of other versions: {count}, the first: {first}"));
    }
    if report.fused > 0 {
        let count = ui::count(report.fused, "tensor");
        ui::note(format_args!("taken apart: {count} of queries, keys and values together"));
    }
}

/// Tells what was left out, by reason.
fn note_left_out(left_out: &[(String, &'static str)]) {
    let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (name, why) in left_out {
        by_reason.entry(why).or_default().push(name);
    }
    for (why, names) in by_reason {
        let (count, first) = (ui::count(names.len(), "tensor"), ui::printable(names[0]));
        ui::note(format_args!("left out: {count} ({why}), the first: {first}"));
    }
}
