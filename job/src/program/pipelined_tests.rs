//! Programs of pipelines are sound, all ranks of them together, and those of one stage are as without a pipeline.

use super::super::check::tests::plans;
use super::super::{
    HighWater, Microbatch, Recompute, Reduction, Unit, UnitPlan, build, build_evaluation, check,
};
use super::*;
use crate::config::PipelineSchedule as Name;
use crate::pipeline::{self, Communicated, Held, SCHEDULES, Schedule, Shape, communicate, schedules};

#[test]
fn one_stage_gives_the_same_program() {
    let mut count = 0;
    for plan in plans() {
        let shape = Shape { ranks: 1, stages_per_rank: 1, microbatches: plan.microbatches };
        let pipeline = schedules::find(Name::OneForwardOneBackward).pipeline(shape).unwrap();
        let stages: Vec<_> = std::iter::once(0..plan.units.len() as u32).collect();
        let built = |pipeline: &Pipeline| {
            let moves = communicate(pipeline).unwrap().moves;
            build_pipelined(&plan, pipeline, &stages, 0, &moves[0]).unwrap()
        };
        assert_eq!(built(&pipeline), build(&plan), "{plan:?}");
        assert_eq!(built(&pipeline.evaluation(pipeline.microbatches())), build_evaluation(&plan), "{plan:?}");
        count += 1;
    }
    assert_eq!(count, 2 * 13_392);
}

/// Schedules and shapes, with the stages of a model of `units` units each.
fn pipelines(units: u32, shapes: &[(u32, u32)]) -> Vec<(&'static Schedule, Pipeline, Vec<Range<u32>>)> {
    let of_shape = |(ranks, microbatches): (u32, u32)| {
        let shape = move |stages_per_rank| Shape { ranks, stages_per_rank, microbatches };
        SCHEDULES.iter().flat_map(move |schedule| {
            (1..=3).filter_map(move |stages_per_rank| {
                let pipeline = schedule.pipeline(shape(stages_per_rank)).ok()?;
                // One stage in all is another test's.
                let stages = (0..Some(pipeline.stages()).filter(|stages| *stages > 1)?)
                    .map(|stage| stage * units..(stage + 1) * units);
                Some((schedule, pipeline, stages.collect()))
            })
        })
    };
    shapes.iter().copied().flat_map(of_shape).collect()
}

/// Choices of a builder, for a model of so many units.
fn choices(units: u32) -> impl Iterator<Item = Plan> {
    let reshards = [Reshard::Default, Reshard::Always, Reshard::Never];
    let reductions = [Reduction::EveryMicrobatch, Reduction::Last];
    // Every how many units one is computed again; 0 for none.
    [0, 1, 2].into_iter().flat_map(move |every| {
        reshards.into_iter().flat_map(move |reshard| {
            reductions.into_iter().flat_map(move |reduction| {
                [(true, 0, 1), (true, 1, 2), (false, 1, 1)].map(
                    |(gathered, prefetch_units, reductions_max)| Plan {
                        units: (0..units)
                            .map(|unit| match unit.checked_rem(every) {
                                Some(0) if unit % 2 == 0 => UnitPlan { recompute: Recompute::Everything },
                                Some(0) => UnitPlan { recompute: Recompute::Operations },
                                _ => UnitPlan { recompute: Recompute::Nothing },
                            })
                            .collect(),
                        is_tied: false,
                        microbatches: 0,
                        gathered,
                        reshard,
                        prefetch_units,
                        reduction,
                        reductions_max,
                    },
                )
            })
        })
    })
}

/// What a program does as other ranks see it.
fn seen(program: &Program) -> Vec<Move> {
    let find = |is_it: &dyn Fn(&Range<u32>) -> bool| {
        program.stages.iter().find(|stage| is_it(&stage.units)).map(|stage| stage.stage)
    };
    let begins = |unit: Unit| find(&|units| units.start == unit.0);
    let ends = |unit: Unit| find(&|units| units.end == unit.0 + 1);
    let of = |pass: Pass, stage: Option<Stage>, microbatch: Microbatch| {
        Some(Move::Compute(pass.of(stage?, microbatch)))
    };
    let seen = |instruction: &Instruction| match *instruction {
        Instruction::Forward { unit, microbatch, .. } => of(Pass::Forward, ends(unit), microbatch),
        Instruction::Backward(unit, microbatch) => of(Pass::Backward, begins(unit), microbatch),
        Instruction::BackwardInput(unit, microbatch) => of(Pass::BackwardInput, begins(unit), microbatch),
        Instruction::BackwardWeight(unit, microbatch) => of(Pass::BackwardWeight, begins(unit), microbatch),
        Instruction::Send(message) => Some(Move::Send(message)),
        Instruction::Recv(message) => Some(Move::Recv(message)),
        _ => None,
    };
    program.instructions.iter().filter_map(seen).collect()
}

/// No rank holds more than its schedule says and the plan allows.
fn assert_held(plan: &Plan, units_per_stage: u32, stages_of_rank: u32, held: Held, most: HighWater) {
    let of_rank = units_per_stage * stages_of_rank;
    let gathered = u32::from(plan.gathered);
    match plan.reshard {
        Reshard::Always => assert!(most.whole_units <= gathered * (plan.prefetch_units + 1), "{plan:?}"),
        _ => assert_eq!(most.whole_units, gathered * of_rank, "{plan:?}"),
    }
    let kept = held.activations * units_per_stage;
    let is_kept_whole = plan.units.iter().all(|unit| unit.recompute == Recompute::Nothing);
    if is_kept_whole {
        assert_eq!((most.inputs, most.operations), (0, 0));
        assert!(most.graphs <= kept && kept <= most.graphs + most.put_off, "{plan:?}: {most:?}");
        if most.put_off == 0 {
            assert_eq!(most.graphs, kept, "{plan:?}");
        }
    } else {
        assert!(
            most.inputs <= kept
                && most.operations <= kept
                && most.graphs + most.operations + most.inputs + most.put_off >= kept,
            "{plan:?}: {most:?}"
        );
    }
    match plan.reduction {
        Reduction::EveryMicrobatch => assert!(most.whole_gradients <= plan.reductions_max + 1, "{plan:?}"),
        Reduction::Last => assert!(most.whole_gradients <= of_rank, "{plan:?}"),
    }
}

#[test]
fn every_program_of_a_small_domain_is_sound() {
    let (mut programs, mut evaluations) = (0, 0);
    for units_per_stage in 1..=3 {
        let shapes = [(1, 2), (2, 4), (2, 5), (3, 6), (3, 9), (4, 8)];
        for (schedule, pipeline, stages) in pipelines(units_per_stage, &shapes) {
            let Communicated { moves, .. } = communicate(&pipeline).unwrap();
            let held = pipeline::check(&pipeline, &moves).unwrap();
            let evaluation = pipeline.evaluation(pipeline.microbatches());
            let of_evaluation = communicate(&evaluation).unwrap().moves;
            for plan in choices(units_per_stage * pipeline.stages()) {
                for (rank, (of_rank, held)) in (0..).zip(moves.iter().zip(&held)) {
                    let what = || format!("{} {plan:?} rank {rank}", schedule.name());
                    let program = build_pipelined(&plan, &pipeline, &stages, rank, of_rank).unwrap();
                    let most =
                        check(&program, plan.gathered).unwrap_or_else(|fault| panic!("{}: {fault}", what()));
                    // All ranks together are then as the pipeline was on paper.
                    assert_eq!(seen(&program), *of_rank, "{}", what());
                    let stages_of_rank = pipeline.stages_of(rank).len() as u32;
                    assert_held(&plan, units_per_stage, stages_of_rank, *held, most);
                    programs += 1;
                }
                for (rank, of_rank) in (0..).zip(&of_evaluation) {
                    let program = build_pipelined(&plan, &evaluation, &stages, rank, of_rank).unwrap();
                    let most = check(&program, plan.gathered).unwrap();
                    assert_eq!((most.graphs, most.inputs, most.put_off, most.whole_gradients), (0, 0, 0, 0));
                    evaluations += 1;
                }
            }
        }
    }
    assert_eq!((programs, evaluations), (22_680, 22_680));
}

/// The gradients of a stage are summed once, after the last of them, and its units gathered once.
#[test]
fn a_stage_is_gathered_and_reduced_once() {
    for (schedule, pipeline, stages) in pipelines(2, &[(2, 4), (3, 6)]) {
        let moves = communicate(&pipeline).unwrap().moves;
        let plan =
            choices(2 * pipeline.stages()).find(|plan| plan.gathered && plan.reduction == Reduction::Last);
        let plan = plan.unwrap();
        assert_eq!(plan.reshard, Reshard::Default);
        for (rank, of_rank) in (0..).zip(&moves) {
            let program = build_pipelined(&plan, &pipeline, &stages, rank, of_rank).unwrap();
            for units in program.stages.iter().flat_map(|stage| stage.units.clone()) {
                let at = |is_it: &dyn Fn(&Instruction) -> bool| -> Vec<usize> {
                    let all = program.instructions.iter().enumerate();
                    all.filter(|(_, instruction)| is_it(instruction)).map(|(at, _)| at).collect()
                };
                let unit = Unit(units);
                let gathers = at(&|instruction| *instruction == Instruction::Gather(unit));
                let reduces = at(&|instruction| *instruction == Instruction::Reduce(unit));
                let weights = at(
                    &|instruction| matches!(instruction, Instruction::Backward(of, _) | Instruction::BackwardWeight(of, _) if *of == unit),
                );
                assert_eq!((gathers.len(), reduces.len()), (1, 1), "{} {unit:?}", schedule.name());
                assert!(weights.iter().all(|at| *at < reduces[0]));
                assert_eq!(weights.len(), pipeline.microbatches() as usize);
            }
        }
    }
}

#[test]
fn a_program_with_an_instruction_less_or_more_is_refused() {
    let mut count = 0;
    for (schedule, pipeline, stages) in pipelines(2, &[(2, 4)]) {
        let moves = communicate(&pipeline).unwrap().moves;
        for plan in choices(2 * pipeline.stages()) {
            for (rank, of_rank) in (0..).zip(&moves) {
                let program = build_pipelined(&plan, &pipeline, &stages, rank, of_rank).unwrap();
                for at in 0..program.instructions.len() {
                    let mut short = program.clone();
                    let removed = short.instructions.remove(at);
                    let what = || format!("{} {plan:?} rank {rank} {removed}", schedule.name());
                    assert!(check(&short, plan.gathered).is_err(), "without: {}", what());
                    let mut long = program.clone();
                    long.instructions.insert(at, removed);
                    let twice = check(&long, plan.gathered);
                    assert!(twice.is_err() || removed == Instruction::WaitStaged, "twice: {}", what());
                    count += 2;
                }
            }
        }
    }
    assert_eq!(count, 260_232);
}

/// What is wrong is told, each where it is.
#[test]
fn a_fault_says_where_and_why() {
    let shape = Shape { ranks: 2, stages_per_rank: 2, microbatches: 4 };
    let pipeline = schedules::find(Name::ZbvZeroBubble).pipeline(shape).unwrap();
    let moves = communicate(&pipeline).unwrap().moves;
    let stages = [0..1, 1..2, 2..3, 3..4];
    let plan = choices(4).find(|plan| !plan.gathered).unwrap();
    let program = build_pipelined(&plan, &pipeline, &stages, 0, &moves[0]).unwrap();
    let at = |word: &str| {
        program.instructions.iter().position(|instruction| instruction.to_string() == word).unwrap()
    };
    let told = |change: &dyn Fn(&mut Vec<Instruction>)| {
        let mut changed = program.clone();
        change(&mut changed.instructions);
        check(&changed, false).unwrap_err().to_string()
    };
    let moved = |from: usize, to: usize| {
        move |instructions: &mut Vec<Instruction>| {
            let early = instructions.remove(from);
            instructions.insert(to, early);
        }
    };
    let (input, weight) = (at("BackwardInput 3.0"), at("BackwardWeight 3.0"));
    let told = [
        told(&moved(weight, input)),
        told(&moved(at("Send activation 0 from stage 0 to 1"), 1)),
        told(&moved(at("Recv activation 0 from stage 2 to 3"), at("Forward 3.0"))),
        told(&moved(at("Recv gradient 0 from stage 1 to 0"), at("BackwardInput 0.0"))),
        told(&moved(at("Loss 0"), at("Send gradient 0 from stage 3 to 2"))),
        told(&moved(at("Send gradient 3 from stage 3 to 2"), at("OptimizerStep"))),
        told(&|instructions| instructions[1] = Instruction::Gather(Unit(1))),
        told(&|instructions| {
            instructions.remove(at("Send activation 1 from stage 0 to 1"));
        }),
    ];
    insta::assert_snapshot!(told.join("\n"), @r#"
    instruction 10 (BackwardWeight 3.0): the gradient of its input comes first; of its forward pass is kept: Some(Graph)
    instruction 1 (Send activation 0 from stage 0 to 1): it is not computed
    instruction 7 (Forward 3.0): the stage's input is not there
    instruction 24 (BackwardInput 0.0): the gradient of the stage's output is not there
    instruction 9 (BackwardInput 3.0): the gradient of the stage's output is not there
    instruction 63 (Send gradient 3 from stage 3 to 2): the step is over
    instruction 1 (Gather 1): there is no such unit
    instruction 63 (the end): microbatch 1 of stage 0 was not sent on
    "#);
    let other = build_pipelined(&plan, &pipeline, &stages[..3], 0, &moves[0]).unwrap_err();
    insta::assert_snapshot!(other, @"3 stages of 3 units for a pipeline of 4 stages and a model of 4 units: cut the model as the pipeline needs");
}
