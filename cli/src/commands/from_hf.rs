//! `titan-ckpt from-hf`: a Hugging Face checkpoint for training.

use super::convert::copy;
use crate::args::{Copying, Cut, Destination, ModelChoice, dialect, format_named};
use crate::error::{Outcome, Result};
use crate::place;
use crate::ui;
use convert::dequantised::dequantised;
use convert::dialect::{DIALECTS, Dialect};
use convert::exchange::{check_tied, inward};
use dcp::format::{self, Reader};

/// Import a Hugging Face checkpoint for training
///
/// Names, rotary layout, experts and heads become those of TorchTitan. The model is the one that config.json in SRC
/// describes. Every name must be of the model, and every name of the model must be there.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folder with config.json and weights, or a file of weights
    src: String,
    /// Folder or single file to write
    dst: String,
    /// Format to write
    #[arg(long, value_name = "FORMAT", default_value = "dcp")]
    to: String,
    /// Names to write: torchtitan-0.2, torchtitan-2026.08
    #[arg(long, value_name = "NAME", default_value = DIALECTS[0].name, value_parser = dialect)]
    dialect: &'static Dialect,
    #[command(flatten)]
    model: ModelChoice,
    #[command(flatten)]
    cut: Cut,
    #[command(flatten)]
    copying: Copying,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let destination = Destination::new(&args.dst, Some(format_named(&args.to)?))?;
    let place = place::open(&args.src)?;
    let model = args.model.model(Some(&place))?;
    let (source, packed) = dequantised(format::open(&place)?)?;
    if packed > 0 {
        ui::note(format_args!("unpacking {} to bfloat16", ui::count(packed, "quantised tensor")));
    }
    let (view, report) = inward(&model, source.clone(), args.dialect)?;
    ui::note(format_args!("{}, names of {}", model.name(), report.dialect));
    super::note_left_out(&report.left_out);
    if let Some(first) = report.zeros.first() {
        let count = ui::count(report.zeros.len(), "tensor");
        ui::note(format_args!("zeros: {count} that the source does not have, the first: {first}"));
    }
    check_tied(&*source, &model, &report)?;
    let mut options = args.copying.options()?;
    args.cut.apply_where_cut(&mut options, &model, view.catalog().tensors.keys())?;
    options.keep_dtype = model.keep_dtype(view.catalog().tensors.keys());
    copy(&view, &destination, options, &args.copying, &[])
}
