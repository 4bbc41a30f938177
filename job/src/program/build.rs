//! From choices to a program.

use super::{Instruction, Keep, Microbatch, Program, Purpose, StageUnits, Unit, used};
use crate::pipeline::{Pass, Stage};
use std::ops::Range;

/// When the whole parameters of a unit are given up between its forward and its backward pass
/// (`parallelism.fsdp_reshard_after_forward` of torchtitan 0.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reshard {
    /// After every forward pass, but for the last unit, which the backward pass needs at once, and what it shares. In a
    /// pipeline, where microbatches follow each other too closely, as [`Reshard::Never`].
    Default,
    /// After every forward pass.
    Always,
    /// Only after the last backward pass of the step.
    Never,
}

/// When gradients are summed over ranks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reduction {
    /// After every microbatch: the gradients of whole parameters live for one unit at a time.
    EveryMicrobatch,
    /// After the last: less to send, and the gradients of all whole parameters live from the first microbatch on.
    Last,
}

/// What of a forward pass is computed again for the backward pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Recompute {
    /// Nothing.
    Nothing,
    /// Operations that are cheap, and some of those that are not.
    Operations,
    /// Everything.
    Everything,
}

/// What is decided about one unit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnitPlan {
    /// What of it is computed again.
    pub recompute: Recompute,
}

/// What is decided about a step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plan {
    /// The units of the model.
    pub units: Vec<UnitPlan>,
    /// Whether the last unit computes with the parameters of the first as well: the head is the embedding. Then the model
    /// cannot be cut into the stages of a pipeline.
    pub is_tied: bool,
    /// Microbatches of a step, at least 1.
    pub microbatches: u32,
    /// Whether what is computed with must be made from what is stored: it is sharded, or of another type.
    pub gathered: bool,
    /// When what was made is given up.
    pub reshard: Reshard,
    /// How many units ahead of the one that is computed are gathered.
    pub prefetch_units: u32,
    /// When gradients are summed.
    pub reduction: Reduction,
    /// Reductions under way at a time, at least 1: each holds the gradients of a whole unit.
    pub reductions_max: u32,
}

/// The program of a step.
pub fn build(plan: &Plan) -> Program {
    let mut writer = Writer::new(plan, Purpose::Train, plan.reshard);
    for microbatch in (0..plan.microbatches).map(Microbatch) {
        writer.forward(writer.all(), microbatch);
        writer.put(Instruction::Loss(microbatch));
        let is_last = microbatch.0 + 1 == plan.microbatches;
        writer.backward(writer.all(), microbatch, Pass::Backward, is_last);
    }
    writer.update();
    writer.program(whole(plan), plan.microbatches)
}

/// The program that computes the loss of a batch and changes nothing. Of the plan, how units are gathered and the number of
/// microbatches count.
pub fn build_evaluation(plan: &Plan) -> Program {
    let mut writer = Writer::new(plan, Purpose::Evaluate, plan.reshard);
    for microbatch in (0..plan.microbatches).map(Microbatch) {
        writer.forward(writer.all(), microbatch);
        writer.put(Instruction::Loss(microbatch));
    }
    writer.free_all();
    writer.program(whole(plan), plan.microbatches)
}

/// The one stage of a model that is not cut.
fn whole(plan: &Plan) -> Vec<StageUnits> {
    vec![StageUnits { stage: Stage(0), units: 0..plan.units.len() as u32 }]
}

/// Writes instructions, unit by unit.
pub(super) struct Writer<'a> {
    plan: &'a Plan,
    purpose: Purpose,
    reshard: Reshard,
    units: u32,
    /// Of every unit, whether it is gathered, or about to be.
    is_whole: Vec<bool>,
    /// Reductions, the oldest first.
    under_way: Vec<Unit>,
    instructions: Vec<Instruction>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(plan: &'a Plan, purpose: Purpose, reshard: Reshard) -> Self {
        Writer {
            plan,
            purpose,
            reshard,
            units: plan.units.len() as u32,
            is_whole: vec![false; plan.units.len()],
            under_way: Vec::new(),
            instructions: vec![Instruction::LoadBatch],
        }
    }

    pub(super) fn program(self, stages: Vec<StageUnits>, microbatches: u32) -> Program {
        Program {
            purpose: self.purpose,
            units: self.units,
            stages,
            is_tied: self.plan.is_tied,
            microbatches,
            instructions: self.instructions,
        }
    }

    fn all(&self) -> Range<u32> {
        0..self.units
    }

    pub(super) fn put(&mut self, instruction: Instruction) {
        self.instructions.push(instruction);
    }

    /// A microbatch goes forward through these units.
    pub(super) fn forward(&mut self, units: Range<u32>, microbatch: Microbatch) {
        for unit in units.clone() {
            self.gather(unit..=unit.saturating_add(self.plan.prefetch_units).min(units.end - 1));
            let keep = match (self.purpose, self.plan.units[unit as usize].recompute) {
                (Purpose::Evaluate, _) => Keep::Nothing,
                (Purpose::Train, Recompute::Nothing) => Keep::Graph,
                (Purpose::Train, Recompute::Operations) => Keep::Operations,
                (Purpose::Train, Recompute::Everything) => Keep::Input,
            };
            self.put(Instruction::Forward { unit: Unit(unit), microbatch, keep });
            // What backward needs at once, or the last unit once more.
            let is_kept = unit + 1 == units.end || self.plan.is_tied && unit == 0;
            match self.reshard {
                Reshard::Always => self.free_used(unit),
                Reshard::Default if !is_kept => self.free(unit),
                Reshard::Default | Reshard::Never => {}
            }
        }
    }

    /// A microbatch goes backward through these units, all the way or in part; `is_last` for the last one that gives gradients
    /// of their parameters.
    pub(super) fn backward(&mut self, units: Range<u32>, microbatch: Microbatch, pass: Pass, is_last: bool) {
        for unit in units.clone().rev() {
            let ahead = unit.saturating_sub(self.plan.prefetch_units).max(units.start);
            self.gather((ahead..=unit).rev());
            let again = self.plan.units[unit as usize].recompute != Recompute::Nothing;
            if pass != Pass::BackwardWeight && again {
                self.put(Instruction::Recompute(Unit(unit), microbatch));
            }
            if pass == Pass::BackwardInput {
                self.put(Instruction::BackwardInput(Unit(unit), microbatch));
                if self.reshard != Reshard::Never {
                    self.free(unit);
                }
                continue;
            }
            let takes_gradients: Vec<Unit> = self.used(unit).collect();
            if let Some(position) = self.under_way.iter().rposition(|unit| takes_gradients.contains(unit)) {
                self.finish_reductions(self.under_way.len() - position - 1);
            }
            self.put(match pass {
                Pass::BackwardWeight => Instruction::BackwardWeight(Unit(unit), microbatch),
                _ => Instruction::Backward(Unit(unit), microbatch),
            });
            match self.reshard {
                Reshard::Always => self.free_used(unit),
                Reshard::Never if !is_last => {}
                Reshard::Default | Reshard::Never => self.free(unit),
            }
            if is_last || self.plan.reduction == Reduction::EveryMicrobatch {
                self.finish_reductions(self.plan.reductions_max.max(1) as usize - 1);
                self.put(Instruction::Reduce(Unit(unit)));
                self.under_way.push(Unit(unit));
            }
        }
    }

    fn gather(&mut self, units: impl Iterator<Item = u32>) {
        let (all, is_tied) = (self.units, self.plan.is_tied);
        for unit in units.flat_map(|unit| used(Unit(unit), all, is_tied)) {
            if self.plan.gathered && !std::mem::replace(&mut self.is_whole[unit.0 as usize], true) {
                self.put(Instruction::Gather(unit));
            }
        }
    }

    fn used(&self, unit: u32) -> impl Iterator<Item = Unit> + use<> {
        used(Unit(unit), self.units, self.plan.is_tied)
    }

    /// Frees a unit and what it shares.
    fn free_used(&mut self, unit: u32) {
        self.used(unit).for_each(|unit| self.free(unit.0));
    }

    fn free(&mut self, unit: u32) {
        if std::mem::take(&mut self.is_whole[unit as usize]) {
            self.put(Instruction::Free(Unit(unit)));
        }
    }

    /// The end of an evaluation.
    pub(super) fn free_all(&mut self) {
        for unit in self.all() {
            self.free(unit);
        }
    }

    /// The end of a step.
    pub(super) fn update(&mut self) {
        self.finish_reductions(0);
        for last in [Instruction::ClipGrad, Instruction::WaitStaged, Instruction::OptimizerStep] {
            self.put(last);
        }
    }

    fn finish_reductions(&mut self, left_max: usize) {
        let done = self.under_way.len().saturating_sub(left_max);
        for unit in self.under_way.drain(..done).collect::<Vec<_>>() {
            self.put(Instruction::FinishReduce(unit));
        }
    }
}
