//! `titan-ckpt inspect`: what a checkpoint is, and who holds what.

use super::verify::{finding_json, line};
use crate::error::{Outcome, Result};
use crate::names::Component;
use crate::page;
use crate::place;
use crate::ui;
use crate::value_text;
use dcp::format::{self, Reader};
use dcp::model::{Catalog, DType};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

/// Values shown; the rest is counted.
const VALUES_SHOWN_MAX: usize = 40;
/// Characters of a value that are shown.
const VALUE_CHARS_MAX: usize = 80;

/// Show what a checkpoint is: format, step, mesh, sizes by component, types, values
///
/// With --html also writes a page that draws which rank wrote which part of each tensor. The page is one file that
/// loads nothing from the network.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The checkpoint
    url: String,
    /// Write the page to this file
    #[arg(long, value_name = "FILE")]
    html: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let page = args.html.as_deref().map(place::open).transpose()?;
    let reader = format::open(&place::open(&args.url)?)?;
    let summary = Summary::new(&*reader);
    if args.json {
        print_json(&summary)?
    } else {
        print(&summary)?
    }
    if let Some(page) = page {
        page.store.put(&page.key, page::render(&*reader)?.as_bytes())?;
        ui::note(format_args!("wrote {}", page.display()));
    }
    Ok(Outcome::Ok)
}

/// Tensors and bytes of one kind.
#[derive(Clone, Copy, Default)]
struct Tally {
    tensors: u64,
    bytes: u64,
}

struct Summary<'a> {
    checkpoint: String,
    catalog: &'a Catalog,
    chunks: u64,
    writers: usize,
    object_bytes: u64,
    by_component: BTreeMap<Component, Tally>,
    by_dtype: BTreeMap<DType, Tally>,
    /// Name, text and JSON of each value.
    values: Vec<(String, String, serde_json::Value)>,
}

impl<'a> Summary<'a> {
    fn new(reader: &'a dyn Reader) -> Self {
        let catalog = reader.catalog();
        let (mut by_component, mut by_dtype) = (BTreeMap::new(), BTreeMap::new());
        let mut chunks = 0u64;
        for (fqn, tensor) in &catalog.tensors {
            let bytes = tensor.spec.bytes().unwrap_or(0);
            add(by_component.entry(Component::of(fqn.as_str(), &tensor.path)).or_default(), bytes);
            add(by_dtype.entry(tensor.spec.dtype).or_default(), bytes);
            chunks = chunks.saturating_add(tensor.chunks.count());
        }
        let values = catalog.values.keys().map(|fqn| match reader.value(fqn) {
            Ok(value) => {
                (fqn.to_string(), value_text::short(&value, VALUE_CHARS_MAX), value_text::to_json(&value))
            }
            Err(error) => (fqn.to_string(), format!("unreadable: {error}"), serde_json::Value::Null),
        });
        let values = values.collect();
        let writers: BTreeSet<_> = catalog.objects.iter().filter_map(|object| object.writer).collect();
        Summary {
            checkpoint: reader.place().display(),
            catalog,
            chunks,
            writers: writers.len(),
            object_bytes: catalog.objects.iter().fold(0, |sum, object| sum.saturating_add(object.byte_len)),
            by_component,
            by_dtype,
            values,
        }
    }

    fn mesh(&self) -> Option<String> {
        let mesh = self.catalog.mesh.as_ref()?;
        let axes: Vec<_> = mesh.axes().iter().map(|axis| format!("{} {}", axis.name, axis.size)).collect();
        Some(format!("{} ({} ranks)", axes.join(" x "), mesh.ranks()))
    }
}

fn add(tally: &mut Tally, bytes: u64) {
    tally.tensors += 1;
    tally.bytes = tally.bytes.saturating_add(bytes);
}

fn print(summary: &Summary<'_>) -> Result<()> {
    let catalog = summary.catalog;
    let mut out = ui::results();
    writeln!(out, "{}", ui::printable(&summary.checkpoint))?;
    let row = |name: &str, text: String| vec![format!("  {name}"), ui::printable(&text)];
    let mut rows = vec![row("format", catalog.format.to_owned())];
    rows.extend(catalog.step.map(|step| row("step", step.to_string())));
    rows.extend(summary.mesh().map(|mesh| row("mesh", mesh)));
    let total = ui::bytes(catalog.tensor_bytes());
    rows.push(row("tensors", format!("{}, {total}, {} chunks", catalog.tensors.len(), summary.chunks)));
    let objects = format!("{}, {}", catalog.objects.len(), ui::bytes(summary.object_bytes));
    rows.push(row("objects", objects));
    if summary.writers > 0 {
        rows.push(row("writers", summary.writers.to_string()));
    }
    rows.push(row("values", summary.values.len().to_string()));
    rows.extend(catalog.attributes.iter().map(|(name, text)| row(&ui::printable(name), text.clone())));
    print_table(&mut out, &rows, &[])?;
    let tally = |name: &str, tally: &Tally| {
        vec![format!("  {name}"), ui::count(tally.tensors as usize, "tensor"), ui::bytes(tally.bytes)]
    };
    let rows: Vec<_> =
        summary.by_component.iter().map(|(component, sums)| tally(component.name(), sums)).collect();
    print_section(&mut out, "components", &rows, &[1, 2])?;
    let rows: Vec<_> = summary.by_dtype.iter().map(|(dtype, sums)| tally(dtype.name(), sums)).collect();
    print_section(&mut out, "types", &rows, &[1, 2])?;
    let shown = summary.values.iter().take(VALUES_SHOWN_MAX);
    let rows: Vec<_> = shown.map(|(name, text, _)| row(&ui::printable(name), text.clone())).collect();
    print_section(&mut out, "values", &rows, &[])?;
    if summary.values.len() > VALUES_SHOWN_MAX {
        writeln!(out, "  and {} more: titan-ckpt ls --long", summary.values.len() - VALUES_SHOWN_MAX)?;
    }
    let rows: Vec<_> = catalog.findings.iter().map(|finding| vec![format!("  {}", line(finding))]).collect();
    print_section(&mut out, "findings", &rows, &[])?;
    Ok(out.flush()?)
}

fn print_section(out: &mut impl Write, title: &str, rows: &[Vec<String>], right: &[usize]) -> Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out, "{title}")?;
    print_table(out, rows, right)
}

fn print_table(out: &mut impl Write, rows: &[Vec<String>], right: &[usize]) -> Result<()> {
    for line in ui::table(rows, right) {
        writeln!(out, "{line}")?;
    }
    Ok(())
}

fn print_json(summary: &Summary<'_>) -> Result<()> {
    let catalog = summary.catalog;
    let tally =
        |name: &str, sums: &Tally| json!({ "name": name, "tensors": sums.tensors, "bytes": sums.bytes });
    let components: Vec<_> = summary.by_component.iter().map(|(c, sums)| tally(c.name(), sums)).collect();
    let dtypes: Vec<_> = summary.by_dtype.iter().map(|(dtype, sums)| tally(dtype.name(), sums)).collect();
    let mesh = catalog.mesh.as_ref().map(|mesh| {
        let axes = mesh.axes().iter().map(|axis| json!({ "name": axis.name, "size": axis.size }));
        axes.collect::<Vec<_>>()
    });
    let values: Vec<_> =
        summary.values.iter().map(|(name, _, value)| json!({ "name": name, "value": value })).collect();
    let findings: Vec<_> = catalog.findings.iter().map(finding_json).collect();
    let attributes: serde_json::Map<_, _> =
        catalog.attributes.iter().map(|(name, text)| (name.clone(), json!(text))).collect();
    Ok(ui::print_json(&json!({
        "checkpoint": summary.checkpoint, "format": catalog.format, "step": catalog.step, "mesh": mesh,
        "tensors": catalog.tensors.len(), "tensor_bytes": catalog.tensor_bytes(), "chunks": summary.chunks,
        "objects": catalog.objects.len(), "object_bytes": summary.object_bytes, "writers": summary.writers,
        "components": components, "dtypes": dtypes, "values": values, "attributes": attributes,
        "findings": findings,
    }))?)
}
