//! What is held, against what `program::check` counts.

use super::super::clock::tests::{plan, programs, seconds};
use super::*;
use crate::config::PipelineSchedule as Name;
use crate::pipeline::Shape;
use crate::program::{Plan, Recompute, Reduction, Reshard, build, check};
use crate::simulate::simulate;

/// Every thing of a unit is a byte.
fn bytes(units: u32) -> Costs {
    let mut costs = seconds(units);
    for unit in &mut costs.units {
        unit.bytes = UnitBytes {
            whole: 1,
            whole_gradient: 1,
            reducing: 1,
            graph: 1,
            operations: 1,
            input: 1,
            put_off: 1,
            ..UnitBytes::default()
        };
    }
    costs
}

#[test]
fn as_much_as_the_check_counts() {
    let mut count = 0;
    let all = [
        (Name::GPipe, 1),
        (Name::OneForwardOneBackward, 1),
        (Name::Interleaved1F1B, 2),
        (Name::InterleavedZeroBubble, 2),
        (Name::ZbvZeroBubble, 2),
        (Name::DualPipeV, 2),
        (Name::LoopedBfs, 2),
    ];
    for (name, stages_per_rank) in all {
        for recompute in [Recompute::Nothing, Recompute::Operations, Recompute::Everything] {
            for reshard in [Reshard::Default, Reshard::Always, Reshard::Never] {
                for reduction in [Reduction::EveryMicrobatch, Reduction::Last] {
                    let shape = Shape { ranks: 3, stages_per_rank, microbatches: 6 };
                    let units = 2 * shape.stages();
                    let plan = Plan { reshard, reduction, ..plan(units, 6, recompute) };
                    let (programs, costs) = (programs(name, shape, 2, &plan), bytes(units));
                    let run = simulate(&programs, &costs).unwrap();
                    for (program, timed) in programs.iter().zip(&run.ranks) {
                        let most = check(program, true).unwrap();
                        let Peak { of_each, .. } = Peak::of(program, timed, &costs).unwrap();
                        let found = [
                            of_each.whole_parameters,
                            of_each.graphs,
                            of_each.operations,
                            of_each.inputs,
                            of_each.put_off,
                            of_each.whole_gradients,
                        ];
                        let expected = [
                            most.whole_units,
                            most.graphs,
                            most.operations,
                            most.inputs,
                            most.put_off,
                            most.whole_gradients,
                        ];
                        assert_eq!(found, expected.map(u64::from), "{name:?} {plan:?}");
                        count += 1;
                    }
                }
            }
        }
    }
    assert_eq!(count, 7 * 3 * 3 * 2 * 3);
}

/// The same of a model whose head is its embedding.
#[test]
fn as_much_as_the_check_counts_of_what_is_shared() {
    for recompute in [Recompute::Nothing, Recompute::Operations, Recompute::Everything] {
        for reshard in [Reshard::Default, Reshard::Always, Reshard::Never] {
            for reduction in [Reduction::EveryMicrobatch, Reduction::Last] {
                let plan = Plan { is_tied: true, reshard, reduction, ..plan(5, 3, recompute) };
                let (program, costs) = (build(&plan), bytes(5));
                let run = simulate(std::slice::from_ref(&program), &costs).unwrap();
                let Peak { of_each, .. } = Peak::of(&program, &run.ranks[0], &costs).unwrap();
                let most = check(&program, true).unwrap();
                let found = [of_each.whole_parameters, of_each.graphs, of_each.whole_gradients];
                let expected = [most.whole_units, most.graphs, most.whole_gradients];
                assert_eq!(found, expected.map(u64::from), "{plan:?}");
            }
        }
    }
}

/// One unit of 8 parameters over 4 ranks, one microbatch: by hand.
#[test]
fn a_peak_by_hand() {
    let program = build(&plan(1, 1, Recompute::Nothing));
    let mut costs = seconds(1);
    costs.units[0].bytes = UnitBytes {
        shard: 8,
        moments: 16,
        shard_gradient: 8,
        whole: 16,
        whole_gradient: 16,
        reducing: 32,
        graph: 100,
        working: 5,
        ..UnitBytes::default()
    };
    (costs.logits_bytes, costs.loss_working_bytes) = (50, 70);
    let run = simulate(std::slice::from_ref(&program), &costs).unwrap();
    let peak = Peak::of(&program, &run.ranks[0], &costs).unwrap();
    // During the loss: what is fixed, whole parameters, the graph, the logits and what the loss needs.
    assert_eq!(peak.instruction.to_string(), "Loss 0");
    assert_eq!(peak.memory.total(), 24 + 16 + 100 + 50 + 70);
    costs.loss_working_bytes = 0;
    let peak = Peak::of(&program, &run.ranks[0], &costs).unwrap();
    // During the backward pass, which makes gradients before it gives up what it needs.
    assert_eq!(peak.instruction.to_string(), "Backward 0.0");
    assert_eq!(peak.memory.total(), 24 + 16 + 16 + 100 + 50 + 5);
    assert_eq!((peak.of_each.whole_gradients, peak.of_each.gradients), (32, 8));
}

/// What is received is held until it is used, what is sent until it has left.
#[test]
fn messages_take_memory() {
    let shape = Shape { ranks: 2, stages_per_rank: 1, microbatches: 4 };
    let programs = programs(Name::GPipe, shape, 1, &plan(2, 4, Recompute::Nothing));
    let most = |message: f64| {
        let costs = Costs { message, message_bytes: 1, ..seconds(2) };
        let run = simulate(&programs, &costs).unwrap();
        let of = |rank: usize| Peak::of(&programs[rank], &run.ranks[rank], &costs).unwrap().of_each.messages;
        (of(0), of(1))
    };
    let (slow, fast) = (most(100.0), most(0.0));
    assert_eq!(slow.0, 5, "nothing of four that was sent has left when a gradient begins to come");
    assert!(fast.0 < slow.0 && fast.1 <= slow.1, "{fast:?} {slow:?}");
}
