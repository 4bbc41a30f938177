//! `titan-ckpt plan`: a run predicted before it is paid for.

use crate::error::{CliError, Outcome, Result};
use crate::{place, ui};
use job::config::Config;
use job::estimate::{Assumptions, Device};
use job::forecast::{Beside, Forecast, Question};
use job::step::schedule_text;
use std::ffi::OsString;
use std::io::Write;

/// Predict a training run: mesh, time, memory, traffic and what saves cost
///
/// Takes the trainer's own flags and files. The programs of a step are those that the trainer runs; docs/plan.md says how they
/// are timed, and how far that is off. Exits with 1 where a step does not fit the device's memory.
#[derive(clap::Args, Debug)]
#[command(
    override_usage = "titan-ckpt plan --job.config_file FILE [--section.key VALUE]... --world N [OPTIONS]"
)]
pub(crate) struct Args {
    /// The run: --job.config_file FILE or preset:NAME, and --section.key VALUE, as the trainer takes them
    #[arg(value_name = "--SECTION.KEY VALUE")]
    flags: Vec<String>,
    /// Ranks of the run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    world: u32,
    /// What each rank is: h100, h200, a100, b200, cpu
    #[arg(long, value_name = "NAME", default_value = "h100", value_parser = device)]
    device: &'static Device,
    /// Something that the trainer refuses, taken for granted: float8, compile, async-tp. May be repeated
    #[arg(long, value_name = "WHAT", value_delimiter = ',', value_parser = Assumptions::NAMES)]
    assume: Vec<String>,
    /// What a node writes to where checkpoints go, per second
    #[arg(long, value_name = "SIZE", default_value = "2GB", value_parser = crate::args::byte_size)]
    write_bandwidth: u64,
    /// Write a step of each rank of a pipeline as a Chrome trace, for Perfetto
    #[arg(long, value_name = "FILE")]
    trace: Option<String>,
    /// Beside a step that was measured: a folder that the trainer's profiling wrote, `.../iteration_N`; with --trace both
    /// are in one file
    #[arg(long, value_name = "FOLDER")]
    measured: Option<String>,
    /// Print one JSON document
    #[arg(long)]
    json: bool,
}

fn device(name: &str) -> std::result::Result<&'static Device, String> {
    Device::find(name)
}

/// The words of a command line with those of the configuration, which have dots in their names, behind a `--`: what clap
/// does not know.
pub(crate) fn in_order(words: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut words: Vec<OsString> = words.collect();
    if words.get(1).is_none_or(|command| command != "plan") || words.iter().any(|word| word == "--") {
        return words;
    }
    let (mut is_key, mut keys) = (false, Vec::new());
    words.retain(|word| {
        let text = word.to_string_lossy();
        if text.starts_with('-') {
            // A value may have dots, and a number may begin with a dash.
            let name = text.split('=').next().unwrap_or(&text);
            is_key = name.contains('.') || is_key && text.parse::<f64>().is_ok();
        }
        if is_key {
            keys.push(word.clone());
        }
        !is_key
    });
    words.push("--".into());
    words.extend(keys);
    words
}

pub(crate) fn run(args: &Args) -> Result<Outcome> {
    let parsed = Config::from_args(args.flags.iter().cloned(), |path| std::fs::read_to_string(path))?;
    parsed.notes.iter().for_each(|note| ui::note(format_args!("{note}")));
    let config = &parsed.config;
    let csv = schedule_text(config, |path| std::fs::read_to_string(path))?;
    let mut assumptions = Assumptions::default();
    for name in &args.assume {
        assumptions.assume(name);
    }
    let forecast = Forecast::new(&Question {
        config,
        csv: csv.as_deref(),
        world: args.world,
        device: args.device,
        assumptions,
        write_bandwidth: args.write_bandwidth.max(1) as f64,
    })?;
    let beside = args.measured.as_deref().map(|folder| beside(&forecast, folder)).transpose()?;
    if let Some(url) = &args.trace {
        let place = place::open(url)?;
        let trace = beside.as_ref().map_or_else(|| forecast.trace(), Beside::trace);
        place.store.put(&place.key, trace.as_bytes())?;
        ui::note(format_args!("trace written to {url}"));
    }
    let printed = match args.json {
        true => {
            let mut document = forecast.json();
            if let Some(beside) = &beside {
                document["measured"] = beside.json();
            }
            ui::print_json(&document).map_err(CliError::from)
        }
        false => print(&(forecast.text() + &beside.map(|beside| beside.text()).unwrap_or_default())),
    };
    ui::shown(printed)?;
    Ok(if forecast.fits() == Some(false) { Outcome::Found } else { Outcome::Ok })
}

/// A trace of a few steps has some megabytes.
const TRACE_BYTES_MAX: u64 = 1 << 30;

/// The traces of the ranks of which a step is predicted.
fn beside(forecast: &Forecast, folder: &str) -> Result<Beside> {
    let folder = place::open(folder)?;
    let read = |rank: u32| -> Result<String> {
        let key = folder.key.join(&format!("rank{rank}_trace.json"))?;
        let bytes = folder.store.get(&key, TRACE_BYTES_MAX)?;
        let why = "it is no UTF-8".to_owned();
        Ok(String::from_utf8(bytes).map_err(|_| job::Error::BadTrace { rank, why })?)
    };
    Ok(forecast.beside(&forecast.ranks().map(read).collect::<Result<Vec<_>>>()?)?)
}

fn print(report: &str) -> Result<()> {
    let mut out = ui::results();
    write!(out, "{report}")?;
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_configuration_come_last() {
        for (line, expected) in [
            ("t ls --a.b c", "t ls --a.b c"),
            ("t plan --a.b c --world 8", "t plan --world 8 -- --a.b c"),
            ("t plan --world=8 --a.b=c.d --json --e.no-f", "t plan --world=8 --json -- --a.b=c.d --e.no-f"),
            ("t plan --a.b -1 --device h100 --c.d -h", "t plan --device h100 -h -- --a.b -1 --c.d"),
            ("t plan --write-bandwidth 1.5GB --a.b c", "t plan --write-bandwidth 1.5GB -- --a.b c"),
            ("t plan --world 8 -- --a.b c", "t plan --world 8 -- --a.b c"),
        ] {
            let words = line.split_whitespace().map(OsString::from);
            let found: Vec<_> =
                in_order(words).iter().map(|word| word.to_string_lossy().into_owned()).collect();
            assert_eq!(found.join(" "), expected);
        }
    }
}
