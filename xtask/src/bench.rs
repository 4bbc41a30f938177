//! `cargo xtask bench`: ours beside the peers and the raw limit, in one run.
//!
//! A speed means nothing alone and little on another day: the sides of a comparison are run in turns (A B C A B C ...)
//! on the same files, and what counts is the ratio of their medians. The machine is named with the figures.

mod comparisons;
mod families;
pub(crate) mod machine;
pub(crate) mod section;
mod sides;
mod training;

use anyhow::{Result, bail};
use clap::Args;
use comparisons::{COMPARISONS, Comparison};
use families::FAMILIES;
use sides::Bench;
use std::path::Path;
use training::{RACES, Race, Track};

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Comparisons whose name contains one of these; all when none is named
    names: Vec<String>,
    /// Size of the checkpoint, in GiB
    #[arg(long, default_value_t = 2.0)]
    gib: f64,
    /// Runs of each side
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// Drop the page cache before every run (needs root)
    #[arg(long)]
    cold: bool,
    /// Put the result into BENCHMARKS.md
    #[arg(long)]
    write: bool,
    /// Name of the section there; `warm cache` or `cold cache` when none is given
    #[arg(long)]
    section: Option<String>,
}

/// `cargo xtask bench`.
pub(crate) fn run(root: &Path, args: &BenchArgs) -> Result<()> {
    let all = || COMPARISONS.iter().chain(FAMILIES);
    let is_chosen =
        |name: &str| args.names.is_empty() || args.names.iter().any(|part| name.contains(part.as_str()));
    let chosen: Vec<&Comparison> = all().filter(|comparison| is_chosen(comparison.name)).collect();
    let races: Vec<&Race> = RACES.iter().filter(|race| is_chosen(race.name)).collect();
    if chosen.is_empty() && races.is_empty() {
        let known: Vec<_> =
            all().map(|comparison| comparison.name).chain(RACES.iter().map(|race| race.name)).collect();
        bail!("no comparison is named so; known: {}", known.join("; "));
    }
    if let (true, Some(section), false, false) =
        (args.write, &args.section, chosen.is_empty(), races.is_empty())
    {
        bail!(
            "the training's races and other comparisons have sections of their own, not one {section:?}; name one kind"
        );
    }
    if !races.is_empty() {
        train(root, args, &races)?;
    }
    if chosen.is_empty() {
        return Ok(());
    }
    let bench = Bench::new(root, args.gib, args.cold, &chosen)?;
    println!("{}", machine::describe(root)?);
    let mut results = Vec::new();
    for comparison in chosen {
        println!("==> {}", comparison.name);
        results.push((comparison, bench.compare(comparison, args.repetitions)?));
    }
    let cache = if args.cold { "cold" } else { "warm" };
    let text = section::render(&machine::describe(root)?, args.gib, args.repetitions, cache, &results);
    println!("\n{text}");
    if args.write {
        let name = args.section.clone().unwrap_or_else(|| format!("{cache} cache"));
        section::write(root, &name, &text)?;
    }
    Ok(())
}

/// The races of the trainer, a section of their own.
fn train(root: &Path, args: &BenchArgs, races: &[&'static Race]) -> Result<()> {
    let track = Track::new(root)?;
    let machine = machine::describe(root)?;
    println!("{machine}");
    let mut results = Vec::new();
    for race in races {
        println!("==> {}", race.name);
        results.push((*race, track.race(race, args.repetitions)?));
    }
    let text = training::render(&machine, args.repetitions, &results);
    println!("\n{text}");
    match args.write {
        true => section::write(root, args.section.as_deref().unwrap_or("training"), &text),
        false => Ok(()),
    }
}
