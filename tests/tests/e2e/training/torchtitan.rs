//! Training states that go from the trainer to the real TorchTitan 0.2.2 and back, so that whoever goes on has the losses of a
//! run that nobody stopped.

use super::folder;
use super::parity::{assert_equal, ours, torchtitan};
use std::fs;

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
