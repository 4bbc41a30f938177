//! Simulated steps against figures by hand, theory and lower bounds.

use super::*;
use crate::config::PipelineSchedule as Name;
use crate::pipeline::{Shape, communicate, schedules};
use crate::program::{
    Plan, Recompute, Reduction, Reshard, UnitPlan, build, build_evaluation, build_pipelined, check,
};
use crate::simulate::{Figures, UnitCosts};
use proptest::prelude::*;

/// A plan of `units` units.
pub(in crate::simulate) fn plan(units: u32, microbatches: u32, recompute: Recompute) -> Plan {
    Plan {
        units: vec![UnitPlan { recompute }; units as usize],
        is_tied: false,
        microbatches,
        gathered: true,
        reshard: Reshard::Default,
        prefetch_units: 1,
        reduction: Reduction::EveryMicrobatch,
        reductions_max: 1,
    }
}

/// The programs of all ranks of a pipeline, with so many units in each stage.
pub(in crate::simulate) fn programs(
    name: Name,
    shape: Shape,
    units_per_stage: u32,
    plan: &Plan,
) -> Vec<Program> {
    let pipeline = schedules::find(name).pipeline(shape).unwrap();
    let stages: Vec<_> =
        (0..pipeline.stages()).map(|stage| stage * units_per_stage..(stage + 1) * units_per_stage).collect();
    let moves = communicate(&pipeline).unwrap().moves;
    let of_rank = |(rank, moves): (u32, &Vec<_>)| {
        let program = build_pipelined(plan, &pipeline, &stages, rank, moves).unwrap();
        check(&program, plan.gathered).unwrap();
        program
    };
    (0..).zip(&moves).map(of_rank).collect()
}

/// Units of which a pass forward takes a second, and each part of a pass backward as well.
pub(in crate::simulate) fn seconds(units: u32) -> Costs {
    let second = Pass::computing(1.0);
    let unit = UnitCosts {
        forward: second,
        backward_input: second,
        backward_weight: second,
        recompute: second,
        ..UnitCosts::default()
    };
    Costs { units: vec![unit; units as usize], ..Costs::free(units) }
}

/// Two units, each gathered in 2 s and reduced in 3 s, forward in 1 s, backward in 1 + 1 s.
#[test]
fn one_rank_by_hand() {
    let program = build(&plan(2, 1, Recompute::Nothing));
    let mut costs = seconds(2);
    for unit in &mut costs.units {
        (unit.gather, unit.reduce, unit.finish_reduce) = (2.0, 3.0, 0.5);
        (unit.clip, unit.update) = (0.25, 0.75);
    }
    (costs.load_batch, costs.loss) = (0.125, Pass::computing(1.0));
    let run = simulate(std::slice::from_ref(&program), &costs).unwrap();
    let times: Vec<_> = run.ranks[0]
        .iter()
        .map(|timed| format!("{:.3} {:.3} {}", timed.begin, timed.end, timed.instruction))
        .collect();
    insta::assert_snapshot!(times.join("\n"), @r"
    0.000 0.125 LoadBatch
    0.125 2.125 Gather 0
    2.125 4.125 Gather 1
    2.125 3.125 Forward 0.0
    3.125 3.125 Free 0
    4.125 5.125 Forward 1.0
    5.125 6.125 Loss 0
    6.125 8.125 Gather 0
    6.125 8.125 Backward 1.0
    8.125 8.125 Free 1
    8.125 11.125 Reduce 1
    8.125 10.125 Backward 0.0
    10.125 10.125 Free 0
    11.125 11.625 FinishReduce 1
    11.625 14.625 Reduce 0
    14.625 15.125 FinishReduce 0
    15.125 15.625 ClipGrad
    15.625 15.625 WaitStaged
    15.625 17.125 OptimizerStep
    ");
    let figures = Figures::of(&run, &costs);
    assert_eq!(run.seconds, 17.125);
    assert_eq!((figures.exposed.gather, figures.exposed.reduce), (3.0, 4.0));
    assert_eq!((figures.bubble, figures.exposed.seconds()), (0.0, 7.0));
    assert_eq!(figures.computing["forward"], 2.0);
    assert_eq!(figures.computing["backward"], 4.0);
    assert_eq!(figures.busy[&Stream::Gathers], 6.0);
}

/// Two ranks, two microbatches, a message takes half a second: 1F1B.
#[test]
fn two_ranks_by_hand() {
    let shape = Shape { ranks: 2, stages_per_rank: 1, microbatches: 2 };
    let programs = programs(Name::OneForwardOneBackward, shape, 1, &plan(2, 2, Recompute::Nothing));
    let costs = Costs { message: 0.5, ..seconds(2) };
    let run = simulate(&programs, &costs).unwrap();
    let passes = |rank: usize| {
        let passes = run.ranks[rank].iter().filter(|timed| timed.pass.compute > 0.0);
        passes.map(|timed| format!("{} {}", timed.instruction, timed.begin)).collect::<Vec<_>>().join(", ")
    };
    insta::assert_snapshot!(passes(0), @"Forward 0.0 0, Forward 0.1 1, Backward 0.0 5, Backward 0.1 8");
    insta::assert_snapshot!(passes(1), @"Forward 1.0 1.5, Backward 1.0 2.5, Forward 1.1 4.5, Backward 1.1 5.5");
    assert_eq!(run.seconds, 10.0);
    let figures = Figures::of(&run, &costs);
    // Rank 0 waits 3 s and 1 s, of each half a second for a message under way; rank 1 for the first 1.5 s and at the end.
    assert_eq!(figures.exposed.messages, (0.5 + 0.5 + 0.5) / 2.0);
    assert_eq!(figures.bubble, (2.5 + 0.5 + 1.0 + 2.5) / 2.0);
}

fn bubble_share(name: Name, ranks: u32, stages_per_rank: u32, microbatches: u32) -> f64 {
    let shape = Shape { ranks, stages_per_rank, microbatches };
    let plan = plan(shape.stages(), microbatches, Recompute::Nothing);
    let costs = seconds(shape.stages());
    let run = simulate(&programs(name, shape, 1, &plan), &costs).unwrap();
    Figures::of(&run, &costs).bubble_share()
}

/// With equal stages and free links: Narayanan et al. 2021 (arXiv 2104.04473), sections 2.2.1 and 2.2.2.
#[test]
fn bubbles_are_those_of_theory() {
    for ranks in 2..=8 {
        for rounds in 1..=4 {
            let microbatches = ranks * rounds;
            let (p, m) = (f64::from(ranks), f64::from(microbatches));
            for name in [Name::OneForwardOneBackward, Name::GPipe] {
                let expected = (p - 1.0) / (m + p - 1.0);
                let found = bubble_share(name, ranks, 1, microbatches);
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{name:?} {ranks} {microbatches}: {found} {expected}"
                );
            }
            for stages in 2..=4 {
                let v = f64::from(stages);
                let expected = (p - 1.0) / (v * m + p - 1.0);
                let found = bubble_share(Name::Interleaved1F1B, ranks, stages, microbatches);
                assert!(
                    (found - expected).abs() < 1e-9,
                    "{ranks} {stages} {microbatches}: {found} {expected}"
                );
            }
        }
    }
}

#[test]
fn zero_bubble_has_less() {
    for ranks in 2..=8 {
        let microbatches = 4 * ranks;
        let plain = bubble_share(Name::OneForwardOneBackward, ranks, 1, microbatches);
        let interleaved = bubble_share(Name::Interleaved1F1B, ranks, 2, microbatches);
        let zero = bubble_share(Name::InterleavedZeroBubble, ranks, 2, microbatches);
        let v = bubble_share(Name::ZbvZeroBubble, ranks, 2, microbatches);
        assert!(zero < interleaved && interleaved < plain, "{ranks}: {zero} {interleaved} {plain}");
        assert!(v < interleaved, "{ranks}: {v} {interleaved}");
    }
}

#[test]
fn what_waits_for_ever_is_told() {
    let shape = Shape { ranks: 2, stages_per_rank: 1, microbatches: 2 };
    let sound = programs(Name::OneForwardOneBackward, shape, 1, &plan(2, 2, Recompute::Nothing));
    let told = |change: &dyn Fn(&mut Vec<Program>)| {
        let mut changed = sound.clone();
        change(&mut changed);
        simulate(&changed, &seconds(2)).unwrap_err().to_string()
    };
    let position = |program: &Program, word: &str| {
        program.instructions.iter().position(|instruction| instruction.to_string().starts_with(word)).unwrap()
    };
    let told = [
        told(&|programs| {
            let at = position(&programs[0], "Send");
            programs[0].instructions.remove(at);
        }),
        told(&|programs| {
            let at = position(&programs[0], "Recv");
            programs[0].instructions.swap(at, at + 1);
            let (first, second) =
                (position(&programs[1], "Send"), position(&programs[1], "Recv activation 1"));
            programs[1].instructions.swap(first, second);
        }),
        told(&|programs| {
            let at = position(&programs[1], "ClipGrad");
            programs[1].instructions.truncate(at);
        }),
        told(&|programs| programs.truncate(1)),
        told(&|programs| {
            let at = position(&programs[0], "Backward 0.1");
            let begun =
                programs[0].instructions[..at].iter().rposition(|it| it.to_string().starts_with("Recv"));
            programs[0].instructions.remove(begun.unwrap());
        }),
    ];
    insta::assert_snapshot!(told.join("\n"));
}

#[test]
fn an_evaluation_is_simulated_too() {
    let program = build_evaluation(&plan(3, 2, Recompute::Nothing));
    let run = simulate(&[program], &seconds(3)).unwrap();
    assert_eq!(run.seconds, 6.0);
}

fn any_costs(units: usize) -> impl Strategy<Value = Costs> {
    let unit = prop::array::uniform8(0.0..3.0f64);
    (prop::collection::vec(unit, units), 0.0..2.0f64, 0.0..2.0f64).prop_map(move |(units, loss, message)| {
        let pass = |compute| Pass {
            compute,
            tensor_parallel: compute / 4.0,
            context_parallel: compute / 8.0,
            carried: 0.0,
        };
        let of = |[gather, reduce, forward, recompute, input, weight, clip, update]: [f64; 8]| UnitCosts {
            gather,
            reduce,
            finish_reduce: 0.1,
            clip,
            update,
            forward: pass(forward),
            recompute: pass(recompute),
            backward_input: pass(input),
            backward_weight: pass(weight),
            ..UnitCosts::default()
        };
        let free = Costs::free(units.len() as u32);
        Costs { units: units.into_iter().map(of).collect(), loss: pass(loss), message, ..free }
    })
}

proptest! {
    /// The step is no shorter than what any stream of any rank has to do, and the figures are all of it.
    #[test]
    fn a_step_is_no_shorter_than_its_parts(
        schedule in prop::sample::select(vec![
            (Name::GPipe, 1), (Name::OneForwardOneBackward, 1), (Name::Interleaved1F1B, 2), (Name::ZbvZeroBubble, 2),
            (Name::DualPipeV, 2), (Name::LoopedBfs, 3), (Name::InterleavedZeroBubble, 2),
        ]),
        ranks in 1u32..4,
        every in 1u32..3,
        units_per_stage in 1u32..3,
        reshard in prop::sample::select(vec![Reshard::Default, Reshard::Always, Reshard::Never]),
        is_again in any::<bool>(),
        costs in any_costs(18),
    ) {
        let (name, stages_per_rank) = schedule;
        let shape = Shape { ranks, stages_per_rank, microbatches: ranks * stages_per_rank * every };
        let recompute = if is_again { Recompute::Everything } else { Recompute::Nothing };
        let units = shape.stages() * units_per_stage;
        let plan = Plan { reshard, ..plan(units, shape.microbatches, recompute) };
        let programs = programs(name, shape, units_per_stage, &plan);
        let run = simulate(&programs, &costs).unwrap();
        for (program, timed) in programs.iter().zip(&run.ranks) {
            prop_assert_eq!(timed.len(), program.instructions.len());
            let held: Vec<_> = program.stages.iter().flat_map(|stage| stage.units.clone().map(Unit)).collect();
            let sum = |of: &dyn Fn(Instruction) -> f64| program.instructions.iter().map(|&it| of(it)).sum::<f64>();
            let bounds = [
                sum(&|instruction| costs.pass(instruction, &held).seconds()),
                sum(&|instruction| if let Instruction::Gather(unit) = instruction { costs.of(unit).gather } else { 0.0 }),
                sum(&|instruction| if let Instruction::Reduce(unit) = instruction { costs.of(unit).reduce } else { 0.0 }),
            ];
            for bound in bounds {
                prop_assert!(run.seconds >= bound - 1e-9, "{} < {bound}", run.seconds);
            }
            // A stream does one thing after the other.
            for stream in [Stream::Compute, Stream::Gathers, Stream::Reductions] {
                let mut free = 0.0;
                for timed in timed.iter().filter(|timed| timed.stream == stream) {
                    prop_assert!(timed.begin >= free - 1e-9 && timed.end >= timed.begin);
                    free = timed.end;
                }
            }
        }
        let figures = Figures::of(&run, &costs);
        let all = figures.computing.values().sum::<f64>() + figures.exposed.seconds() + figures.bubble;
        prop_assert!((all - run.seconds).abs() < 1e-6, "{all} {}", run.seconds);
    }
}
