//! How ranks are started, found, stopped and lost.

use crate::run::{Ended, Job, children, kill, signal, until};
use std::net::TcpListener;
use std::process::Child;

/// A port that nobody has.
fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// Starts ranks as a launcher does that sets these variables for each.
fn ranks(
    job: &Job,
    ranks: u32,
    flags: &[&str],
    variables: impl Fn(u32) -> Vec<(&'static str, String)>,
) -> Vec<Child> {
    (0..ranks).map(|rank| job.command(flags).envs(variables(rank)).spawn().unwrap()).collect()
}

fn end_well(children: Vec<Child>) {
    for (rank, child) in children.into_iter().enumerate() {
        let ended = Ended::of(child);
        assert_eq!(ended.code, Some(0), "rank {rank}:\n{}", ended.text);
        // One rank talks.
        assert_eq!(ended.text.contains("Training completed"), rank == 0, "rank {rank}:\n{}", ended.text);
    }
}

const SHORT: [&str; 2] = ["--training.steps=2", "--checkpoint.no-enable"];

#[test]
fn ranks_of_torchrun_srun_and_mpirun_train_as_those_of_nproc() {
    let expected = Job::new();
    expected.run_well(&["--training.steps=2", "--checkpoint.no-enable", "--nproc=2"]);
    let port = free_port();
    let torchrun = Job::new();
    end_well(ranks(&torchrun, 2, &SHORT, |rank| {
        let port = port.clone();
        vec![
            ("RANK", rank.to_string()),
            ("WORLD_SIZE", "2".into()),
            ("LOCAL_RANK", rank.to_string()),
            ("MASTER_ADDR", "127.0.0.1".into()),
            ("MASTER_PORT", port),
        ]
    }));
    let port = free_port();
    let srun = Job::new();
    end_well(ranks(&srun, 2, &SHORT, |rank| {
        vec![
            ("SLURM_STEP_ID", "0".into()),
            ("SLURM_PROCID", rank.to_string()),
            ("SLURM_NTASKS", "2".into()),
            ("SLURM_LOCALID", rank.to_string()),
            ("SLURM_STEP_NODELIST", "localhost".into()),
            ("MASTER_PORT", port.clone()),
        ]
    }));
    let port = free_port();
    let mpirun = Job::new();
    end_well(ranks(&mpirun, 2, &SHORT, |rank| {
        vec![
            ("OMPI_COMM_WORLD_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_SIZE", "2".into()),
            ("OMPI_COMM_WORLD_LOCAL_RANK", rank.to_string()),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "2".into()),
            ("MASTER_PORT", port.clone()),
        ]
    }));
    for (launcher, job) in [("torchrun", torchrun), ("srun", srun), ("mpirun", mpirun)] {
        assert_eq!(job.figures(), expected.figures(), "{launcher}");
    }
}

#[test]
fn a_rank_that_is_killed_ends_the_job_and_is_named() {
    let job = Job::new();
    let launcher = job
        .command(&["--nproc=3", "--training.global_batch_size=3", "--training.steps=1000"])
        .spawn()
        .unwrap();
    until("the first steps", || job.figures().len() >= 2);
    let ranks = children(launcher.id());
    assert_eq!(ranks.len(), 3);
    kill(ranks[1]);
    let ended = Ended::of(launcher);
    assert_eq!(ended.code, Some(128 + 9), "{}", ended.text);
    let killed = ended.errors().iter().filter(|line| line.contains("was killed by SIGKILL (9)")).count();
    assert_eq!(killed, 1, "{}", ended.text);
}

#[test]
fn a_signal_ends_the_job_well_after_a_step_that_is_saved() {
    for name in ["TERM", "USR1"] {
        let job = Job::new();
        let flags = ["--nproc=2", "--training.steps=1000", "--checkpoint.interval=1000"];
        let launcher = job.command(&flags).spawn().unwrap();
        until("the first steps", || job.figures().len() >= 2);
        signal(launcher.id(), name);
        let ended = Ended::of(launcher);
        assert_eq!(ended.code, Some(0), "{}", ended.text);
        let last = *job.figures().keys().next_back().unwrap();
        assert!(
            ended.text.contains(&format!("asked to stop: step {last} of 1000 is done")),
            "{}",
            ended.text
        );
        let goes_on = format!("--training.steps={}", last + 1);
        let ended = job.run_well(&["--nproc=2", &goes_on]);
        assert!(ended.text.contains(&format!("Training starts at step {}", last + 1)), "{}", ended.text);
    }
}

#[test]
fn nproc_within_a_launcher_is_refused() {
    let job = Job::new();
    let mut command = job.command(&["--nproc=2"]);
    command.env("RANK", "1").env("WORLD_SIZE", "4");
    let ended = Ended::of(command.spawn().unwrap());
    assert_eq!(ended.code, Some(2));
    assert!(ended.text.contains("this process is rank 1 of 4 already"), "{}", ended.text);
}
