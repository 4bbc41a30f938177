//! The trainer and the real TorchTitan 0.2.2: from one seed the same figures on every mesh, and training states that go
//! there and back, so that whoever goes on has the losses of a run that nobody stopped.

use super::{config, folder, run_well};
use e2e::trainer::{Figures, figures};
use std::fs;
use std::path::Path;

/// Both print and sum in another order: what is left is far below a step's change of the loss.
const TOLERANCE: f64 = 1e-4;

/// Losses, and where asked for norms, relative to what is expected; beyond the digits that are printed.
#[track_caller]
fn assert_equal(name: &str, found: &Figures, expected: &Figures, steps: std::ops::RangeInclusive<u64>) {
    assert!(found.keys().copied().eq(steps.clone()), "{name}: steps {:?}, expected {steps:?}", found.keys());
    let mut most = [0f64; 2];
    for step in steps {
        let ((loss, norm), (expected_loss, expected_norm)) = (found[&step], expected[&step]);
        let off = |found: f64, expected: f64, printed: f64| {
            ((found - expected).abs() - printed).max(0.0) / expected
        };
        let offs = [off(loss, expected_loss, 1e-5), off(norm, expected_norm, 1e-4)];
        assert!(
            offs.iter().all(|off| *off <= TOLERANCE),
            "{name}, step {step}: {found:?}\nexpected {expected:?}"
        );
        most = [most[0].max(offs[0]), most[1].max(offs[1])];
    }
    println!("{name}: losses at most {:.1e} off, norms {:.1e}, beyond what is printed", most[0], most[1]);
}

/// TorchTitan's figures; what it saves is below the folder.
fn torchtitan(peer: &e2e::Peer, folder: &Path, flags: &[&str]) -> Figures {
    let script = e2e::workspace().join("tests/peers/torchtitan_cpu.py");
    let config = config();
    let mut args = vec!["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"];
    args.extend([script.to_str().unwrap(), "--job.config_file", config.to_str().unwrap()]);
    args.extend(flags);
    figures(&peer.run(folder, args).unwrap_or_else(|error| panic!("{error}")))
}

fn ours(folder: &Path, flags: &[&str]) -> Figures {
    let said = run_well(folder, flags, &[]);
    let warnings: Vec<&str> = said.lines().filter(|line| line.contains(" - WARNING - ")).collect();
    // On a CPU there is one.
    assert!(warnings.iter().all(|line| line.contains("mfu is a share")), "{warnings:?}");
    figures(&said)
}

/// Meshes and choices, with the flags for them. The batch is four sequences of all ranks everywhere.
const RUNS: &[(&str, &str)] = &[
    ("one rank", ""),
    ("FSDP 2", "--nproc=2 --training.local_batch_size=2"),
    ("FSDP 4", "--nproc=4 --training.local_batch_size=1"),
    ("HSDP 2 x 2", "--nproc=4 --training.local_batch_size=1 --parallelism.data_parallel_replicate_degree=2"),
    ("DDP 2", "--nproc=2 --training.local_batch_size=2 --parallelism.data_parallel_replicate_degree=2"),
    ("two turns", "--training.local_batch_size=2 --training.global_batch_size=4"),
    ("four turns", "--training.local_batch_size=1 --training.global_batch_size=4"),
    ("every block again", "--activation_checkpoint.mode=full"),
    ("every second block again", "--activation_checkpoint.mode=selective"),
    (
        "FSDP 2, reshard always",
        "--nproc=2 --training.local_batch_size=2 --parallelism.fsdp_reshard_after_forward=always",
    ),
    (
        "FSDP 2, reshard never, two turns, every block again",
        "--nproc=2 --training.local_batch_size=1 --training.global_batch_size=4 \
         --parallelism.fsdp_reshard_after_forward=never --activation_checkpoint.mode=full",
    ),
];

#[test]
fn figures_are_torchtitans_on_every_mesh() {
    let Some(peer) = e2e::models() else { return };
    let folder = folder();
    torchtitan(&peer, folder.path(), &["--checkpoint.create_seed_checkpoint"]);
    let expected = torchtitan(&peer, folder.path(), &["--checkpoint.load_only"]);
    assert!(expected.keys().copied().eq(1..=10), "{expected:?}");
    for (name, flags) in RUNS {
        let flags: Vec<&str> = flags.split_whitespace().chain(["--checkpoint.load_only"]).collect();
        assert_equal(name, &ours(folder.path(), &flags), &expected, 1..=10);
    }
}

#[test]
fn torchtitan_goes_on_from_what_we_saved() {
    let Some(peer) = e2e::models() else { return };
    let ours_at = folder();
    const DCP: [&str; 3] = ["--checkpoint.format=dcp", "--debug.seed=7", "--checkpoint.async_mode=async"];
    let whole = ours(ours_at.path(), &[&DCP[..], &["--checkpoint.last_save_model_only"]].concat());
    let theirs_at = folder();
    fs::create_dir(theirs_at.path().join("checkpoint")).unwrap();
    let saved = |step: u64| ours_at.path().join(format!("checkpoint/step-{step}"));
    fs::rename(saved(5), theirs_at.path().join("checkpoint/step-5")).unwrap();
    // With every part of the state, its data loader's too.
    assert_equal("TorchTitan from our step 5", &torchtitan(&peer, theirs_at.path(), &[]), &whole, 6..=10);

    // The model alone, and beside it the number of steps, a name that TorchTitan does not ask for.
    let initial = format!("--checkpoint.initial_load_path={}", saved(10).display());
    let one_step = ["--training.steps=1", "--lr_scheduler.warmup_steps=1", &initial];
    let begun = torchtitan(&peer, folder().path(), &one_step);
    let expected = ours(folder().path(), &one_step);
    assert!(expected[&1].0 < whole[&10].0, "it begins with what was learned: {expected:?}");
    assert_equal("TorchTitan from our model", &begun, &expected, 1..=1);
}

#[test]
fn we_go_on_from_what_torchtitan_saved() {
    let Some(peer) = e2e::models() else { return };
    let folder = folder();
    let whole = torchtitan(&peer, folder.path(), &[]);
    assert!(whole.keys().copied().eq(1..=10), "{whole:?}");
    for mesh in [&[][..], &["--nproc=2", "--training.local_batch_size=2"]] {
        let flags = [mesh, &["--checkpoint.load_step=5", "--checkpoint.load_only"]].concat();
        assert_equal(
            &format!("ours from its step 5, {mesh:?}"),
            &ours(folder.path(), &flags),
            &whole,
            6..=10,
        );
    }
}
