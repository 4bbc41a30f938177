//! `titan-ckpt verify`: is a checkpoint complete and undamaged?

use crate::args::{Filter, threads};
use crate::error::{Outcome, Result};
use crate::place;
use crate::ui::{self, Meter};
use dcp::format;
use dcp::model::{Finding, Severity};
use dcp::verify::{VerifyOptions, VerifyReport};
use serde_json::json;
use std::io::Write;

/// Check that a checkpoint is complete; with --deep, that every byte is what was written
///
/// Objects are there with their lengths, and chunks tile every tensor. With --deep every element is read: recorded
/// checksums are compared, NaNs and infinities counted. Exits with 1 when something is damaged.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The checkpoint
    url: String,
    /// Read everything: compare checksums, count NaNs and infinities
    #[arg(long)]
    deep: bool,
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
    let options =
        VerifyOptions { deep: args.deep, filter: args.filter.compile()?, threads: threads(args.threads) };
    let reader = format::open(&place::open(&args.url)?)?;
    let chosen = reader.catalog().tensors.iter().filter(|(fqn, _)| options.filter.matches(fqn.as_str()));
    let total_bytes = chosen.filter_map(|(_, tensor)| tensor.spec.bytes()).fold(0, u64::saturating_add);
    let report = if args.deep {
        let meter = Meter::start("reading", total_bytes);
        let report = dcp::verify::verify(&*reader, &options, &meter)?;
        meter.finish();
        report
    } else {
        dcp::verify::verify(&*reader, &options, &())?
    };
    let printed = if args.json { print_json(&report, args.deep) } else { print(&report, args.deep) };
    ui::shown(printed)?;
    Ok(if report.is_sound() { Outcome::Ok } else { Outcome::Found })
}

/// A finding in one line.
pub(super) fn line(finding: &Finding) -> String {
    let severity = severity(finding);
    let object = finding.object.as_ref().map(|object| format!(" {object}:")).unwrap_or_default();
    let fqn = finding.fqn.as_ref().map(|fqn| format!(" {fqn}:"));
    // The message of an error about a tensor begins with its name.
    let fqn = fqn.filter(|fqn| !finding.message.starts_with(fqn.trim_start())).unwrap_or_default();
    ui::printable(&format!("{severity}:{object}{fqn} {}", finding.message))
}

/// A finding as JSON.
pub(super) fn finding_json(finding: &Finding) -> serde_json::Value {
    json!({
        "severity": severity(finding), "name": finding.fqn.as_ref().map(|fqn| fqn.as_str()),
        "object": finding.object.as_ref().map(|key| key.as_str()), "message": finding.message,
    })
}

fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Damage => "damage",
        Severity::Note => "note",
    }
}

fn print(report: &VerifyReport, deep: bool) -> Result<()> {
    let mut out = ui::results();
    for finding in &report.findings {
        writeln!(out, "{}", line(finding))?;
    }
    for (fqn, counts) in &report.non_finite {
        let fqn = ui::printable(fqn.as_str());
        writeln!(out, "note: {fqn}: {} NaN, {} infinite elements", counts.nan, counts.inf)?;
    }
    let verdict = if report.is_sound() { "sound" } else { "damaged" };
    write!(
        out,
        "{verdict}: {}, {}",
        ui::count(report.tensors, "tensor"),
        ui::count(report.objects, "object")
    )?;
    if deep {
        let (read, checked) = (ui::bytes(report.read_bytes), ui::bytes(report.checked_bytes));
        write!(out, ", {read} read, {checked} of them vouched for by checksums")?;
    }
    writeln!(out)?;
    Ok(out.flush()?)
}

fn print_json(report: &VerifyReport, deep: bool) -> Result<()> {
    let findings: Vec<_> = report.findings.iter().map(finding_json).collect();
    let non_finite: Vec<_> = report
        .non_finite
        .iter()
        .map(|(fqn, counts)| json!({ "name": fqn.as_str(), "nan": counts.nan, "inf": counts.inf }))
        .collect();
    Ok(ui::print_json(&json!({
        "sound": report.is_sound(), "deep": deep, "tensors": report.tensors, "objects": report.objects,
        "read_bytes": report.read_bytes, "checked_bytes": report.checked_bytes,
        "findings": findings, "non_finite": non_finite,
    }))?)
}
