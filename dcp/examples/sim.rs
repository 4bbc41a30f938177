//! The commit protocol in a simulated store; `cargo xtask sim` calls it.
//!
//! `cargo run -p dcp --features testing --example sim -- RANKS seeds COUNT`
//! `cargo run -p dcp --features testing --example sim -- RANKS seed SEED`
//!
//! Prints seeds, events, faults and outcomes by kind, and violations; for a violation the seed, the invariant, the last
//! events and the command that replays it. With `seed`, every event.

#![expect(clippy::disallowed_macros, reason = "an example prints")]

use dcp::commit::sim::{Fault, Outcome, Settings, Tally, Violation, run, run_all};
use std::collections::VecDeque;
use std::error::Error;
use std::time::Instant;

/// Events shown before a violation.
const LAST_EVENTS: usize = 40;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [ranks, what, number] = args[..] else {
        return Err("usage: sim RANKS seeds COUNT, sim RANKS seed SEED".into());
    };
    let settings = Settings { ranks_max: ranks.parse()?, ..Settings::default() };
    let number: u64 = number.parse()?;
    let start = Instant::now();
    let (tally, violation) = match what {
        "seed" => match run(number, settings, &mut |event, what| println!("{event:6}  {what}")) {
            Ok(tally) => (tally, None),
            Err(violation) => (Tally::default(), Some(violation)),
        },
        _ => run_all(number, settings),
    };
    show(&tally, start.elapsed().as_secs_f64());
    let Some(violation) = violation else {
        println!("violations 0");
        return Ok(());
    };
    show_violation(&violation, settings, what == "seed");
    Err("the protocol does not hold".into())
}

fn show(tally: &Tally, seconds: f64) {
    println!("seeds      {}, {} events, {seconds:.1} s", tally.seeds, tally.events);
    let kinds = |kinds: Vec<String>| kinds.join(", ");
    println!(
        "faults     {}",
        kinds(Fault::ALL.iter().zip(tally.faults).map(|(kind, n)| format!("{kind:?} {n}")).collect())
    );
    println!(
        "outcomes   {}",
        kinds(Outcome::ALL.iter().zip(tally.outcomes).map(|(kind, n)| format!("{kind:?} {n}")).collect())
    );
}

fn show_violation(violation: &Violation, settings: Settings, shown: bool) {
    let Violation { seed, invariant, found, event } = violation;
    if !shown {
        let mut last = VecDeque::new();
        // The same seed gives the same events, so that only now need they be kept.
        let replayed = run(*seed, settings, &mut |event, what| {
            last.push_back(format!("{event:6}  {what}"));
            if last.len() > LAST_EVENTS {
                last.pop_front();
            }
        });
        if replayed.is_err() {
            last.iter().for_each(|line| println!("{line}"));
        }
    }
    println!("violations 1: seed {seed}, event {event}: {invariant:?}: {found}");
    println!("replay     cargo xtask sim --seed {seed} --ranks {}", settings.ranks_max);
}
