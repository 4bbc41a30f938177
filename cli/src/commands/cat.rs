//! `titan-ckpt cat`: the elements of a slice of a tensor, or a value.

use crate::error::{CliError, Outcome, Result};
use crate::names::near;
use crate::place;
use crate::slice::{parse, select, split};
use crate::tensor_text::{Shown, elements, json_of};
use crate::{npy, ui, value_text};
use dcp::Error;
use dcp::copy::TensorReader;
use dcp::format::{self, Reader};
use dcp::layout::Region;
use dcp::model::Fqn;
use serde_json::json;
use std::io::Write;

/// From this many elements on only the edges are printed, as numpy does.
const SHOWN_ELEMENTS_MAX: u64 = 1000;
/// Elements printed at either end of a dim.
const EDGE_ELEMENTS: u64 = 3;
/// Most elements printed with --full or --json.
const PRINTED_ELEMENTS_MAX: u64 = 10_000_000;

/// Print a slice of a tensor, or a value
///
/// Only the bytes of the slice are read. Slices are Python's: `layers.0.wq.weight[0:4, :]`, `output.weight[-1]`.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The checkpoint
    url: String,
    /// Name of a tensor or value, with a slice in brackets: NAME[0:4,:]
    #[arg(value_name = "NAME")]
    name: String,
    /// Print every element
    #[arg(long)]
    full: bool,
    /// Write the slice to this file, in numpy's format; types that numpy lacks (bfloat16, float8) as their bits
    #[arg(long, value_name = "FILE")]
    npy: Option<String>,
    /// Print one JSON document with every element
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let target = args.npy.as_deref().map(place::open).transpose()?;
    let reader = format::open(&place::open(&args.url)?)?;
    let catalog = reader.catalog();
    // A name may itself end in brackets.
    let is_name = |text: &str| catalog.tensors.contains_key(text) || catalog.values.contains_key(text);
    let (name, slice) = match split(&args.name) {
        Some((name, slice)) if !is_name(&args.name) => (name, Some(slice)),
        _ => (args.name.as_str(), None),
    };
    let bad_slice = |message| CliError::Usage { message, hint: Some("such as NAME[0:4, :, -1]".to_owned()) };
    let indexes = slice.map(parse).transpose().map_err(bad_slice)?.unwrap_or_default();
    if let Some((fqn, _)) = catalog.values.get_key_value(name) {
        if slice.is_some() || target.is_some() {
            let message = format!("`{name}` is no tensor; slices and --npy are for tensors");
            return Err(CliError::usage(message));
        }
        print_value(&*reader, fqn, args.json)?;
        return Ok(Outcome::Ok);
    }
    if !catalog.tensors.contains_key(name) {
        return Err(no_such_name(&*reader, name));
    }
    let source = TensorReader::new(&*reader, name)?;
    let (region, kept) = select(&indexes, &source.spec().shape).map_err(bad_slice)?;
    if let Some(place) = target {
        let note = npy::write(&source, &region, &kept, &place)?;
        ui::note(format_args!("wrote {}", place.display()));
        if let Some(note) = note {
            ui::note(format_args!("note: {note}"));
        }
        return Ok(Outcome::Ok);
    }
    print_tensor(&source, &region, &kept, args)?;
    Ok(Outcome::Ok)
}

fn no_such_name(reader: &dyn Reader, name: &str) -> CliError {
    let near = near(reader.catalog(), name);
    let hint = match near.is_empty() {
        true => "`titan-ckpt ls` lists the names".to_owned(),
        false => format!("is it {}? `titan-ckpt ls` lists the names", near.join(" or ")),
    };
    let error = Box::new(Error::NoSuchName { fqn: name.to_owned(), hint: String::new() });
    CliError::Hinted { error, hint }
}

fn print_value(reader: &dyn Reader, fqn: &Fqn, json: bool) -> Result<()> {
    let value = reader.value(fqn)?;
    if json {
        return Ok(ui::print_json(&json!({
            "name": fqn.as_str(), "kind": "value", "value": value_text::to_json(&value),
        }))?);
    }
    let mut out = ui::results();
    writeln!(out, "{}", ui::printable(&value.py_repr()))?;
    Ok(out.flush()?)
}

fn print_tensor(source: &TensorReader<'_>, region: &Region, kept: &[bool], args: &Args) -> Result<()> {
    let all = args.full || args.json || region.elements() <= SHOWN_ELEMENTS_MAX;
    if all && region.elements() > PRINTED_ELEMENTS_MAX {
        return Err(CliError::Usage {
            message: format!("{} elements are too many to print", region.elements()),
            hint: Some("choose a smaller slice, or write a file with --npy".to_owned()),
        });
    }
    let ranges: Vec<Vec<(u64, u64)>> =
        region.start.iter().zip(&region.extent).map(|(start, extent)| shown(*start, *extent, all)).collect();
    let texts = read(source, &ranges)?;
    let (mut shape, mut gap) = (Vec::new(), Vec::new());
    for (ranges, _) in ranges.iter().zip(kept).filter(|(_, kept)| **kept) {
        shape.push(ranges.iter().map(|(_, extent)| *extent as usize).sum());
        gap.push((ranges.len() > 1).then(|| ranges[0].1 as usize));
    }
    let (dtype, kept_shape) = (source.spec().dtype, kept_shape(region, kept));
    if args.json {
        let texts: Vec<_> = texts.iter().map(|text| json_of(text)).collect();
        return Ok(ui::print_json(&json!({
            "name": source.fqn().as_str(), "kind": "tensor", "dtype": dtype.name(),
            "tensor_shape": source.spec().shape, "start": region.start, "extent": region.extent,
            "shape": kept_shape, "data": nested(&texts, &shape),
        }))?);
    }
    let mut out = ui::results();
    writeln!(out, "{}", Shown { shape, gap, texts }.render())?;
    writeln!(out, "{dtype} {kept_shape:?}")?;
    Ok(out.flush()?)
}

fn kept_shape(region: &Region, kept: &[bool]) -> Vec<u64> {
    region.extent.iter().zip(kept).filter(|(_, kept)| **kept).map(|(extent, _)| *extent).collect()
}

/// The ranges of a dim that are shown, start and length each: all of it, or both edges.
fn shown(start: u64, extent: u64, all: bool) -> Vec<(u64, u64)> {
    match all || extent <= 2 * EDGE_ELEMENTS {
        true => vec![(start, extent)],
        false => vec![(start, EDGE_ELEMENTS), (start + extent - EDGE_ELEMENTS, EDGE_ELEMENTS)],
    }
}

/// Reads the product of the ranges, row-major.
fn read(source: &TensorReader<'_>, ranges: &[Vec<(u64, u64)>]) -> Result<Vec<String>> {
    let dtype = source.spec().dtype;
    let packed = || CliError::Usage {
        message: format!("{dtype} packs several elements into a byte, and cannot be printed"),
        hint: Some("`titan-ckpt verify --deep` and `diff` read it".to_owned()),
    };
    if dtype.block_elements() != 1 {
        return Err(packed());
    }
    let mut texts = Vec::new();
    read_inside(source, ranges, &mut Vec::new(), &mut texts, &packed)?;
    Ok(texts)
}

/// Reads the ranges of the inner dims below ranges already chosen for the outer ones, in row-major order: one read
/// for as many of them as lie together.
fn read_inside(
    source: &TensorReader<'_>,
    ranges: &[Vec<(u64, u64)>],
    chosen: &mut Vec<(u64, u64)>,
    texts: &mut Vec<String>,
    packed: &dyn Fn() -> CliError,
) -> Result<()> {
    let Some((first, inner)) = ranges.split_first() else {
        let (start, extent): (Vec<u64>, Vec<u64>) = chosen.iter().copied().unzip();
        texts.extend(read_region(source, &Region::new(start, extent), packed)?);
        return Ok(());
    };
    let cut_inside = inner.iter().any(|ranges| ranges.len() > 1);
    for &(start, extent) in first {
        let steps = if cut_inside { extent } else { 1 };
        for step in 0..steps {
            chosen.push(if cut_inside { (start + step, 1) } else { (start, extent) });
            read_inside(source, inner, chosen, texts, packed)?;
            chosen.pop();
        }
    }
    Ok(())
}

fn read_region(
    source: &TensorReader<'_>,
    region: &Region,
    packed: impl Fn() -> CliError,
) -> Result<Vec<String>> {
    let dtype = source.spec().dtype;
    let byte_len = dtype.bytes(region.elements()).unwrap_or(0) as usize;
    let mut bytes = vec![0; byte_len];
    source.read(region, &mut bytes)?;
    elements(dtype, &bytes).ok_or_else(packed)
}

/// The elements as nested lists of this shape.
fn nested(elements: &[serde_json::Value], shape: &[usize]) -> serde_json::Value {
    match shape.split_first() {
        None => elements.first().cloned().unwrap_or_default(),
        Some((&length, inner)) => {
            let step: usize = inner.iter().product();
            (0..length).map(|index| nested(&elements[index * step..(index + 1) * step], inner)).collect()
        }
    }
}
