//! `titan-ckpt prune`: the steps of a run that are wanted stay, the others and what dead saves left go.

use crate::error::{Outcome, Result};
use crate::place;
use crate::ui::{self, Meter};
use dcp::prune::{Action, Condition, Deed, Plan, Policy, StepReport, plan};
use dcp::storage::{Key, Place};
use serde_json::json;
use std::io::Write;
use std::num::{NonZeroU64, NonZeroUsize};
use std::str::FromStr;
use std::time::{Duration, SystemTime};

/// Remove the steps of a run that are not to be kept, and what dead saves left
///
/// Only complete steps count for --keep-latest: the newest that can be loaded always stays, whatever became of later
/// saves. In the steps that stay goes what can no longer be committed. What no writer of checkpoints makes stays, and is
/// told. It can be run while a job saves to the same run.
#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Folder of the run, with the folders `step-NUMBER`
    run: String,
    /// Keep so many of the newest complete steps; without it all stay, and only garbage goes
    #[arg(long, value_name = "K", value_parser = positive::<NonZeroUsize>)]
    keep_latest: Option<NonZeroUsize>,
    /// Keep every step that is a multiple of this, too
    #[arg(long, value_name = "N", requires = "keep_latest", value_parser = positive::<NonZeroU64>)]
    keep_every: Option<NonZeroU64>,
    /// Leave alone what may be of a save in progress until it is so old: `36h`, `7days`. `0s` says that nobody is saving
    #[arg(long, value_name = "AGE", default_value = "24h", value_parser = age)]
    older_than: Duration,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn positive<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "a whole number above 0 is expected".to_owned())
}

fn age(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|_| "an age is a number and a unit: 90min, 36h, 7days".to_owned())
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let place = place::open(&args.run)?;
    let Args { keep_latest, keep_every, older_than, .. } = *args;
    let plan = plan(&place, Policy { keep_latest, keep_every, older_than, now: SystemTime::now() })?;
    let run_notes = plan.notes().to_vec();
    let (mut reports, seconds) = match args.dry_run {
        true => (plan.into_steps(), None),
        false => remove(plan),
    };
    let printed = match args.json {
        true => print_json(&place, &reports, &run_notes, seconds),
        false => print(&place, &reports, &run_notes, args.dry_run),
    };
    ui::shown(printed)?;
    let mut errors = reports.iter_mut().filter_map(|report| report.error.take());
    let Some(first) = errors.next() else { return Ok(Outcome::Ok) };
    errors.for_each(|error| ui::note(format_args!("error: {}", error.with_causes())));
    Err(first.into())
}

fn remove(plan: Plan) -> (Vec<StepReport>, Option<f64>) {
    let meter = Meter::start("removing", plan.freed_bytes());
    let reports = plan.run(&meter);
    (reports, Some(meter.finish()))
}

fn print(run: &Place, reports: &[StepReport], run_notes: &[String], dry_run: bool) -> Result<()> {
    let mut out = ui::results();
    let mut rows = vec![["STEP", "STATE", "", "REMOVED", "BYTES"].map(str::to_owned).to_vec()];
    rows.extend(reports.iter().map(row));
    for line in ui::table(&rows, &[3, 4]) {
        writeln!(out, "{line}")?;
    }
    for report in reports {
        for note in &report.notes {
            writeln!(out, "note: {}: {}", name(report), ui::printable(note))?;
        }
    }
    for note in run_notes {
        writeln!(out, "note: {}", ui::printable(note))?;
    }
    let (objects, byte_len) = total(reports);
    let verb = if dry_run { "would remove" } else { "removed" };
    writeln!(
        out,
        "{verb} {}, {}, from {}",
        ui::count(objects, "object"),
        ui::bytes(byte_len),
        run.display()
    )?;
    Ok(out.flush()?)
}

fn row(report: &StepReport) -> Vec<String> {
    let fate = match (&report.condition, report.is_kept) {
        (Some(Condition::Unsaved) | None, _) => "",
        (_, true) => "stays",
        (_, false) => "goes",
    };
    let (objects, byte_len) = match (report.removed().count(), report.freed_bytes()) {
        (0, _) => (String::new(), String::new()),
        (objects, byte_len) => (objects.to_string(), ui::bytes(byte_len)),
    };
    vec![name(report), state(report).to_owned(), fate.to_owned(), objects, byte_len]
}

fn name(report: &StepReport) -> String {
    format!("step-{}", report.step)
}

fn state(report: &StepReport) -> &'static str {
    match &report.condition {
        Some(Condition::Complete { .. }) => "complete",
        Some(Condition::Damaged(_)) => "damaged",
        Some(Condition::Saved) => "saved",
        Some(Condition::Unsaved) => "no checkpoint",
        None => "unknown",
    }
}

fn total(reports: &[StepReport]) -> (usize, u64) {
    let objects = reports.iter().map(|report| report.removed().count()).sum();
    (objects, reports.iter().map(StepReport::freed_bytes).fold(0, u64::saturating_add))
}

fn print_json(run: &Place, reports: &[StepReport], run_notes: &[String], seconds: Option<f64>) -> Result<()> {
    let display = |key: &Key| run.store.display(key);
    let action = |action: &Action| {
        let verb = match &action.deed {
            Deed::Fence(_) => "abandon",
            Deed::Remove => "remove",
            Deed::Discard(_) => "discard",
        };
        json!({ "action": verb, "object": display(&action.key), "bytes": action.byte_len, "reason": action.reason })
    };
    let step = |report: &StepReport| {
        json!({
            "step": report.step, "folder": report.folder, "state": state(report), "kept": report.is_kept,
            "removed_objects": report.removed().count(), "freed_bytes": report.freed_bytes(),
            "actions": report.actions.iter().map(action).collect::<Vec<_>>(), "notes": report.notes,
            "error": report.error.as_ref().map(dcp::Error::with_causes),
        })
    };
    let (objects, byte_len) = total(reports);
    Ok(ui::print_json(&json!({
        "run": run.display(), "dry_run": seconds.is_none(), "removed_objects": objects, "freed_bytes": byte_len,
        "steps": reports.iter().map(step).collect::<Vec<_>>(), "notes": run_notes, "seconds": seconds,
    }))?)
}
