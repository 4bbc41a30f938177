//! `titan-ckpt ls`: the checkpoints of a run, or the contents of one checkpoint.

use crate::args::Filter;
use crate::error::{CliError, Outcome, Result};
use crate::names::natural;
use crate::place;
use crate::ui;
use crate::value_text;
use dcp::Error;
use dcp::format::{self, Reader};
use dcp::model::{FqnFilter, Tensor};
use dcp::storage::Place;
use dcp::verify::{VerifyOptions, verify};
use serde_json::json;
use std::collections::BTreeSet;
use std::io::Write;

/// List the checkpoints of a run, or the tensors and values of a checkpoint
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folder of a run, or a checkpoint
    url: String,
    /// Type, shape, bytes, number of chunks and of writers of each tensor; values in short
    #[arg(long, short)]
    long: bool,
    #[command(flatten)]
    filter: Filter,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let place = place::open(&args.url)?;
    let filter = args.filter.compile()?;
    match format::open(&place) {
        Ok(reader) if args.json => contents_json(&*reader, &filter)?,
        Ok(reader) => contents(&*reader, &filter, args.long)?,
        Err(error @ Error::UnknownFormat { .. }) => {
            let steps = steps(&place)?;
            if !steps.iter().any(|step| step.format.is_some() || step.step.is_some()) {
                return Err(error.into());
            }
            if args.json { steps_json(&place, &steps)? } else { print_steps(&steps)? }
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Outcome::Ok)
}

/// A folder below a run's folder.
struct Step {
    name: String,
    step: Option<u64>,
    format: Option<&'static str>,
    tensors: usize,
    bytes: u64,
    /// Why it is not a complete checkpoint, where it is not.
    trouble: Option<String>,
}

/// The folders of a run that are checkpoints, or are named as one, by step.
fn steps(run: &Place) -> Result<Vec<Step>> {
    let mut steps = Vec::new();
    for key in run.store.list_prefixes(&run.key)? {
        let name = key.name().to_owned();
        let numbered = format::step_of(&name);
        let place = Place { store: run.store.clone(), key };
        let opened = format::open(&place);
        let unrelated = matches!(opened, Err(Error::UnknownFormat { .. } | Error::NothingThere { .. }));
        if !unrelated || numbered.is_some() {
            steps.push(describe(name, numbered, opened.as_deref())?);
        }
    }
    steps.sort_by(|a, b| a.step.cmp(&b.step).then_with(|| natural(&a.name, &b.name)));
    Ok(steps)
}

fn describe(name: String, numbered: Option<u64>, opened: Result<&dyn Reader, &Error>) -> Result<Step> {
    let reader = match opened {
        Ok(reader) => reader,
        Err(error) => {
            let trouble = match error {
                Error::UnknownFormat { .. } => "not finished, or of no known format".to_owned(),
                Error::NothingThere { .. } => "empty".to_owned(),
                Error::Abandoned { .. } => "given up, or removed".to_owned(),
                Error::Unfinished { .. } => "being made, or interrupted".to_owned(),
                other => other.to_string(),
            };
            return Ok(Step {
                name,
                step: numbered,
                format: None,
                tensors: 0,
                bytes: 0,
                trouble: Some(trouble),
            });
        }
    };
    let catalog = reader.catalog();
    let options = VerifyOptions { deep: false, filter: FqnFilter::default(), threads: 1 };
    let report = verify(reader, &options, &())?;
    let damage = report.findings.iter().filter(|f| f.severity == dcp::model::Severity::Damage).count();
    let trouble = (damage > 0).then(|| format!("damaged: {}", ui::count(damage, "finding")));
    Ok(Step {
        name,
        step: catalog.step.or(numbered),
        format: Some(catalog.format),
        tensors: catalog.tensors.len(),
        bytes: catalog.tensor_bytes(),
        trouble,
    })
}

fn print_steps(steps: &[Step]) -> Result<()> {
    let mut rows = vec![["NAME", "STEP", "FORMAT", "BYTES", "TENSORS", "STATE"].map(str::to_owned).to_vec()];
    rows.extend(steps.iter().map(|step| {
        vec![
            ui::printable(&step.name),
            step.step.map_or("-".to_owned(), |step| step.to_string()),
            step.format.unwrap_or("-").to_owned(),
            ui::bytes(step.bytes),
            step.tensors.to_string(),
            ui::printable(step.trouble.as_deref().unwrap_or("complete")),
        ]
    }));
    let mut out = ui::results();
    for line in ui::table(&rows, &[1, 3, 4]) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn steps_json(run: &Place, steps: &[Step]) -> Result<()> {
    let steps: Vec<_> = steps
        .iter()
        .map(|step| {
            json!({
                "name": step.name, "step": step.step, "format": step.format, "bytes": step.bytes,
                "tensors": step.tensors, "complete": step.trouble.is_none(), "trouble": step.trouble,
            })
        })
        .collect();
    Ok(ui::print_json(&json!({ "run": run.display(), "checkpoints": steps }))?)
}

fn contents(reader: &dyn Reader, filter: &FqnFilter, long: bool) -> Result<()> {
    let catalog = reader.catalog();
    let mut rows = Vec::new();
    for (fqn, tensor) in catalog.tensors.iter().filter(|(fqn, _)| filter.matches(fqn.as_str())) {
        let mut row = vec![ui::printable(fqn.as_str())];
        if long {
            row.extend([
                tensor.spec.dtype.to_string(),
                format!("{:?}", tensor.spec.shape),
                ui::bytes(tensor.spec.bytes().unwrap_or(0)),
                ui::count(tensor.chunks.count() as usize, "chunk"),
                ui::count(writers(reader, tensor)?.len(), "writer"),
            ]);
        }
        rows.push(row);
    }
    for fqn in catalog.values.keys().filter(|fqn| filter.matches(fqn.as_str())) {
        let mut row = vec![ui::printable(fqn.as_str())];
        if long {
            let value = match reader.value(fqn) {
                Ok(value) => value_text::short(&value, 60),
                Err(error) => format!("unreadable: {}", ui::printable(&error.to_string())),
            };
            row.extend(["value".to_owned(), value]);
        }
        rows.push(row);
    }
    rows.sort_by(|a, b| natural(&a[0], &b[0]));
    let mut out = ui::results();
    for line in ui::table(&rows, &[3, 4, 5]) {
        writeln!(out, "{line}")?;
    }
    Ok(out.flush()?)
}

fn contents_json(reader: &dyn Reader, filter: &FqnFilter) -> Result<()> {
    let catalog = reader.catalog();
    let mut tensors = Vec::new();
    for (fqn, tensor) in catalog.tensors.iter().filter(|(fqn, _)| filter.matches(fqn.as_str())) {
        tensors.push(json!({
            "name": fqn.as_str(), "dtype": tensor.spec.dtype.name(), "shape": tensor.spec.shape,
            "bytes": tensor.spec.bytes(), "chunks": tensor.chunks.count(), "writers": writers(reader, tensor)?,
        }));
    }
    let mut values = Vec::new();
    for fqn in catalog.values.keys().filter(|fqn| filter.matches(fqn.as_str())) {
        let value = reader.value(fqn).map_err(CliError::from)?;
        values.push(json!({ "name": fqn.as_str(), "value": value_text::to_json(&value) }));
    }
    let (checkpoint, format, step) = (reader.place().display(), catalog.format, catalog.step);
    let document = json!({
        "checkpoint": checkpoint, "format": format, "step": step, "tensors": tensors, "values": values,
    });
    Ok(ui::print_json(&document)?)
}

/// The writers of a tensor's chunks; an object whose writer is not known counts as a writer of its own.
fn writers(reader: &dyn Reader, tensor: &Tensor) -> Result<BTreeSet<u32>> {
    let objects = &reader.catalog().objects;
    let chunks = tensor.chunks.all(&tensor.spec.shape)?;
    Ok(chunks.iter().map(|chunk| objects[chunk.object as usize].writer.unwrap_or(chunk.object)).collect())
}
