//! Runs that are killed at any moment and started again with the same command.

use crate::run::{Job, children, kill, tensors, until};
use std::collections::BTreeMap;
use std::time::Duration;

/// Kills of all ranks, over all runs.
const KILLS: u32 = 20;
const RUNS: u32 = 4;
const STEPS: u64 = 12;

/// A generator that gives the same numbers every time (Steele et al. 2014, SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

fn bits(figures: &BTreeMap<u64, (f64, f64)>) -> Vec<(u64, u64, u64)> {
    figures.iter().map(|(step, (loss, norm))| (*step, loss.to_bits(), norm.to_bits())).collect()
}

/// Where in its life a run was killed.
fn moment(job: &Job) -> String {
    let last = job.figures().keys().next_back().copied().unwrap_or(0);
    format!("after step {last} was logged")
}

#[test]
fn twenty_kills_change_no_bit() {
    const FLAGS: [&str; 2] = ["--nproc", "2"];
    let whole = Job::new();
    whole.run_well(&FLAGS);
    let (expected, end) = (whole.figures(), tensors(&whole.path("checkpoint/step-12")));
    assert_eq!(expected.len() as u64, STEPS);
    let mut chance = Chance(2026);
    let mut killed = 0;
    for run in 0..RUNS {
        let job = Job::new();
        for _ in 0..KILLS / RUNS {
            let launcher = job.command(&FLAGS).spawn().unwrap();
            let before = job.figures().len();
            // Some while it starts, some in the steps after it.
            let steps = chance.below(4) as usize;
            if steps > 0 {
                let is_there = || job.figures().len() >= (before + steps).min(STEPS as usize);
                until("steps to kill", is_there);
            }
            std::thread::sleep(Duration::from_millis(chance.below(150)));
            let ranks = children(launcher.id());
            kill(launcher.id());
            // They end with their launcher; nothing may be under way when the next begins.
            crate::run::Ended::of(launcher);
            until("ranks end with their launcher", || {
                ranks.iter().all(|rank| !std::path::Path::new(&format!("/proc/{rank}/exe")).exists())
            });
            killed += 1;
            println!("run {run}: killed {}", moment(&job));
        }
        job.run_well(&FLAGS);
        assert_eq!(bits(&job.figures()), bits(&expected), "run {run}: losses or norms");
        let found = tensors(&job.path("checkpoint/step-12"));
        for (fqn, bytes) in &end {
            assert!(found[fqn] == *bytes, "run {run}: {fqn}");
        }
    }
    println!("{killed} kills, no bit changed");
}
