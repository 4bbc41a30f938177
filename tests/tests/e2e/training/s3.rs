//! Training that saves to S3 while requests fail, and while all of them do.

use super::{folder, run, run_well};
use e2e::s3_server::{BUCKET, Faults, S3Server};
use e2e::trainer::{command, figures};
use std::io::{BufRead, BufReader};
use std::process::Stdio;

/// Small steps, saved every second in the background by two ranks.
const FLAGS: [&str; 8] = [
    "--nproc=2",
    "--training.local_batch_size=2",
    "--training.seq_len=64",
    "--checkpoint.interval=2",
    "--checkpoint.async_mode=async_with_pinned_mem",
    "--checkpoint.keep_latest_k=2",
    "--checkpoint.last_save_in_hf",
    "--checkpoint.last_save_model_only",
];

#[test]
fn a_run_that_saves_to_s3_while_requests_fail_has_the_same_figures() {
    let local = folder();
    let expected = figures(&run_well(local.path(), &FLAGS, &[]));
    let (server, remote) = (S3Server::start(Faults::FEW).unwrap(), folder());
    let folders = [
        format!("--checkpoint.folder=s3://{BUCKET}/run"),
        format!("--checkpoint.export_hf_folder=s3://{BUCKET}/hf"),
    ];
    let flags = [&FLAGS[..], &[&folders[0], &folders[1]]].concat();
    let said = run_well(remote.path(), &flags, &server.environment());
    assert_eq!(figures(&said), expected);
    assert!(said.contains(&format!("exported s3://{BUCKET}/hf/step-10")), "{said}");
    let counts = server.counts();
    println!("{} of {} requests failed", counts.faults, counts.requests);
    assert!(counts.faults > 5, "{counts:?}");
    // The run is over, and knows it.
    let again = run_well(remote.path(), &flags, &server.environment());
    assert!(again.contains("training.steps = 10 are done"), "{again}");
}

#[test]
fn a_store_that_is_down_fails_the_run_and_the_step_before_goes_on() {
    let (server, folder) = (S3Server::start(Faults::default()).unwrap(), folder());
    let at = format!("--checkpoint.folder=s3://{BUCKET}/run");
    let flags = [&FLAGS[..6], &["--training.steps=100", &at]].concat();
    let hasty = [("AWS_TIMEOUT", "1s"), ("AWS_MAX_ATTEMPTS", "3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    let settings: Vec<(String, String)> = server.environment().into_iter().chain(hasty).collect();
    let mut running = command(folder.path());
    running.arg("--job.config_file").arg(super::config()).args(&flags).envs(settings.iter().cloned());
    let mut running = running.stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    for line in BufReader::new(running.stdout.take().unwrap()).lines() {
        let line = line.unwrap();
        if line.contains("saved step 4 ") {
            server.inject(Faults { slow_down: 100, ..Faults::default() });
        }
        said += &line;
        said.push('\n');
    }
    assert_eq!(running.wait().unwrap().code(), Some(4), "{said}");
    let errors: Vec<&str> = said.lines().filter(|line| line.contains(" - ERROR - ")).collect();
    println!("{}", errors.join("\n"));
    assert!(errors.len() == 1 && errors[0].contains("503") && errors[0].contains("3"), "{said}");

    server.inject(Faults::default());
    let last: u64 = *figures(&said).keys().next_back().unwrap();
    let steps = format!("--training.steps={}", last + 2);
    let flags = [&FLAGS[..6], &[&steps, "--lr_scheduler.total_steps=100", &at]].concat();
    let (code, resumed) = run(folder.path(), &flags, &settings);
    assert_eq!(code, Some(0), "{resumed}");
    let from = figures(&resumed).keys().next().copied().unwrap();
    assert!(from > 4 && from <= last + 1, "from {from}, killed after {last}:\n{resumed}");
    // What is computed again is what was computed.
    let before = figures(&said);
    assert!(
        figures(&resumed)
            .iter()
            .filter(|(step, _)| **step <= last)
            .all(|(step, found)| before[step] == *found)
    );
}
