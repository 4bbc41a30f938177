//! Every program of a small domain is sound; every way to break one is found.

use super::super::{
    Instruction, Keep, Microbatch, Plan, Purpose, Recompute, Reduction, Reshard, Unit, UnitPlan, build,
    build_evaluation,
};
use super::*;

pub(in crate::program) fn plans() -> impl Iterator<Item = Plan> {
    let reshards = [Reshard::Default, Reshard::Always, Reshard::Never];
    let reductions = [Reduction::EveryMicrobatch, Reduction::Last];
    let sizes = (1..=5u32).flat_map(|units| (1..=3u32).map(move |microbatches| (units, microbatches)));
    sizes.flat_map(move |(units, microbatches)| {
        // Which units are computed again, as bits; of every second of them operations alone.
        (0..1u32 << units).flat_map(move |recompute| {
            reshards.into_iter().flat_map(move |reshard| {
                reductions.into_iter().flat_map(move |reduction| {
                    (0..=7u32).flat_map(move |choice| {
                        let (prefetch_units, is_tied) = (choice / 2, choice % 2 == 1);
                        [(true, 1), (true, 2), (false, 1)].map(|(gathered, reductions_max)| Plan {
                            units: (0..units).map(|unit| unit_plan(recompute >> unit, unit)).collect(),
                            is_tied,
                            microbatches,
                            gathered,
                            reshard,
                            prefetch_units,
                            reduction,
                            reductions_max,
                        })
                    })
                })
            })
        })
    })
}

fn unit_plan(bits: u32, unit: u32) -> UnitPlan {
    let recompute = match (bits & 1, unit % 2) {
        (0, _) => Recompute::Nothing,
        (_, 0) => Recompute::Everything,
        _ => Recompute::Operations,
    };
    UnitPlan { recompute }
}

/// One unit after the other, nothing ahead.
fn small(units: usize, microbatches: u32, recompute: Recompute) -> Plan {
    Plan {
        units: vec![UnitPlan { recompute }; units],
        is_tied: false,
        microbatches,
        gathered: true,
        reshard: Reshard::Default,
        prefetch_units: 0,
        reduction: Reduction::EveryMicrobatch,
        reductions_max: 1,
    }
}

#[test]
fn every_program_of_a_small_domain_is_sound() {
    let mut count = 0;
    for plan in plans() {
        let program = build(&plan);
        let most = check(&program, plan.gathered).unwrap_or_else(|fault| panic!("{plan:?}: {fault}"));
        let units = plan.units.len() as u32;
        let planned = |what| plan.units.iter().filter(|unit| unit.recompute == what).count() as u32;
        let whole = match (plan.gathered, plan.reshard) {
            (false, _) => 0,
            (true, Reshard::Never) => units,
            (true, _) => units.min(plan.prefetch_units + 1),
        };
        // What is shared is there beside what is computed.
        let shared = u32::from(plan.is_tied && units > 1);
        let whole_most = match plan.reshard {
            // The last unit stays while the first are prefetched for nothing else.
            Reshard::Default if plan.gathered => units.min(whole + 1 + shared),
            Reshard::Always if plan.gathered => units.min(whole + shared),
            _ => whole,
        };
        assert!((whole..=whole_most).contains(&most.whole_units), "{plan:?}: {most:?}");
        let partial = (planned(Recompute::Operations), planned(Recompute::Everything));
        assert_eq!((most.operations, most.inputs), partial, "{plan:?}");
        // On the way back a unit is computed again while those before it are still kept.
        let is_again = |unit: &UnitPlan| unit.recompute != Recompute::Nothing;
        let kept = |until: usize| plan.units[..until].iter().filter(|unit| !is_again(unit)).count() as u32;
        let again = (0..plan.units.len()).filter(|&unit| is_again(&plan.units[unit]));
        let graphs = again.map(|unit| kept(unit) + 1).chain([kept(plan.units.len())]).max();
        assert_eq!(Some(most.graphs), graphs, "{plan:?}");
        let gradients = match plan.reduction {
            Reduction::EveryMicrobatch => units.min(plan.reductions_max.max(1) + 1 + shared),
            Reduction::Last if plan.microbatches == 1 => units.min(plan.reductions_max.max(1) + 1 + shared),
            Reduction::Last => units,
        };
        assert!(most.whole_gradients <= gradients, "{plan:?}: {most:?}");
        count += 1;
    }
    assert_eq!(count, 2 * 13_392);
}

/// Evaluations keep nothing, gather as training does, and lack nothing: without any instruction they are refused.
#[test]
fn every_evaluation_of_a_small_domain_is_sound() {
    let (mut count, mut refused) = (0, 0);
    for plan in plans() {
        let program = build_evaluation(&plan);
        let most = check(&program, plan.gathered).unwrap_or_else(|fault| panic!("{plan:?}: {fault}"));
        let HighWater { graphs, operations, inputs, whole_gradients, .. } = most;
        assert_eq!((graphs, operations, inputs, whole_gradients), (0, 0, 0, 0), "{plan:?}");
        count += 1;
        for at in 0..program.instructions.len() {
            let mut short = program.clone();
            let removed = short.instructions.remove(at);
            assert!(check(&short, plan.gathered).is_err(), "{plan:?} without {removed}");
            refused += 1;
        }
        // A training step is no evaluation, nor the other way round.
        for (mut program, purpose) in [(program, Purpose::Train), (build(&plan), Purpose::Evaluate)] {
            program.purpose = purpose;
            assert!(check(&program, plan.gathered).is_err(), "{plan:?}");
        }
    }
    assert_eq!(count, 2 * 13_392);
    assert!(refused > count);
}

/// Leaving out any instruction but a prefetch order is noticed, and so is doing any twice.
#[test]
fn a_program_with_an_instruction_less_or_more_is_refused() {
    for plan in plans().filter(|plan| plan.units.len() <= 3 && plan.microbatches <= 2) {
        let program = build(&plan);
        for at in 0..program.instructions.len() {
            let mut short = program.clone();
            let removed = short.instructions.remove(at);
            assert!(check(&short, plan.gathered).is_err(), "{plan:?} without {removed}");
            let mut long = program.clone();
            long.instructions.insert(at, removed);
            let twice = check(&long, plan.gathered);
            assert!(twice.is_err() || removed == Instruction::WaitStaged, "{plan:?} with {removed} twice");
        }
    }
}

#[test]
fn a_swapped_pair_is_refused_where_it_matters() {
    let plan = Plan { reshard: Reshard::Always, ..small(3, 2, Recompute::Everything) };
    let program = build(&plan);
    let mut refused = 0;
    for at in 1..program.instructions.len() {
        let mut swapped = program.clone();
        swapped.instructions.swap(at - 1, at);
        let pair = (program.instructions[at - 1], program.instructions[at]);
        let is_free = |instruction| {
            matches!(
                instruction,
                Instruction::Gather(_)
                    | Instruction::Free(_)
                    | Instruction::Reduce(_)
                    | Instruction::FinishReduce(_)
                    | Instruction::WaitStaged
            )
        };
        match check(&swapped, true) {
            Err(_) => refused += 1,
            Ok(_) => assert!(is_free(pair.0) || is_free(pair.1), "{} before {}", pair.1, pair.0),
        }
    }
    assert!(refused > program.instructions.len() / 2, "{refused} of {}", program.instructions.len());
}

#[test]
fn a_fault_says_where_and_why() {
    let plan = Plan { prefetch_units: 1, ..small(2, 1, Recompute::Nothing) };
    let mut program = build(&plan);
    program.instructions.retain(|instruction| *instruction != Instruction::Gather(Unit(1)));
    let fault = check(&program, true).unwrap_err();
    assert_eq!(fault.to_string(), "instruction 4 (Forward 1.0): its parameters are not whole");
}

/// A head that is the embedding: two units compute with one.
#[test]
fn what_is_shared_is_whole_where_it_is_used() {
    let plan = Plan { is_tied: true, ..small(3, 2, Recompute::Nothing) };
    let says = |program: &Program| check(program, true).unwrap_err().to_string();
    // It stays from the first pass forward to the last one back.
    let program = build(&plan);
    let first = |wanted| program.instructions.iter().position(|found| *found == wanted).unwrap();
    assert!(first(Instruction::Free(Unit(0))) > first(Instruction::Backward(Unit(0), Microbatch(0))));
    let mut early = program.clone();
    let free = early.instructions.remove(first(Instruction::Free(Unit(0))));
    early.instructions.insert(
        first(Instruction::Forward { unit: Unit(1), microbatch: Microbatch(0), keep: Keep::Graph }),
        free,
    );
    let found = says(&early);
    assert!(
        found.contains("(Forward 2.0): the parameters of unit 0, which it shares, are not whole"),
        "{found}"
    );
    // Its gradients begin with the last unit's pass back: a sum of the microbatch before is over by then.
    let mut late = program.clone();
    late.instructions.remove(first(Instruction::FinishReduce(Unit(0))));
    let found = says(&late);
    assert!(found.contains("(Backward 2.1): the gradients of unit 0 are being reduced"), "{found}");
    // Given up after every pass, it is gathered for two passes forward and two back.
    let always = build(&Plan { reshard: Reshard::Always, microbatches: 1, ..plan });
    let gathers = always.instructions.iter().filter(|found| **found == Instruction::Gather(Unit(0))).count();
    assert_eq!(gathers, 4);
}
