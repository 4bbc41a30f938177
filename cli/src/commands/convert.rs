//! `titan-ckpt convert`: the same tensors in another format.

use crate::args::{Copying, Destination, format_named};
use crate::error::{CliError, Outcome, Result};
use crate::place;
use crate::ui::{self, Meter};
use dcp::convert::{ConvertOptions, ConvertReport, Ended, Sharding, plan};
use dcp::format::{self, Reader};
use serde_json::json;
use std::io::Write;

/// Convert a checkpoint to another format, type or choice of tensors
///
/// Reads and writes in bounded memory, and never overwrites. A destination that ends in a format's extension
/// (`.safetensors`, `.pt`) is a single file.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// The checkpoint
    src: String,
    /// Folder or single file to write
    dst: String,
    /// Format to write; the destination's extension says it where this is left out
    #[arg(long, value_name = "FORMAT")]
    to: Option<String>,
    /// One file per writer, cut as the source is, in formats that otherwise hold whole tensors
    #[arg(long)]
    sharded: bool,
    #[command(flatten)]
    copying: Copying,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let format = args.to.as_deref().map(format_named).transpose()?;
    let destination = Destination::new(&args.dst, format)?;
    let mut options = args.copying.options()?;
    options.write.sharded = args.sharded;
    let whole = destination.holds_whole_tensors() && !args.sharded;
    options.sharding = if whole { Sharding::Whole } else { Sharding::Keep };
    let reader = format::open(&place::open(&args.src)?)?;
    copy(&*reader, &destination, options, &args.copying)
}

/// Plans, copies and reports; what all commands that write a checkpoint share.
pub(super) fn copy(
    reader: &dyn Reader,
    destination: &Destination,
    mut options: ConvertOptions,
    copying: &Copying,
) -> Result<Outcome> {
    options.write.file_name = destination.file_name.clone();
    let conversion = plan(reader, &destination.place, destination.format, &options)?;
    if conversion.report().tensors + conversion.report().values == 0 {
        return Err(CliError::Usage {
            message: "nothing is left to write".to_owned(),
            hint: Some("see the names with `titan-ckpt ls`, and check --include and --exclude".to_owned()),
        });
    }
    for assumption in &conversion.report().assumptions {
        ui::note(format_args!("assumed: {assumption}"));
    }
    let chosen = reader.catalog().tensors.iter().filter(|(fqn, _)| options.filter.matches(fqn.as_str()));
    let source_bytes = chosen.filter_map(|(_, tensor)| tensor.spec.bytes()).fold(0, u64::saturating_add);
    let (report, seconds) = if copying.dry_run {
        (conversion.report().clone(), None)
    } else {
        let planned = conversion.report();
        let meter = Meter::start(verb(planned), planned.share_bytes - planned.resumed_bytes);
        let report = conversion.run(&meter)?;
        (report, Some(meter.finish()))
    };
    if copying.json {
        print_json(&report, source_bytes, destination, seconds)?;
    } else {
        print(&report, source_bytes, destination, seconds)?;
    }
    Ok(Outcome::Ok)
}

/// What a task says it does.
fn verb(report: &ConvertReport) -> String {
    match report.task.count() {
        1 => "writing".to_owned(),
        count => format!("task {} of {count}: writing", report.task.index()),
    }
}

fn print(
    report: &ConvertReport,
    source_bytes: u64,
    destination: &Destination,
    seconds: Option<f64>,
) -> Result<()> {
    let mut out = ui::results();
    let (tensors, values) = (ui::count(report.tensors, "tensor"), ui::count(report.values, "value"));
    let objects = ui::count(report.objects, "object");
    let format = destination.format.name();
    if !report.left_out.is_empty() {
        let first: Vec<_> = report.left_out.iter().take(3).map(|name| ui::printable(name)).collect();
        let more = report.left_out.len() - first.len();
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        writeln!(out, "left out: {}{more}", first.join(", "))?;
    }
    let verb = match &report.ended {
        Ended::Planned => "would write",
        Ended::Committed => "wrote",
        Ended::Found => "finished by another task:",
        Ended::Idle | Ended::Incomplete { .. } => "not complete yet:",
    };
    writeln!(out, "{verb} {tensors} and {values} to {objects} ({format})")?;
    print_share(report, &mut out)?;
    let Some(seconds) = seconds else {
        writeln!(out, "{} of tensors", ui::bytes(report.tensor_bytes))?;
        return Ok(out.flush()?);
    };
    if report.ended == Ended::Idle {
        return Ok(out.flush()?);
    }
    let rate = report.stats.written_bytes as f64 / seconds.max(1e-9) / 1e9;
    write!(out, "{} in {seconds:.2} s, {rate:.2} GB/s", ui::bytes(report.stats.written_bytes))?;
    writeln!(out, ", read {}{}", ui::bytes(report.stats.read_bytes), amplification(report, source_bytes))?;
    Ok(out.flush()?)
}

/// What the task had to do with it, where there are several or some was there.
fn print_share(report: &ConvertReport, out: &mut impl Write) -> Result<()> {
    if report.task.count() > 1 {
        let (index, count, share) =
            (report.task.index(), report.task.count(), ui::count(report.share_objects, "object"));
        match report.share_objects {
            0 => writeln!(out, "task {index} of {count}: nothing to do, there are fewer objects than tasks")?,
            _ => writeln!(out, "task {index} of {count}: {share}, {}", ui::bytes(report.share_bytes))?,
        }
    }
    if report.resumed_objects > 0 {
        let (objects, bytes) = (ui::count(report.resumed_objects, "object"), ui::bytes(report.resumed_bytes));
        writeln!(out, "resumed: {objects}, {bytes}, there already")?;
    }
    if let Ended::Incomplete { missing, first } = &report.ended {
        let missing = ui::count(*missing, "object");
        writeln!(
            out,
            "{missing} of other tasks not there yet, the first: {first}; the last task to finish completes it. If one failed, \
             run the same command again"
        )?;
    }
    Ok(())
}

/// Bytes read per byte of the chosen tensors, where that says something.
fn amplification(report: &ConvertReport, source_bytes: u64) -> String {
    match source_bytes {
        0 => String::new(),
        source_bytes => {
            format!(" (read amplification {:.2})", report.stats.read_bytes as f64 / source_bytes as f64)
        }
    }
}

fn print_json(
    report: &ConvertReport,
    source_bytes: u64,
    destination: &Destination,
    seconds: Option<f64>,
) -> Result<()> {
    Ok(ui::print_json(&json!({
        "destination": destination.place.display(), "file_name": destination.file_name,
        "format": destination.format.name(), "dry_run": seconds.is_none(),
        "tensors": report.tensors, "values": report.values, "objects": report.objects,
        "tensor_bytes": report.tensor_bytes, "source_bytes": source_bytes, "read_bytes": report.stats.read_bytes,
        "written_bytes": report.stats.written_bytes, "kernel_bytes": report.stats.kernel_bytes,
        "task": report.task.index(), "tasks": report.task.count(), "share_objects": report.share_objects,
        "share_bytes": report.share_bytes, "resumed_objects": report.resumed_objects,
        "resumed_bytes": report.resumed_bytes, "ended": ended(&report.ended), "missing_objects": missing(&report.ended),
        "seconds": seconds, "left_out": report.left_out, "assumptions": report.assumptions,
    }))?)
}

/// The word for how a task ended.
fn ended(ended: &Ended) -> &'static str {
    match ended {
        Ended::Planned => "planned",
        Ended::Committed => "committed",
        Ended::Found => "found",
        Ended::Idle => "idle",
        Ended::Incomplete { .. } => "incomplete",
    }
}

fn missing(ended: &Ended) -> usize {
    match ended {
        Ended::Incomplete { missing, .. } => *missing,
        _ => 0,
    }
}
