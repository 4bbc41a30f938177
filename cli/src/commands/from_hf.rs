//! `titan-ckpt from-hf`: a Hugging Face checkpoint for training.

use super::convert::copy;
use crate::args::{Copying, Cut, Destination, ModelChoice, dialect, format_named};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use crate::ui;
use convert::dequantised::dequantised;
use convert::dialect::{DIALECTS, Dialect};
use convert::exchange::{check_tied, inward};
use convert::export::made_of;
use dcp::format::{self, Reader};
use dcp::storage::Place;
use std::sync::Arc;

/// What Meta's repositories of the original Llama 3 have, one for each rank of tensor parallelism.
const META_FILES: [&str; 2] = ["consolidated.00.pth", "consolidated.01.pth"];

/// Import a Hugging Face checkpoint for training
///
/// Names, rotary layout, experts and heads become those of TorchTitan. The model is the one that config.json in SRC
/// describes. Every name must be of the model, and every name of the model must be there.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::args::models_help())]
pub(crate) struct Args {
    /// Folder with config.json and weights, or a file of weights; of Meta's, params.json and consolidated.00.pth
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
    let (source, packed) = dequantised(open(&place)?)?;
    if packed > 0 {
        ui::note(format_args!("unpacking {} to bfloat16", ui::count(packed, "quantised tensor")));
    }
    let (view, report) = inward(&model, source.clone(), args.dialect)?;
    ui::note(format_args!("{}, names of {}", model.name(), report.dialect));
    super::note_names(&report);
    super::note_left_out(&report.left_out);
    if let Some(first) = report.zeros.first() {
        let count = ui::count(report.zeros.len(), "tensor");
        ui::note(format_args!("zeros: {count} that the source does not have, the first: {first}"));
    }
    check_tied(&*source, &model, &report)?;
    let mut options = args.copying.options()?;
    args.cut.apply_where_cut(&mut options, &model, view.catalog().tensors.keys())?;
    options.keep_dtype = model.keep_dtype(view.catalog().tensors.keys());
    options.made_of = made_of(&model, report.dialect);
    copy(&view, &destination, options, &args.copying)
}

/// The weights in a folder, or the single file of Meta's.
fn open(place: &Place) -> Result<Arc<dyn Reader>> {
    let [first, second] = META_FILES
        .map(|name| Ok::<_, dcp::Error>(Place { store: place.store.clone(), key: place.key.join(name)? }));
    let (first, second) = (first?, second?);
    if !is_there(&first)? {
        return Ok(format::open(place)?);
    }
    if is_there(&second)? {
        return Err(CliError::Usage {
            message: format!("{}: its weights are cut among ranks, which is not read", place.display()),
            hint: Some("take the repository in transformers' format, with config.json".to_owned()),
        });
    }
    Ok(format::open(&first)?)
}

fn is_there(place: &Place) -> Result<bool> {
    Ok(place.store.head(&place.key)?.is_some())
}
