//! Runs that go on on another mesh: the same text, each sequence once, and the same losses but for the order of sums.

use crate::run::{Ended, FIXTURE, Job, tensors};
use std::collections::{BTreeMap, BTreeSet};

const STEPS: u64 = 20;
const TOLERANCE: f64 = 1e-5;

/// Sequences of a run, by checksum, with how often each was taken.
type Text = BTreeMap<String, u32>;

/// Runs up to a step, and adds what was read.
fn run_to(job: &Job, step: u64, mesh: &[&str], text: &mut Text) {
    // The schedule is of the whole run; a run that is asked to stop early would be saved anyhow.
    let (steps, total) = (format!("--training.steps={step}"), format!("--lr_scheduler.total_steps={STEPS}"));
    let flags =
        [&[&*steps, &*total, "--checkpoint.interval=5", "--checkpoint.async_mode=async"], mesh].concat();
    let mut command = job.command(&flags);
    command.env("RUST_LOG", "debug").env("LOG_RANK", "0,1,2,3");
    let ended = Ended::of(command.spawn().unwrap());
    assert_eq!(ended.code, Some(0), "{mesh:?}:\n{}", ended.text);
    // Ranks that share layers say the same.
    let said = ended.text.lines().filter_map(|line| Some(line.split_once("sequences from ")?.1));
    for said in said.collect::<BTreeSet<_>>() {
        let (_, checksums) = said.split_once(": ").unwrap();
        for checksum in checksums.split(' ') {
            *text.entry(checksum.to_owned()).or_default() += 1;
        }
    }
}

#[test]
fn a_run_moves_from_mesh_to_mesh() {
    let (whole, mut expected_text) = (Job::new(), Text::new());
    run_to(&whole, STEPS, &[], &mut expected_text);
    let expected = whole.figures();
    assert_eq!(expected_text.values().sum::<u32>() as u64, 4 * STEPS);
    let hsdp = ["--nproc=4", "--parallelism.data_parallel_replicate_degree=2"];
    let ddp = [
        "--nproc=2",
        "--parallelism.data_parallel_replicate_degree=2",
        "--parallelism.data_parallel_shard_degree=1",
    ];
    let tp = ["--nproc=2", "--parallelism.tensor_parallel_degree=2"];
    let cp = [
        "--nproc=2",
        "--parallelism.context_parallel_degree=2",
        "--parallelism.context_parallel_rotate_method=alltoall",
    ];
    let corpus = format!("--validation.dataset_path={FIXTURE}/corpus");
    let validated = ["--validation.enable", "--validation.dataset=c4_test", &corpus, "--validation.steps=2"];
    let cp_tp = [&["--nproc=4", cp[1], tp[1]][..], &validated].concat();
    let fsdp_tp =
        ["--nproc=4", "--parallelism.tensor_parallel_degree=2", "--parallelism.disable_loss_parallel"];
    let moves: [(&str, [&[&str]; 3]); 5] = [
        ("1 to 4 to 2", [&[], &["--nproc=4"], &["--nproc=2"]]),
        ("TP to FSDP with TP to FSDP", [&tp, &fsdp_tp, &["--nproc=2"]]),
        ("CP to CP with TP to FSDP", [&cp, &cp_tp, &["--nproc=2"]]),
        ("FSDP to HSDP to DDP", [&["--nproc=4"], &hsdp, &ddp]),
        (
            "2 to 1, then with other turns",
            [&["--nproc=2"], &[], &["--nproc=2", "--training.local_batch_size=2"]],
        ),
    ];
    for (name, meshes) in moves {
        let (job, mut text) = (Job::new(), Text::new());
        for (mesh, end) in meshes.iter().zip([5, 10, STEPS]) {
            run_to(&job, end, mesh, &mut text);
        }
        assert!(text == expected_text, "{name}: other sequences");
        let found = job.figures();
        let mut most = 0f64;
        for (step, (loss, _)) in &expected {
            let off = (found[step].0 - loss).abs() / loss;
            assert!(off <= TOLERANCE, "{name}, step {step}: {} and {loss}", found[step].0);
            most = most.max(off);
        }
        println!("{name}: losses at most {most:.1e} off");
    }
}

/// Elements differ by what the order of sums makes of two updates: by less than those of a model that has hardly begun do.
#[test]
fn ranks_that_share_layers_export_the_model_of_one() {
    let export = |mesh: &[&str]| {
        let job = Job::new();
        let last =
            ["--training.steps=2", "--checkpoint.last_save_model_only", "--checkpoint.last_save_in_hf"];
        job.run_well(&[&last, mesh].concat());
        tensors(&job.path("hf/step-2"))
    };
    let expected = export(&[]);
    let found = export(&["--nproc=4", "--parallelism.tensor_parallel_degree=2"]);
    assert!(found.keys().eq(expected.keys()));
    let number = |bytes: &[u8; 4]| f32::from_le_bytes(*bytes);
    for (fqn, bytes) in &expected {
        assert_eq!(found[fqn].len(), bytes.len(), "{fqn}");
        let pairs = bytes.as_chunks().0.iter().zip(found[fqn].as_chunks().0);
        let off = pairs.map(|(expected, found)| (number(expected) - number(found)).abs()).fold(0.0, f32::max);
        assert!(off < 2e-3, "{fqn}: {off}");
    }
}
