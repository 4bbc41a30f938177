//! A model by its `config.json`, whose head is its embedding: from one seed as a TorchTitan that is told to share the two, and
//! back and forth between both.

use super::parity::{assert_equal, ours, torchtitan_on};
use super::{folder, run_well};
use e2e::trainer::titan_ckpt;
use serde_json::json;
use std::fs;
use std::path::Path;

const FLAVOR: &str = "--model.flavor=model/config.json";

/// The seed of the small Llama with one parameter for both, as step 0, and the config of it.
fn seed(at: &Path) {
    let mut config = convert::families::by_name("llama3:debugmodel").unwrap().config;
    config.insert("tie_word_embeddings".to_owned(), json!(true));
    fs::create_dir(at.join("model")).unwrap();
    fs::write(at.join("model/config.json"), serde_json::to_string(&config).unwrap()).unwrap();
    let mut command = titan_ckpt();
    command.args(["seed", "checkpoint/step-0", "--config", "model/config.json", "--seed", "7"]);
    let output = command.current_dir(at).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_head_that_is_the_embedding_is_that_of_pytorch() {
    let Some(peer) = e2e::models() else { return };
    let at = folder();
    seed(at.path());
    let into = |name: &str| format!("--checkpoint.folder={name}");
    let initial = ["--checkpoint.initial_load_path=checkpoint/step-0".to_owned()];
    let initial = initial.each_ref().map(String::as_str);
    let whole = torchtitan_on(&peer, at.path(), 1, &["--tied"]);
    for (name, flags) in [
        ("one", &[][..]),
        ("fsdp", &["--nproc=2", "--training.local_batch_size=2"]),
        ("tp", &["--nproc=2", "--parallelism.tensor_parallel_degree=2"]),
    ] {
        let own = into(name);
        let dcp = ["--checkpoint.format=dcp", "--checkpoint.async_mode=async", FLAVOR, &own];
        let found = ours(at.path(), &[&initial[..], &dcp, flags].concat());
        assert_equal(name, &found, &whole, 1..=10);
    }
    // From step 5 of each other's.
    let load = ["--checkpoint.load_step=5", "--checkpoint.load_only"];
    let own = into("tp");
    let theirs = torchtitan_on(&peer, at.path(), 1, &[&load[..], &["--tied", &own]].concat());
    assert_equal("TorchTitan from ours on TP 2", &theirs, &whole, 6..=10);
    let back = ours(at.path(), &[&load[..], &[FLAVOR]].concat());
    assert_equal("ours from TorchTitan's", &back, &whole, 6..=10);
}

/// What is exported has one tensor, and begins a run again.
#[test]
fn an_export_has_the_head_once() {
    let at = folder();
    seed(at.path());
    let flags =
        [FLAVOR, "--training.steps=2", "--checkpoint.last_save_model_only", "--checkpoint.last_save_in_hf"];
    run_well(at.path(), &flags, &[]);
    let config = fs::read(at.path().join("hf/step-2/config.json")).unwrap();
    let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
    assert_eq!(config["tie_word_embeddings"], true);
    let mut command = titan_ckpt();
    let output = command.args(["ls", "hf/step-2"]).current_dir(at.path()).output().unwrap();
    let names = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(names.contains("model.embed_tokens.weight") && !names.contains("lm_head"), "{names}");
    let again = [
        "--model.flavor=hf/step-2",
        "--checkpoint.initial_load_in_hf",
        "--checkpoint.initial_load_path=hf/step-2",
        "--checkpoint.folder=again",
        "--training.steps=1",
    ];
    run_well(at.path(), &again, &[]);
}
