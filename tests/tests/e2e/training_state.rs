//! Training states go from us to the real TorchTitan and back: whoever goes on has the losses of a run that nobody stopped.

use flate2::read::GzDecoder;
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Both print and sum in another order: what is left is far below a step's change of the loss.
const TOLERANCE: f64 = 1e-4;

/// Loss by step.
type Losses = BTreeMap<u64, f64>;

/// Reads lines that have `step: 6  loss:  7.70003` in them.
fn losses(said: &str) -> Losses {
    let of_line = |line: &str| {
        let (_, rest) = line.split_once("step:")?;
        let (step, rest) = rest.split_once("loss:")?;
        Some((step.trim().parse().ok()?, rest.split_whitespace().next()?.parse().ok()?))
    };
    said.lines().filter_map(of_line).collect()
}

#[track_caller]
fn assert_equal(found: &Losses, expected: &Losses, steps: std::ops::RangeInclusive<u64>) {
    assert!(found.keys().copied().eq(steps.clone()), "steps {:?}, expected {steps:?}", found.keys());
    for step in steps {
        let (found, expected) = (found[&step], expected[&step]);
        assert!((found - expected).abs() <= TOLERANCE, "step {step}: {found}, expected {expected}");
    }
}

/// A folder as `tests/peers/torchtitan.toml` wants it.
fn folder() -> tempfile::TempDir {
    let (folder, text) = (tempfile::tempdir().unwrap(), e2e::fixtures().join("text/words"));
    for name in ["corpus", "tokenizer"] {
        fs::create_dir(folder.path().join(name)).unwrap();
    }
    let packed = fs::File::open(text.join("corpus/data.json.gz")).unwrap();
    let mut corpus = fs::File::create(folder.path().join("corpus/data.json")).unwrap();
    std::io::copy(&mut GzDecoder::new(packed), &mut corpus).unwrap();
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        fs::copy(text.join("tokenizer").join(name), folder.path().join("tokenizer").join(name)).unwrap();
    }
    folder
}

/// TorchTitan's losses; what it saves is below the folder.
fn torchtitan(peer: &e2e::Peer, folder: &Path, flags: &[&str]) -> Losses {
    let peers = e2e::workspace().join("tests/peers");
    let (script, config) = (peers.join("torchtitan_cpu.py"), peers.join("torchtitan.toml"));
    let mut args = vec!["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=1"];
    args.extend([script.to_str().unwrap(), "--job.config_file", config.to_str().unwrap()]);
    args.extend(flags);
    let said = peer.run(folder, args).unwrap_or_else(|error| panic!("{error}"));
    losses(&said)
}

/// Losses of our trainer's example `words`, which is built on the way.
fn ours(args: &[&str]) -> Losses {
    let mut command = Command::new(env!("CARGO"));
    command.args(["run", "--quiet", "-p", "titan-train", "--example", "words", "--"]).args(args);
    let output = command.current_dir(e2e::workspace()).stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(!said.contains("note: "), "there is nothing to note: {said}");
    losses(&said)
}

#[test]
fn torchtitan_goes_on_from_what_we_saved() {
    let Some(peer) = e2e::models() else { return };
    let ours_at = tempfile::tempdir().unwrap();
    let run = ours_at.path().to_str().unwrap();
    let whole = ours(&[run, "0", "10", "5"]);
    let theirs_at = folder();
    fs::create_dir(theirs_at.path().join("checkpoint")).unwrap();
    fs::rename(ours_at.path().join("step-5"), theirs_at.path().join("checkpoint/step-5")).unwrap();
    // With every part of the state, its data loader's too.
    assert_equal(&torchtitan(&peer, theirs_at.path(), &[]), &whole, 6..=10);

    // The model alone, and beside it the number of steps, a name that TorchTitan does not ask for.
    let theirs_at = folder();
    let initial = format!("--checkpoint.initial_load_path={run}/step-10");
    let begun = torchtitan(&peer, theirs_at.path(), &["--training.steps=1", &initial]);
    let expected = ours(&[run, "model", "1"]);
    assert!(expected[&1] < whole[&10], "it begins with what was learned: {expected:?}");
    assert_equal(&begun, &expected, 1..=1);
}

#[test]
fn we_go_on_from_what_torchtitan_saved() {
    let Some(peer) = e2e::models() else { return };
    let folder = folder();
    let whole = torchtitan(&peer, folder.path(), &[]);
    assert!(whole.keys().copied().eq(1..=10), "{whole:?}");
    let run = folder.path().join("checkpoint");
    assert_equal(&ours(&[run.to_str().unwrap(), "5", "10"]), &whole, 6..=10);
}
