//! `titan-ckpt to-hf`: a training checkpoint for Hugging Face.

use super::convert::copy;
use crate::args::{Copying, Destination, ModelChoice, format_named};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use crate::ui;
use convert::exchange::{Made, check_tied, made_of, others_of, outward};
use convert::joined::Joined;
use convert::spec::Model;
use dcp::convert::Sharding;
use dcp::format::{self, Reader};
use dcp::model::{DType, Fqn};
use dcp::storage::Place;
use serde_json::json;
use std::io::Write;
use std::sync::Arc;

/// Largest file that is copied beside the weights.
const ASSET_BYTES_MAX: u64 = 256 << 20;
/// Files beside the weights that are copied as they are, by name and by how the name begins.
const ASSETS: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "special_tokens_map.json",
    "vocab.json",
];
const ASSET_PREFIX: &str = "tokenizer";

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
    options.sharding = Sharding::Whole;
    options.write.stem = Some(model.stem.to_owned());
    options.keep_dtype = model.keep_dtype(view.catalog().tensors.keys());
    let dtype =
        options.dtype.or_else(|| view.catalog().tensors.values().next().map(|tensor| tensor.spec.dtype));
    let mut beside = vec![("config.json".to_owned(), config(&model.config, dtype)?)];
    if let Some(assets) = &assets {
        beside.extend(tokenizer_files(assets)?);
    }
    options.beside = beside;
    options.made_of = super::made_of(&model, report.dialect);
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

/// The config with the type of what is written; what it said of quantisation is no longer so.
fn config(config: &convert::spec::Config, dtype: Option<DType>) -> Result<Vec<u8>> {
    let mut config = config.clone();
    config.remove("quantization_config");
    if let Some(dtype) = dtype {
        let name = if config.contains_key("dtype") { "dtype" } else { "torch_dtype" };
        config.insert(name.to_owned(), json!(dtype.name()));
    }
    let mut bytes = serde_json::to_vec_pretty(&config).map_err(std::io::Error::from)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn tokenizer_files(assets: &Place) -> Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    for object in assets.store.list(&assets.key)? {
        let Some(name) = object.key.below(&assets.key) else { continue };
        if ASSETS.contains(&name) || (name.starts_with(ASSET_PREFIX) && !name.contains('/')) {
            found.push((name.to_owned(), assets.store.get(&object.key, ASSET_BYTES_MAX)?));
        }
    }
    Ok(found)
}
