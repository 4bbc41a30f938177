//! The small Llama with a head that is its embedding: one parameter, which two units compute with.
//!
//! The expected figures are what TorchTitan 0.2.2 printed as in [`parity`](crate::parity), its Llama 3 patched to have one
//! parameter for both (`tests/peers/torchtitan_cpu.py --tied`), started from `titan-ckpt seed --config config.json
//! --seed 7 --to dcp` with that model's `config.json`.

use crate::llama::{Cut, ONE, STEPS, Training, model, tied};
use crate::parity::{compare_with, groups};
use crate::resume::saved_and_resumed;
use crate::support::{numbers, run_well};
use dcp::coordinate::Alone;
use dcp::format;
use dcp::load::Origin;
use dcp::model::Fqn;
use dcp::save::{SaveOptions, Saver, State};
use dcp::storage::memory::MemoryStore;
use dcp::storage::{Key, Place};
use job::program::Reshard;
use std::sync::Arc;
use tch::Kind;
use trainer::checkpoint::{self, Content, Parts};
use trainer::ffi::rng;
use trainer::groups::Groups;

const LOSSES: [f64; 10] =
    [13.32558, 8.51281, 7.53484, 7.04279, 6.67688, 6.53433, 6.35260, 6.26556, 6.26453, 6.15300];
const GRAD_NORMS: [f64; 10] =
    [22.6692, 16.4725, 2.9728, 1.8856, 1.5519, 1.4166, 1.3693, 1.2980, 1.6719, 1.2509];
const HEAD: &str = "output.weight";

fn train(groups: &Groups, rank: u32, cut: Cut) -> Vec<(f64, f64)> {
    // What is wrong on one mesh alone shows at once.
    let steps = if cut.dims().world() == 1 { STEPS } else { STEPS / 2 };
    Training::new(&tied(), groups, rank, cut, None).until(steps)
}

#[test]
fn one_rank() {
    rng::set_threads(1).unwrap();
    for cut in [ONE, Cut { microbatches: 4, recompute: 2, ..ONE }] {
        compare_with(&train(&Groups::default(), 0, cut), &LOSSES, &GRAD_NORMS);
    }
}

#[test]
fn two_ranks() {
    run_well("tied::two_ranks", 2, |rank| {
        let sharded = Cut { dp_shard: 2, microbatches: 2, recompute: 1, ..ONE };
        for cut in [
            Cut { reshard: Reshard::Always, ..sharded },
            Cut { reshard: Reshard::Never, is_selective: true, ..sharded },
            Cut { dp_replicate: 2, ..ONE },
            Cut { tp: 2, ..ONE },
            Cut { cp: 2, ..ONE },
        ] {
            compare_with(&train(&groups(rank, cut), rank.rank, cut), &LOSSES, &GRAD_NORMS);
        }
    });
}

#[test]
fn two_shards_of_two_ranks_that_share_layers() {
    run_well("tied::two_shards_of_two_ranks_that_share_layers", 4, |rank| {
        let cut = Cut { dp_shard: 2, tp: 2, microbatches: 2, ..ONE };
        compare_with(&train(&groups(rank, cut), rank.rank, cut), &LOSSES, &GRAD_NORMS);
    });
}

#[test]
fn bfloat16_goes_the_same_way() {
    rng::set_threads(1).unwrap();
    let cut = Cut { param: Kind::BFloat16, microbatches: 2, reshard: Reshard::Always, ..ONE };
    for (step, (loss, _)) in train(&Groups::default(), 0, cut).into_iter().enumerate() {
        let off = (loss - LOSSES[step]).abs() / LOSSES[step];
        assert!(off < 0.01, "step {}: {loss}, in float32 {}", step + 1, LOSSES[step]);
    }
}

#[test]
fn a_run_goes_on_from_what_it_saved() {
    run_well("tied::a_run_goes_on_from_what_it_saved", 2, |rank| saved_and_resumed(rank, "dcp", &tied()));
}

/// A run in memory with this state as its only step.
fn saved(state: State) -> Place {
    let run = Place { store: Arc::new(MemoryStore::new()), key: Key::new("run").unwrap() };
    let options = SaveOptions::new(format::by_name("titan").unwrap());
    let mut saver = Saver::new(run.clone(), options, Arc::new(Alone)).unwrap();
    saver.save(5, state).unwrap().wait_done().unwrap();
    run
}

#[test]
fn a_checkpoint_may_have_either_name_or_both() {
    let (tied, nobody) = (tied(), Groups::default());
    let load = |run: Place| {
        let training = Training::new(&tied, &nobody, 0, ONE, None);
        // Zeros, so that what is loaded is seen.
        let embedding = &training.runner.units[0].params[0].shard;
        let begun = numbers(embedding);
        let _ = tch::no_grad(|| embedding.shallow_clone().zero_());
        let loaded = checkpoint::load(&Origin::Newest(run), &Alone, "load", training.tensors(), Parts::MODEL);
        loaded.map(|_| assert!(numbers(embedding) == begun))
    };
    let state = || Training::new(&tied, &nobody, 0, ONE, None).state(Content::Full);
    let both = saved(state());
    let reader = dcp::load::open(&Origin::Newest(both.clone()), &Alone, "look").unwrap().reader;
    let names = &reader.catalog().tensors;
    assert!(names.contains_key(HEAD) && !names.contains_key("optimizer.state.output.weight.exp_avg"));
    load(both).unwrap();
    let mut one = state();
    one.tensors.retain(|tensor| tensor.fqn != Fqn::new(HEAD));
    load(saved(one)).unwrap();
    // Of a model with a head of its own.
    let untied = model();
    let other = saved(Training::new(&untied, &nobody, 0, ONE, None).state(Content::Full));
    let error = load(other).unwrap_err().to_string();
    assert!(error.contains("`output.weight` is not its `tok_embeddings.weight`"), "{error}");
}
