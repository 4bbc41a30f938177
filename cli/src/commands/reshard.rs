//! `titan-ckpt reshard`: the same tensors cut for other parallel degrees.

use super::convert::copy;
use crate::args::{Copying, Cut, Destination, format_named, holds_whole_tensors};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use dcp::format;

/// The format that is written where neither --to nor the source names one that can be cut.
const DEFAULT_FORMAT: &str = "titan";

/// Cut a checkpoint for other parallel degrees
///
/// The degrees are those of TorchTitan's `parallelism` section; each is 1 where it is left out. What the source does
/// not record is assumed and printed.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::args::models_help())]
pub(crate) struct Args {
    /// The checkpoint
    src: String,
    /// Folder to write
    dst: String,
    /// Format to write: by default the source's, or titan's own where that holds whole tensors
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    #[command(flatten)]
    cut: Cut,
    /// The model, FAMILY:FLAVOR as in TorchTitan, which says what tensor parallelism cuts
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    #[command(flatten)]
    copying: Copying,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let model = args.model.as_deref().map(convert::families::by_name).transpose()?;
    let asked = args.to.as_deref().map(format_named).transpose()?;
    let reader = format::open(&place::open(&args.src)?)?;
    let format = match asked {
        Some(format) => format,
        None => {
            let of_source = format_named(reader.catalog().format)?;
            if holds_whole_tensors(of_source) { format_named(DEFAULT_FORMAT)? } else { of_source }
        }
    };
    let destination = Destination::new(&args.dst, Some(format))?;
    if destination.file_name.is_some() || format.name() == "pt" {
        return Err(CliError::Usage {
            message: "a resharded checkpoint is a folder with files of every rank, not a single file"
                .to_owned(),
            hint: Some("to write whole tensors to one file use `titan-ckpt convert`".to_owned()),
        });
    }
    let mut options = args.copying.options()?;
    options.write.sharded = destination.holds_whole_tensors();
    args.cut.apply(&mut options, model.as_ref(), reader.catalog().tensors.keys())?;
    copy(&*reader, &destination, options, &args.copying)
}
