//! Context parallelism: TorchTitan's figures of one rank on every mesh with it, by either way of keys and values, and with
//! either part of a sequence.

use crate::llama::{Cut, ONE, SHARING};
use crate::parity::{compare, compare_roughly, groups, on_mesh, train};
use crate::support::{Rank, run_well};
use job::config::{LoadBalancer, PipelineSchedule, RotateMethod};
use job::program::Reshard;
use tch::Kind;
use trainer::parallel::ParallelOptions;

const CP2: Cut = Cut { cp: 2, ..ONE };
const OPERATIONS: Cut = Cut { recompute: 1, is_selective: true, ..ONE };
const BALANCED: Option<LoadBalancer> = Some(LoadBalancer::HeadTail);

fn sharing(load_balancer: Option<LoadBalancer>, rotate_method: RotateMethod) -> ParallelOptions {
    ParallelOptions { load_balancer, rotate_method, ..SHARING }
}

/// Both ways and both parts, each with something else computed again.
fn on_all(rank: &Rank, cut: Cut) {
    let groups = groups(rank, cut);
    for (load_balancer, rotate_method, recompute, is_selective) in [
        (BALANCED, RotateMethod::AllGather, 0, false),
        (BALANCED, RotateMethod::AllToAll, 1, true),
        (None, RotateMethod::AllGather, 1, false),
        (None, RotateMethod::AllToAll, 2, true),
    ] {
        let sharing = sharing(load_balancer, rotate_method);
        compare(&train(&groups, rank.rank, Cut { sharing, recompute, is_selective, ..cut }));
    }
}

#[test]
fn two_ranks_that_share_sequences() {
    run_well("context::two_ranks_that_share_sequences", 2, |rank| on_all(rank, CP2));
}

#[test]
fn four_ranks_that_share_sequences() {
    run_well("context::four_ranks_that_share_sequences", 4, |rank| on_all(rank, Cut { cp: 4, ..ONE }));
}

#[test]
fn two_shards_of_two_ranks_that_share_sequences() {
    run_well("context::two_shards_of_two_ranks_that_share_sequences", 4, |rank| {
        let sharing = sharing(BALANCED, RotateMethod::AllToAll);
        let again = Cut { microbatches: 2, reshard: Reshard::Always, sharing, ..OPERATIONS };
        on_mesh(rank, Cut { dp_shard: 2, cp: 2, ..again });
    });
}

#[test]
fn two_ranks_that_share_sequences_of_two_that_share_layers() {
    run_well("context::two_ranks_that_share_sequences_of_two_that_share_layers", 4, |rank| {
        let sharing = sharing(BALANCED, RotateMethod::AllToAll);
        on_mesh(rank, Cut { cp: 2, tp: 2, sharing, ..OPERATIONS });
    });
}

#[test]
fn two_stages_of_two_ranks_that_share_sequences() {
    run_well("context::two_stages_of_two_ranks_that_share_sequences", 4, |rank| {
        let schedule = (PipelineSchedule::OneForwardOneBackward, 1);
        on_mesh(rank, Cut { pp: 2, microbatches: 4, schedule, recompute: 2, ..CP2 });
    });
}

#[test]
fn all_at_once() {
    run_well("context::all_at_once", 8, |rank| {
        let schedule = (PipelineSchedule::OneForwardOneBackward, 1);
        on_mesh(rank, Cut { pp: 2, cp: 2, tp: 2, microbatches: 4, schedule, ..OPERATIONS });
    });
}

#[test]
fn bfloat16_goes_the_same_way() {
    run_well("context::bfloat16_goes_the_same_way", 2, |rank| {
        let cut = Cut { cp: 2, param: Kind::BFloat16, ..OPERATIONS };
        let groups = groups(rank, cut);
        for rotate_method in [RotateMethod::AllGather, RotateMethod::AllToAll] {
            let cut = Cut { sharing: sharing(BALANCED, rotate_method), ..cut };
            compare_roughly(&train(&groups, rank.rank, cut));
        }
    });
}
