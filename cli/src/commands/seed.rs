//! `titan-ckpt seed`: the initial state of a model.

use super::convert::copy;
use crate::args::{Copying, Cut, Destination, ModelChoice, dialect, format_named};
use crate::error::{Outcome, Result};
use crate::ui;
use convert::dialect::{DIALECTS, Dialect};
use convert::export::made_of;
use convert::seed::Seed;
use dcp::format::Reader;

/// Make a checkpoint of a model's initial state
///
/// Every element depends on seed, name and position alone, so that it is the same however it is cut. TorchTitan starts from
/// it as from its own seed checkpoint: put it into the run's folder as `step-0`.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::args::models_help())]
pub(crate) struct Args {
    /// Folder or single file to write
    dst: String,
    #[command(flatten)]
    model: ModelChoice,
    /// The seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Format to write
    #[arg(long, value_name = "FORMAT", default_value = "dcp")]
    to: String,
    /// Names to write: torchtitan-0.2, torchtitan-2026.08
    #[arg(long, value_name = "NAME", default_value = DIALECTS[0].name, value_parser = dialect)]
    dialect: &'static Dialect,
    #[command(flatten)]
    cut: Cut,
    #[command(flatten)]
    copying: Copying,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let destination = Destination::new(&args.dst, Some(format_named(&args.to)?))?;
    let model = args.model.model(None)?;
    ui::note(format_args!("{}, {} elements, seed {}", model.name(), model.elements(), args.seed));
    let seed = Seed::new(&model, args.seed, |fqn| args.dialect.name_of(fqn));
    let mut options = args.copying.options()?;
    args.cut.apply_where_cut(&mut options, &model, seed.catalog().tensors.keys())?;
    options.keep_dtype = model.keep_dtype(seed.catalog().tensors.keys());
    options.made_of = format!("seed {}, {}", args.seed, made_of(&model, args.dialect.name));
    copy(&seed, &destination, options, &args.copying)
}
