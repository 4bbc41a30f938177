//! Losses and gradient norms of the small Llama, from the same beginning, on the same text, equal to TorchTitan 0.2.2's.
//!
//! The expected figures are what the real TorchTitan 0.2.2 printed on a CPU with PyTorch 2.11 in float32, started from
//! `titan-ckpt seed --model llama3:debugmodel --seed 7 --to dcp`, on the corpus and tokenizer of `fixtures/text/words`,
//! with four sequences of 256 tokens a step, AdamW, learning rate 8e-4, two steps of warm-up, decay over 80 %.

use crate::llama::{Cut, ONE, STEPS, Training, model};
use crate::support::{LONG, Rank, run_well};
use job::config::PipelineSchedule;
use job::program::{Plan, Recompute, Reduction, Reshard, UnitPlan, build};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tch::{Device, Kind};
use trainer::begin;
use trainer::ffi::rng;
use trainer::groups::Groups;
use trainer::optimizer::{Implementation, Optimizer, Rule};
use trainer::run::{Programs, Runner};
use trainer::shard::Precision;

const LOSSES: [f64; 10] =
    [8.13325, 8.08065, 8.02382, 7.92201, 7.79097, 7.70003, 7.44637, 7.25987, 7.10538, 6.93684];
const GRAD_NORMS: [f64; 10] =
    [0.5486, 0.5534, 0.5629, 0.6058, 0.6785, 0.8315, 0.9802, 1.1391, 1.1956, 1.2258];
const TOLERANCE: f64 = 1e-4;

/// The groups of a mesh. All ranks make the same ones in the same order, under names of their own: where ranks of a mesh before
/// could be reached, nobody is.
pub fn groups(rank: &Rank, cut: Cut) -> Groups {
    static MESHES: AtomicU32 = AtomicU32::new(0);
    let name = format!("mesh-{}", MESHES.fetch_add(1, Ordering::Relaxed));
    let rank = Rank { store: Arc::new(rank.store.prefix(&name).unwrap()), ..*rank };
    Groups::of_mesh(rank.group("world", LONG).unwrap(), &cut.dims(), &|_| Ok(())).unwrap()
}

/// Loss over all ranks and gradient norm of every step.
pub fn train(groups: &Groups, rank: u32, cut: Cut) -> Vec<(f64, f64)> {
    Training::new(&model(), groups, rank, cut, None).until(STEPS)
}

/// Bfloat16 has three digits: the same course, not the same figures.
pub fn compare_roughly(found: &[(f64, f64)]) {
    compare_within(found, 0.01, 0.02);
}

/// Losses at most so far off, and norms by such a share.
pub fn compare_within(found: &[(f64, f64)], loss_off: f64, norm_share: f64) {
    for (step, &(loss, grad_norm)) in found.iter().enumerate() {
        let off = (loss - LOSSES[step]).abs();
        assert!(off < loss_off, "step {}: {loss}, in float32 {}", step + 1, LOSSES[step]);
        let off = (grad_norm - GRAD_NORMS[step]).abs() / GRAD_NORMS[step];
        assert!(off < norm_share, "step {}: {grad_norm}, in float32 {}", step + 1, GRAD_NORMS[step]);
    }
}

pub fn compare(found: &[(f64, f64)]) {
    compare_with(found, &LOSSES, &GRAD_NORMS);
}

/// With losses and gradient norms that TorchTitan printed.
pub fn compare_with(found: &[(f64, f64)], losses: &[f64], grad_norms: &[f64]) {
    let mut worst = [0f64; 2];
    for (step, &(loss, grad_norm)) in found.iter().enumerate() {
        for (which, found, expected, rounding) in
            [(0, loss, losses[step], 5e-6), (1, grad_norm, grad_norms[step], 5e-5)]
        {
            let off = ((found - expected).abs() - rounding).max(0.0) / expected;
            worst[which] = worst[which].max(off);
            assert!(off <= TOLERANCE, "step {}: {found}, TorchTitan has {expected}", step + 1);
        }
    }
    println!(
        "largest relative difference beyond what was printed: loss {:.1e}, norm {:.1e}",
        worst[0], worst[1]
    );
}

fn alone(cut: Cut) {
    // Threads of libtorch that wait for each other are slow where tests share the cores.
    rng::set_threads(1).unwrap();
    compare(&train(&Groups::default(), 0, cut));
}

pub fn on_mesh(rank: &Rank, cut: Cut) {
    let groups = groups(rank, cut);
    compare(&train(&groups, rank.rank, cut));
}

#[test]
fn one_rank() {
    alone(ONE);
}

#[test]
fn one_rank_in_two_and_four_turns() {
    alone(Cut { microbatches: 2, ..ONE });
    alone(Cut { microbatches: 4, reduction: Reduction::Last, ..ONE });
}

#[test]
fn one_rank_that_computes_every_block_or_every_second_again() {
    alone(Cut { recompute: 1, ..ONE });
    alone(Cut { recompute: 2, microbatches: 2, ..ONE });
}

#[test]
fn two_ranks_that_share_out_the_parameters() {
    run_well("parity::two_ranks_that_share_out_the_parameters", 2, |rank| {
        on_mesh(rank, Cut { dp_shard: 2, ..ONE });
    });
}

#[test]
fn two_ranks_that_share_out_the_parameters_and_compute_again() {
    run_well("parity::two_ranks_that_share_out_the_parameters_and_compute_again", 2, |rank| {
        on_mesh(rank, Cut { dp_shard: 2, microbatches: 2, recompute: 1, reshard: Reshard::Always, ..ONE });
    });
}

#[test]
fn four_ranks_that_share_out_the_parameters() {
    run_well("parity::four_ranks_that_share_out_the_parameters", 4, |rank| {
        on_mesh(rank, Cut { dp_shard: 4, reshard: Reshard::Never, ..ONE });
    });
}

#[test]
fn two_copies() {
    run_well("parity::two_copies", 2, |rank| on_mesh(rank, Cut { dp_replicate: 2, microbatches: 2, ..ONE }));
}

#[test]
fn two_copies_of_two_shards() {
    run_well("parity::two_copies_of_two_shards", 4, |rank| {
        on_mesh(rank, Cut { dp_replicate: 2, dp_shard: 2, ..ONE });
    });
}

/// Four microbatches through two stages or four on two ranks, or four on four.
#[test]
fn every_schedule_of_two_ranks() {
    use PipelineSchedule as Name;
    run_well("parity::every_schedule_of_two_ranks", 2, |rank| {
        let cut = Cut { pp: 2, microbatches: 4, reduction: Reduction::Last, ..ONE };
        let groups = groups(rank, cut);
        for schedule in [
            (Name::OneForwardOneBackward, 1),
            (Name::GPipe, 1),
            (Name::Interleaved1F1B, 2),
            (Name::LoopedBfs, 2),
            (Name::InterleavedZeroBubble, 2),
            (Name::ZbvZeroBubble, 2),
            (Name::DualPipeV, 2),
        ] {
            println!("{}", schedule.0.as_str());
            compare(&train(&groups, rank.rank, Cut { schedule, ..cut }));
        }
    });
}

#[test]
fn four_stages_that_compute_again() {
    run_well("parity::four_stages_that_compute_again", 4, |rank| {
        let schedule = (PipelineSchedule::OneForwardOneBackward, 1);
        on_mesh(rank, Cut { pp: 4, schedule, microbatches: 4, recompute: 1, ..ONE });
    });
}

#[test]
fn two_stages_that_share_out_the_parameters_and_compute_operations_again() {
    run_well("parity::two_stages_that_share_out_the_parameters_and_compute_operations_again", 4, |rank| {
        let cut = Cut { pp: 2, dp_shard: 2, microbatches: 2, recompute: 1, is_selective: true, ..ONE };
        let groups = groups(rank, cut);
        for (schedule, reduction, reshard) in [
            (PipelineSchedule::ZbvZeroBubble, Reduction::Last, Reshard::Never),
            (PipelineSchedule::InterleavedZeroBubble, Reduction::EveryMicrobatch, Reshard::Always),
        ] {
            let cut = Cut { schedule: (schedule, 2), reduction, reshard, ..cut };
            compare(&train(&groups, rank.rank, cut));
        }
    });
}

#[test]
fn stages_in_bfloat16_go_the_same_way() {
    run_well("parity::stages_in_bfloat16_go_the_same_way", 2, |rank| {
        let schedule = (PipelineSchedule::ZbvZeroBubble, 2);
        let cut = Cut { pp: 2, schedule, microbatches: 4, reduction: Reduction::Last, ..ONE };
        let cut = Cut { param: Kind::BFloat16, ..cut };
        compare_roughly(&train(&groups(rank, cut), rank.rank, cut));
    });
}

#[test]
fn bfloat16_goes_the_same_way() {
    let cut = Cut { param: Kind::BFloat16, recompute: 2, reshard: Reshard::Always, ..ONE };
    run_well("parity::bfloat16_goes_the_same_way", 2, |rank| {
        let cut = Cut { dp_shard: 2, microbatches: 2, ..cut };
        compare_roughly(&train(&groups(rank, cut), rank.rank, cut));
    });
    rng::set_threads(1).unwrap();
    compare_roughly(&train(&Groups::default(), 0, cut));
}

/// What is computed with memory that was given up cannot be caught: the program is checked before.
#[test]
fn a_program_that_does_not_fit_is_refused() {
    let model = model();
    let refused = |units: usize, gathered: bool| {
        let precision = Precision { stored: Kind::Float, param: Kind::BFloat16, reduce: Kind::Float };
        let own = begin::units(&model, &Groups::default(), precision, Device::Cpu, 7, 0..8).unwrap();
        let optimizer = Optimizer::new(Rule::AdamW, Implementation::Fused, &own).unwrap();
        let plan = Plan {
            units: vec![UnitPlan { recompute: Recompute::Nothing }; units],
            is_tied: false,
            microbatches: 1,
            gathered,
            reshard: Reshard::Default,
            prefetch_units: 1,
            reduction: Reduction::Last,
            reductions_max: 1,
        };
        let programs = Programs { train: build(&plan), evaluate: None, stage_ranks: vec![0] };
        Runner::new(&model, &Groups::default(), own, optimizer, programs, 1.0)
            .map(drop)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(refused(3, true), "a program of 3 units for a model of 8");
    assert_eq!(
        refused(8, false),
        "the step's program: instruction 1 (Forward 0.0): its parameters are not whole"
    );
}
