//! The program of a rank of a pipeline.

use super::build::Writer;
use super::{Instruction, Plan, Program, Purpose, Reshard, StageUnits};
use crate::pipeline::{Action, Move, Pass, Pipeline, PipelineError, Stage};
use std::ops::Range;

/// The program of a rank's step, or evaluation, in a pipeline.
///
/// `stages` says which units each stage has (`pipeline::stages`); `moves` is what this rank does, one of those that
/// [`communicate`](crate::pipeline::communicate) gives for the pipeline. The pipeline has the number of microbatches, not the
/// plan, and its purpose.
///
/// As FSDP2 does it under PyTorch's pipelines: a stage's units are gathered when it first computes and given up after its last
/// backward pass, unless the plan says [`Reshard::Always`]. With [`Reduction::Last`](super::Reduction::Last) gradients of a
/// stage are summed in its last backward pass, unit by unit. With one stage in all it is the program that
/// [`build`](super::build) gives, whatever the plan. Of a model whose last unit shares the first one's parameters, no stage
/// of several has what it needs: [`check`](super::check()) refuses the program.
///
/// Errors: [`PipelineError::Units`], where the stages are not of the plan's model or not those of the pipeline.
pub fn build_pipelined(
    plan: &Plan,
    pipeline: &Pipeline,
    stages: &[Range<u32>],
    rank: u32,
    moves: &[Move],
) -> Result<Program, PipelineError> {
    let (units, cut) = (plan.units.len() as u32, stages.last().map_or(0, |last| last.end));
    if units != cut || stages.len() != pipeline.stages() as usize {
        let (found, expected) = (stages.len(), pipeline.stages());
        return Err(PipelineError::Units { units, cut, found, expected });
    }
    let reshard = match plan.reshard {
        Reshard::Default if stages.len() > 1 => Reshard::Never,
        asked => asked,
    };
    let mut writer = Writer::new(plan, pipeline.purpose(), reshard);
    // Per stage, passes that gave gradients of its parameters.
    let mut weights = vec![0; stages.len()];
    for &step in moves {
        match step {
            Move::Send(message) => writer.put(Instruction::Send(message)),
            Move::Recv(message) => writer.put(Instruction::Recv(message)),
            Move::Compute(Action { pass, stage: Stage(stage), microbatch }) => {
                let units = stages[stage as usize].clone();
                match pass {
                    Pass::Forward => {
                        writer.forward(units, microbatch);
                        if stage + 1 == pipeline.stages() {
                            writer.put(Instruction::Loss(microbatch));
                        }
                    }
                    Pass::BackwardInput => writer.backward(units, microbatch, pass, false),
                    Pass::Backward | Pass::BackwardWeight => {
                        weights[stage as usize] += 1;
                        let is_last = weights[stage as usize] == pipeline.microbatches();
                        writer.backward(units, microbatch, pass, is_last);
                    }
                }
            }
        }
    }
    match pipeline.purpose() {
        Purpose::Train => writer.update(),
        Purpose::Evaluate => writer.free_all(),
    }
    let of_rank = pipeline.stages_of(rank).into_iter();
    let of_rank = of_rank.map(|stage| StageUnits { stage, units: stages[stage.0 as usize].clone() });
    Ok(writer.program(of_rank.collect(), pipeline.microbatches()))
}

#[cfg(test)]
#[path = "pipelined_tests.rs"]
mod tests;
