//! Tensor parallelism: TorchTitan's figures of one rank on every mesh with it, whatever is computed again.

use crate::llama::{Cut, ONE, SHARING, Training, model};
use crate::parity::{compare_roughly, groups, on_mesh, train};
use crate::support::{Rank, numbers, run_well};
use job::config::PipelineSchedule;
use job::program::{Reduction, Reshard};
use tch::Kind;
use trainer::groups::Groups;
use trainer::parallel::ParallelOptions;

const TP2: Cut = Cut { tp: 2, ..ONE };
const OPERATIONS: Cut = Cut { recompute: 1, is_selective: true, ..ONE };

#[test]
fn two_ranks_that_share_layers() {
    run_well("tensor::two_ranks_that_share_layers", 2, |rank| on_mesh(rank, TP2));
}

#[test]
fn two_ranks_that_share_layers_and_compute_again_in_two_turns() {
    run_well("tensor::two_ranks_that_share_layers_and_compute_again_in_two_turns", 2, |rank| {
        on_mesh(rank, Cut { recompute: 1, microbatches: 2, reduction: Reduction::Last, ..TP2 });
    });
}

#[test]
fn two_ranks_that_gather_logits() {
    run_well("tensor::two_ranks_that_gather_logits", 2, |rank| {
        on_mesh(
            rank,
            Cut { tp: 2, sharing: ParallelOptions { is_loss_parallel: false, ..SHARING }, ..OPERATIONS },
        );
    });
}

#[test]
fn four_ranks_that_share_layers() {
    run_well("tensor::four_ranks_that_share_layers", 4, |rank| on_mesh(rank, Cut { tp: 4, ..OPERATIONS }));
}

#[test]
fn two_shards_of_two_ranks_that_share_layers() {
    run_well("tensor::two_shards_of_two_ranks_that_share_layers", 4, |rank| {
        let cut = Cut { dp_shard: 2, recompute: 2, microbatches: 2, reshard: Reshard::Always, ..TP2 };
        on_mesh(rank, cut);
    });
}

#[test]
fn two_copies_of_two_ranks_that_share_layers() {
    run_well("tensor::two_copies_of_two_ranks_that_share_layers", 4, |rank| {
        on_mesh(rank, Cut { dp_replicate: 2, tp: 2, ..OPERATIONS });
    });
}

#[test]
fn two_copies_of_two_shards_of_two_ranks_that_share_layers() {
    run_well("tensor::two_copies_of_two_shards_of_two_ranks_that_share_layers", 8, |rank| {
        on_mesh(rank, Cut { dp_replicate: 2, dp_shard: 2, ..TP2 });
    });
}

#[test]
fn two_stages_of_two_ranks_that_share_layers() {
    run_well("tensor::two_stages_of_two_ranks_that_share_layers", 4, |rank| {
        let schedule = (PipelineSchedule::ZbvZeroBubble, 2);
        on_mesh(rank, Cut { pp: 2, tp: 2, microbatches: 4, schedule, ..OPERATIONS });
    });
}

#[test]
fn bfloat16_goes_the_same_way() {
    run_well("tensor::bfloat16_goes_the_same_way", 4, |rank| {
        let cut = Cut { dp_shard: 2, tp: 2, param: Kind::BFloat16, ..OPERATIONS };
        compare_roughly(&train(&groups(rank, cut), rank.rank, cut));
    });
}

/// Two steps: losses and norms, and the parameters after them.
fn course(rank: &Rank, groups: &Groups, cut: Cut) -> (Vec<(f64, f64)>, Vec<f64>) {
    let model = model();
    let mut training = Training::new(&model, groups, rank.rank, cut, None);
    let found = training.until(2);
    let params = training.runner.units.iter().flat_map(|unit| &unit.params);
    (found, params.flat_map(|param| numbers(&param.shard)).collect())
}

/// Collectives are made again by all ranks alike, and sums over ranks are kept: not even a bit changes.
#[test]
fn what_is_computed_again_changes_no_bit() {
    run_well("tensor::what_is_computed_again_changes_no_bit", 4, |rank| {
        let once = Cut { dp_shard: 2, microbatches: 2, param: Kind::BFloat16, ..TP2 };
        let groups = groups(rank, once);
        let expected = course(rank, &groups, once);
        for (recompute, is_selective) in [(1, false), (2, false), (1, true)] {
            let found = course(rank, &groups, Cut { recompute, is_selective, ..once });
            assert_eq!(found.0, expected.0, "every {recompute}, operations {is_selective}");
            assert!(
                found.1 == expected.1,
                "every {recompute}, operations {is_selective}: the parameters differ"
            );
        }
    });
}
