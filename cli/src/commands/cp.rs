//! `titan-ckpt cp`: objects as they are, between any two stores.

use crate::args::{byte_size, threads};
use crate::error::{Outcome, Result};
use crate::place;
use crate::ui::{self, Meter};
use dcp::copy::CopyOptions;
use dcp::storage::Place;
use dcp::transfer::{Transfer, TransferOptions, TransferReport, plan};
use serde_json::json;
use std::io::Write;

/// Copy a checkpoint, a run of many, or a single file between any two stores
///
/// Objects are copied as they are, several at once. DST is the name of the copy; one that ends in `/` is the folder to
/// put it in. Nothing is overwritten: an object that is there with the same contents is skipped, any other is an error.
/// An interrupted copy is no checkpoint, and the same command goes on where it stopped.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// What to copy: a folder or a single file
    src: String,
    /// Name of the copy
    dst: String,
    /// Read every object back from the destination and compare it
    #[arg(long)]
    verify: bool,
    /// Memory of all buffers together; uploads under way come on top
    #[arg(long, value_name = "SIZE", default_value = "256MB", value_parser = byte_size)]
    memory: u64,
    /// Threads that read and write; by default one per core, 16 at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Compare names and lengths, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let source = place::open(&args.src)?;
    let mut destination = place::open(&args.dst)?;
    if args.dst.ends_with('/') {
        destination.key = destination.key.join(source.key.name())?;
    }
    let copy = CopyOptions { memory_bytes_max: args.memory, threads: threads(args.threads) };
    let transfer = plan(&source, &destination, TransferOptions { copy, verify: args.verify })?;
    let (objects, byte_len, present) = (transfer.objects(), transfer.byte_len(), transfer.present());
    let done = if args.dry_run { None } else { Some(copy_all(transfer)?) };
    if args.json {
        return print_json(&destination, objects, byte_len, present, done).map(|()| Outcome::Ok);
    }
    let mut out = ui::results();
    match done {
        None => {
            let (count, bytes) = (ui::count(objects - present.0, "object"), ui::bytes(byte_len - present.1));
            writeln!(out, "would copy {count}, {bytes}")?;
            if present.0 > 0 {
                let (there, bytes) = (ui::count(present.0, "object"), ui::bytes(present.1));
                writeln!(out, "{there} of that name and length, {bytes}, would be compared and skipped")?;
            }
        }
        Some((report, seconds)) => print(&mut out, &report, seconds)?,
    }
    out.flush()?;
    Ok(Outcome::Ok)
}

fn copy_all(transfer: Transfer) -> Result<(TransferReport, f64)> {
    let meter = Meter::start("copying", transfer.byte_len());
    let report = transfer.run(&meter)?;
    Ok((report, meter.finish()))
}

fn print(out: &mut impl Write, report: &TransferReport, seconds: f64) -> Result<()> {
    let count = |objects: u64| ui::count(usize::try_from(objects).unwrap_or(usize::MAX), "object");
    let rate = report.copied_bytes as f64 / seconds.max(1e-9) / 1e9;
    let bytes = ui::bytes(report.copied_bytes);
    writeln!(out, "copied {}, {bytes} in {seconds:.2} s, {rate:.2} GB/s", count(report.copied_objects))?;
    if report.present_objects > 0 {
        let bytes = ui::bytes(report.present_bytes);
        writeln!(out, "{} were there already and the same, {bytes}", count(report.present_objects))?;
    }
    if report.resumed_bytes > 0 {
        writeln!(out, "{} had been sent before", ui::bytes(report.resumed_bytes))?;
    }
    if report.verified_bytes > 0 {
        writeln!(out, "{} read back and the same", ui::bytes(report.verified_bytes))?;
    }
    Ok(())
}

fn print_json(
    destination: &Place,
    objects: usize,
    byte_len: u64,
    present: (usize, u64),
    done: Option<(TransferReport, f64)>,
) -> Result<()> {
    let (report, seconds) = match done {
        Some((report, seconds)) => (report, Some(seconds)),
        None => {
            let (present_objects, present_bytes) = (present.0 as u64, present.1);
            (TransferReport { present_objects, present_bytes, ..TransferReport::default() }, None)
        }
    };
    Ok(ui::print_json(&json!({
        "destination": destination.display(), "dry_run": seconds.is_none(),
        "objects": objects, "bytes": byte_len,
        "copied_objects": report.copied_objects, "copied_bytes": report.copied_bytes,
        "kernel_bytes": report.kernel_bytes, "present_objects": report.present_objects,
        "present_bytes": report.present_bytes, "resumed_bytes": report.resumed_bytes,
        "verified_bytes": report.verified_bytes, "seconds": seconds,
    }))?)
}
