//! `titan-ckpt diff`: how two checkpoints differ.

use crate::args::{Filter, threads};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use crate::ui::{self, Meter};
use crate::value_text;
use dcp::diff::{DiffOptions, DiffReport, Difference};
use dcp::format;
use serde_json::json;
use std::io::Write;

/// Compare two checkpoints of any formats and shardings: names, shapes, types, every element
///
/// Without tolerances bits are compared. With them numbers may differ by atol + rtol * |b|, and NaN equals NaN.
/// Exits with 1 when they differ.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// A checkpoint
    a: String,
    /// Another
    b: String,
    /// Relative tolerance
    #[arg(long, default_value_t = 0.0)]
    rtol: f64,
    /// Absolute tolerance
    #[arg(long, default_value_t = 0.0)]
    atol: f64,
    #[command(flatten)]
    filter: Filter,
    /// Threads that read; by default one per core, 16 at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    if [args.rtol, args.atol].iter().any(|tolerance| !tolerance.is_finite() || *tolerance < 0.0) {
        return Err(CliError::usage("--rtol and --atol are finite numbers, 0 or above"));
    }
    let filter = args.filter.compile()?;
    let options = DiffOptions { filter, rtol: args.rtol, atol: args.atol, threads: threads(args.threads) };
    let (a, b) = (format::open(&place::open(&args.a)?)?, format::open(&place::open(&args.b)?)?);
    let (of_a, of_b) = (a.catalog(), b.catalog());
    let common = of_a.tensors.iter().filter(|(fqn, tensor)| {
        let same_shape = of_b.tensors.get(*fqn).is_some_and(|other| other.spec.shape == tensor.spec.shape);
        same_shape && options.filter.matches(fqn.as_str())
    });
    let total_bytes = common.filter_map(|(_, tensor)| tensor.spec.bytes()).fold(0, u64::saturating_add);
    let meter = Meter::start("comparing", total_bytes);
    let report = dcp::diff::diff(&*a, &*b, &options, &meter)?;
    meter.finish();
    let printed = if args.json { print_json(&report) } else { print(&report) };
    ui::shown(printed)?;
    Ok(if report.differences.is_empty() { Outcome::Ok } else { Outcome::Found })
}

fn line(difference: &Difference) -> String {
    let fqn = difference.fqn();
    ui::printable(&match difference {
        Difference::OnlyInA(_) => format!("- {fqn}: only in the first"),
        Difference::OnlyInB(_) => format!("+ {fqn}: only in the second"),
        Difference::Kind(_) => format!("! {fqn}: a tensor in one, a value in the other"),
        Difference::Shape(_, a, b) => format!("! {fqn}: shape {a:?} and {b:?}"),
        Difference::DType(_, a, b) => format!("! {fqn}: type {a} and {b}"),
        Difference::Elements { count, total, first, max_abs, .. } => {
            let largest = max_abs.map(|max| format!(", by {max:e} at most")).unwrap_or_default();
            format!("! {fqn}: {count} of {total} elements differ, first at {first:?}{largest}")
        }
        Difference::Value(_, values) => {
            let (a, b) = (value_text::short(&values.0, 60), value_text::short(&values.1, 60));
            format!("! {fqn}: value {a} and {b}")
        }
    })
}

fn print(report: &DiffReport) -> Result<()> {
    let mut out = ui::results();
    for difference in &report.differences {
        writeln!(out, "{}", line(difference))?;
    }
    let verdict = match report.differences.len() {
        0 => "equal".to_owned(),
        number => ui::count(number, "difference"),
    };
    let (tensors, values) = (ui::count(report.tensors, "tensor"), ui::count(report.values, "value"));
    writeln!(out, "{verdict}: {tensors} and {values} compared, {}", ui::bytes(report.bytes))?;
    Ok(out.flush()?)
}

fn print_json(report: &DiffReport) -> Result<()> {
    let differences: Vec<_> = report.differences.iter().map(difference_json).collect();
    Ok(ui::print_json(&json!({
        "equal": differences.is_empty(), "tensors": report.tensors, "values": report.values,
        "bytes": report.bytes, "differences": differences,
    }))?)
}

fn difference_json(difference: &Difference) -> serde_json::Value {
    let name = difference.fqn().as_str();
    match difference {
        Difference::OnlyInA(_) => json!({ "name": name, "kind": "only_in_a" }),
        Difference::OnlyInB(_) => json!({ "name": name, "kind": "only_in_b" }),
        Difference::Kind(_) => json!({ "name": name, "kind": "tensor_or_value" }),
        Difference::Shape(_, a, b) => json!({ "name": name, "kind": "shape", "a": a, "b": b }),
        Difference::DType(_, a, b) => json!({ "name": name, "kind": "dtype", "a": a.name(), "b": b.name() }),
        Difference::Elements { count, total, first, max_abs, .. } => json!({
            "name": name, "kind": "elements", "count": count, "total": total, "first": first, "max_abs": max_abs,
        }),
        Difference::Value(_, values) => {
            let (a, b) = (value_text::to_json(&values.0), value_text::to_json(&values.1));
            json!({ "name": name, "kind": "value", "a": a, "b": b })
        }
    }
}
