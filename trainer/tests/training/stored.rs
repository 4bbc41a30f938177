//! Parameters, their gradients and their moments kept in bfloat16 (`training.dtype`).

use crate::llama::{Cut, ONE, STEPS, Training, model};
use crate::parity::{compare_within, groups};
use crate::support::{LONG, run_well};
use dcp::coordinate::{Coordinator, Peers};
use dcp::format;
use dcp::load::Origin;
use dcp::model::{DType, Fqn};
use dcp::save::{SaveOptions, Saver};
use dcp::storage::open_url;
use std::sync::Arc;
use std::time::Duration;
use tch::Kind;
use trainer::checkpoint::{self, Content, Parts};
use trainer::coordinate::StoreKeys;
use trainer::ffi::memory;
use trainer::ffi::rng;
use trainer::groups::Groups;

const STORED: Cut = Cut { stored: Kind::BFloat16, param: Kind::BFloat16, ..ONE };
const SAVED: u64 = 3;

/// Of an update only what reaches the last of eight bits is kept: the same course, further from float32 than with shards
/// in it.
fn goes_the_same_way(groups: &Groups, rank: u32, cut: Cut) {
    let model = model();
    let mut training = Training::new(&model, groups, rank, cut, None);
    let found = training.until(STEPS);
    let (units, state) = (&training.runner.units, &training.runner.optimizer.state);
    for (param, kept) in units.iter().zip(state).flat_map(|(unit, kept)| unit.params.iter().zip(kept)) {
        let kinds = [&param.shard, &kept.exp_avg, &kept.exp_avg_sq, &kept.step].map(tch::Tensor::kind);
        assert_eq!(kinds, [Kind::BFloat16, Kind::BFloat16, Kind::BFloat16, Kind::Float], "{}", param.fqn);
    }
    compare_within(&found, 0.03, 0.02);
}

#[test]
fn bfloat16_goes_the_same_way() {
    rng::set_threads(1).unwrap();
    for cut in [STORED, Cut { param: Kind::Float, microbatches: 2, ..STORED }] {
        goes_the_same_way(&Groups::default(), 0, cut);
    }
}

#[test]
fn bfloat16_goes_the_same_way_on_two_ranks() {
    run_well("stored::bfloat16_goes_the_same_way_on_two_ranks", 2, |rank| {
        let cut = Cut { dp_shard: 2, microbatches: 2, recompute: 2, ..STORED };
        goes_the_same_way(&groups(rank, cut), rank.rank, cut);
    });
}

/// Every byte of parameters and optimizer.
fn bits(training: &Training) -> Vec<u8> {
    let (units, state) = (&training.runner.units, &training.runner.optimizer.state);
    let params = units.iter().zip(state).flat_map(|(unit, kept)| unit.params.iter().zip(kept));
    let tensors =
        params.flat_map(|(param, kept)| [&param.shard, &kept.exp_avg, &kept.exp_avg_sq, &kept.step]);
    let of = |tensor: &tch::Tensor| {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        memory::read(&tensor.detach(), &mut bytes).unwrap();
        bytes
    };
    tensors.flat_map(of).collect()
}

#[test]
fn what_is_saved_is_loaded_to_the_bit() {
    run_well("stored::what_is_saved_is_loaded_to_the_bit", 2, |rank| {
        // Rank 0 makes the folder, and removes it when all are done.
        let folder = (rank.rank == 0).then(|| tempfile::tempdir().unwrap());
        if let Some(folder) = &folder {
            rank.store.set("folder", folder.path().to_str().unwrap().as_bytes()).unwrap();
        }
        let path = String::from_utf8(rank.store.get("folder", LONG).unwrap()).unwrap();
        let keys = StoreKeys::new(Arc::new(rank.store.prefix("save").unwrap()));
        let peers = Peers::new(Arc::new(keys), rank.rank, rank.size, Duration::from_secs(60)).unwrap();
        let coordinator: Arc<dyn Coordinator> = Arc::new(peers);
        let cut = Cut { dp_shard: 2, ..STORED };
        let (groups, model) = (groups(rank, cut), model());

        let mut training = Training::new(&model, &groups, rank.rank, cut, None);
        training.until(SAVED);
        let saved = bits(&training);
        for name in ["titan", "dcp"] {
            let run = open_url(&format!("{path}/{name}")).unwrap();
            let options = SaveOptions::new(format::by_name(name).unwrap());
            let mut saver = Saver::new(run.clone(), options, coordinator.clone()).unwrap();
            let state = training.state(Content::Full);
            saver.save(SAVED, state).unwrap().wait_done().unwrap();

            let step = open_url(&format!("{path}/{name}/step-{SAVED}")).unwrap();
            let reader = format::open(&step).unwrap();
            let stored = |fqn: &str| reader.catalog().tensors[&Fqn::new(fqn)].spec.dtype;
            assert_eq!(stored("layers.0.attention.wq.weight"), DType::BF16);
            assert_eq!(stored("optimizer.state.norm.weight.exp_avg"), DType::BF16);
            assert_eq!(stored("optimizer.state.norm.weight.step"), DType::F32);

            let other = Training::new(&model, &groups, rank.rank, cut, None);
            assert!(bits(&other) != saved, "a run that begins is where this one is");
            let from = Origin::Newest(run);
            checkpoint::load(&from, &*coordinator, name, other.tensors(), Parts::ALL).unwrap();
            assert!(bits(&other) == saved, "{name}: other bits were loaded");
        }
        coordinator.meet("done").unwrap();
    });
}
