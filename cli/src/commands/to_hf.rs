//! `titan-ckpt to-hf`: a training checkpoint for Hugging Face.

use super::convert::copy;
use crate::args::{Copying, Destination, ModelChoice, format_named};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use crate::ui;
use convert::exchange::{Made, check_tied, made_of, others_of, outward};
use convert::export::for_hugging_face;
use convert::joined::Joined;
use convert::spec::Model;
use dcp::format::{self, Reader};
use dcp::model::Fqn;
use dcp::storage::Place;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

/// Export a training checkpoint for Hugging Face
///
/// Names, rotary layout, experts and heads become those of transformers; the optimizer is left out. Writes safetensors with
/// an index, and config.json. Every name must be of the model, and every name of the model must be there.
#[derive(clap::Args, Debug)]
#[command(after_help = crate::args::models_help())]
pub(crate) struct Args {
    /// The checkpoint, of any format and sharding
    #[arg(required_unless_present = "plan")]
    src: Option<String>,
    /// Folder to write
    #[arg(required_unless_present = "plan")]
    dst: Option<String>,
    /// List every tensor of the export with what it is made of, from the model alone
    #[arg(long)]
    plan: bool,
    #[command(flatten)]
    model: ModelChoice,
    /// Folder with config.json, and with tokenizer files, which are copied
    #[arg(long, value_name = "DIR")]
    hf_assets: Option<String>,
    #[command(flatten)]
    copying: Copying,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let assets = args.hf_assets.as_deref().map(place::open).transpose()?;
    let mut model = args.model.model(assets.as_ref())?;
    let others = others(&mut model, assets.as_ref())?;
    let (Some(src), Some(dst), false) = (&args.src, &args.dst, args.plan) else {
        return print_plan(&model, args.copying.json).map(|()| Outcome::Ok);
    };
    let destination = Destination::new(dst, Some(format_named("safetensors")?))?;
    if destination.file_name.is_some() {
        return Err(CliError::usage("an export is a folder, with config.json beside the weights"));
    }
    let source: Arc<dyn Reader> = format::open(&place::open(src)?)?;
    let (view, report) = outward(&model, source.clone())?;
    ui::note(format_args!("{}, names of {}", model.name(), report.dialect));
    super::note_names(&report);
    super::note_left_out(&report.left_out);
    check_tied(&*source, &model, &report)?;
    let mut options = args.copying.options()?;
    for_hugging_face(&mut options, &model, &view, &report, assets.as_ref())?;
    let Some(Others { base, names }) = others else {
        return copy(&view, &destination, options, &args.copying);
    };
    // Of their own type, whatever the text's is.
    options.keep_dtype.extend(names.iter().cloned());
    let joined = Joined::new(view, base, names.into_iter())?;
    copy(&joined, &destination, options, &args.copying)
}

/// Tensors that are copied as they are.
struct Others {
    base: Arc<dyn Reader>,
    names: Vec<Fqn>,
}

/// The tensors of the larger model that this one is a part of, from the folder with its files; without them the model
/// becomes one by itself.
fn others(model: &mut Model, assets: Option<&Place>) -> Result<Option<Others>> {
    let Some(alone) = model.alone.clone() else { return Ok(None) };
    if let Some(place) = assets {
        match format::open(place) {
            Ok(base) => {
                let names = others_of(model, base.catalog())?;
                if !names.is_empty() {
                    let count = ui::count(names.len(), "tensor");
                    ui::note(format_args!("as they are from {}: {count}", place.display()));
                    return Ok(Some(Others { base, names }));
                }
            }
            Err(dcp::Error::UnknownFormat { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    *model = *alone;
    ui::note(format_args!(
        "the text alone: the rest of the model is not given; --hf-assets with its weights takes that in"
    ));
    Ok(None)
}

fn print_plan(model: &Model, json: bool) -> Result<()> {
    let made = made_of(model);
    if json {
        let tensor = |made: &Made| json!({ "name": made.name, "shape": made.shape, "sources": made.sources });
        let tensors: Vec<_> = made.iter().map(tensor).collect();
        return Ok(ui::print_json(&json!({ "model": model.name(), "tensors": tensors }))?);
    }
    let mut out = ui::results();
    for Made { name, shape, sources } in &made {
        writeln!(out, "{name} {shape:?} <- {}", sources.join(", "))?;
    }
    let elements: u64 = made.iter().map(|made| made.shape.iter().product::<u64>()).sum();
    writeln!(out, "{}: {}, {elements} elements", model.name(), ui::count(made.len(), "tensor"))?;
    Ok(out.flush()?)
}
