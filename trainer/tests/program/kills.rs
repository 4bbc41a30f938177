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

/// Ranks, and flags of the mesh. A step has four sequences.
const MESHES: [(u32, &[&str]); 8] = [
    (2, &[]),
    (4, &["--parallelism.data_parallel_replicate_degree=2"]),
    (2, &["--parallelism.data_parallel_replicate_degree=2"]),
    (2, &["--parallelism.tensor_parallel_degree=2"]),
    (2, &["--parallelism.pipeline_parallel_degree=2", "--training.local_batch_size=4"]),
    (2, &["--parallelism.context_parallel_degree=2"]),
    (4, &["--parallelism.tensor_parallel_degree=2"]),
    (
        4,
        &[
            "--parallelism.tensor_parallel_degree=2",
            "--parallelism.pipeline_parallel_degree=2",
            "--parallelism.pipeline_parallel_schedule=ZBVZeroBubble",
            "--training.local_batch_size=2",
        ],
    ),
];

/// In the middle of steps that do not end: all ranks end in time, the one that was killed is named, and the run goes on on
/// the mesh after.
#[test]
fn one_rank_of_every_mesh_is_killed() {
    for (index, (ranks, mesh)) in MESHES.iter().enumerate() {
        let job = Job::new();
        let nproc = format!("--nproc={ranks}");
        let endless = ["--training.steps=1000", "--lr_scheduler.total_steps=1000"];
        let flags = [&[&*nproc][..], &endless, mesh].concat();
        let launcher = job.command(&flags).spawn().unwrap();
        until("steps to kill", || job.figures().len() >= 5);
        let processes = children(launcher.id());
        assert_eq!(processes.len() as u32, *ranks);
        let killed = index % processes.len();
        kill(processes[killed]);
        let ended = crate::run::Ended::of(launcher);
        assert_eq!(ended.code, Some(128 + 9), "{mesh:?}: {}", ended.text);
        let named = format!("rank {killed} was killed by SIGKILL (9)");
        let culprits = ended.errors().into_iter().filter(|line| line.contains(&named)).count();
        assert_eq!(culprits, 1, "{mesh:?}, rank {killed}: {}", ended.text);
        for process in processes {
            assert!(
                !std::path::Path::new(&format!("/proc/{process}/exe")).exists(),
                "{mesh:?}: a rank is left"
            );
        }
        let (ranks, mesh) = MESHES[(index + 1) % MESHES.len()];
        let nproc = format!("--nproc={ranks}");
        let last = job.figures().keys().next_back().copied().unwrap();
        let steps = format!("--training.steps={}", last + 2);
        let flags = [&[&*nproc, &*steps, "--lr_scheduler.total_steps=1000"][..], mesh].concat();
        let ended = job.run_well(&flags);
        let began = ended.text.lines().find_map(|line| line.split_once("Training starts at step "));
        let began: u64 = began.unwrap().1.trim().parse().unwrap();
        assert!(began > 1 && began <= last + 1, "{mesh:?}: it began at step {began} after {last}");
        println!("{mesh:?}: goes on at step {began} after a kill in step {}", last + 1);
    }
}
