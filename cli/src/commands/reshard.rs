//! `titan-ckpt reshard`: the same tensors cut for other parallel degrees.

use super::convert::copy;
use crate::args::{Copying, Destination, format_named, holds_whole_tensors};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use dcp::convert::Sharding;
use dcp::format;
use dcp::plan::Degrees;

/// The format that is written where neither --to nor the source names one that can be cut.
const DEFAULT_FORMAT: &str = "titan";

/// Cut a checkpoint for other parallel degrees
///
/// The degrees are those of TorchTitan's `parallelism` section; each is 1 where it is left out. What the source does
/// not record is assumed and printed.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The checkpoint
    src: String,
    /// Folder to write
    dst: String,
    /// Format to write: by default the source's, or titan's own where that holds whole tensors
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// FSDP shards
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    dp_shard: u32,
    /// Tensor parallelism
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    tp: u32,
    /// Pipeline stages
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    pp: u32,
    /// Copies of the sharded model (HSDP)
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    dp_replicate: u32,
    /// Context parallelism
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    cp: u32,
    /// Expert parallelism
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = degree())]
    ep: u32,
    #[command(flatten)]
    copying: Copying,
}

fn degree() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=1 << 24)
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    if args.ep > 1 {
        return Err(CliError::Usage {
            message: format!(
                "--ep {} needs a table of the model that says which tensors are experts, and none is known here",
                args.ep
            ),
            hint: Some(
                "leave --ep out; the trainer cuts experts anew when it loads the checkpoint".to_owned(),
            ),
        });
    }
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
    options.sharding = Sharding::Degrees(Degrees {
        pp: args.pp,
        dp_replicate: args.dp_replicate,
        dp_shard: args.dp_shard,
        cp: args.cp,
        tp: args.tp,
    });
    copy(&*reader, &destination, options, &args.copying, &[])
}
