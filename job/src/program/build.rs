//! From choices to a program.

use super::{Instruction, Keep, Microbatch, Program, Purpose, Unit};

/// When the whole parameters of a unit are given up between its forward and its backward pass
/// (`parallelism.fsdp_reshard_after_forward` of torchtitan 0.2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reshard {
    /// After every forward pass, but for the last unit, which the backward pass needs at once.
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
    let mut writer = Writer::new(plan, Purpose::Train);
    for microbatch in (0..plan.microbatches).map(Microbatch) {
        writer.forward(microbatch);
        writer.put(Instruction::Loss(microbatch));
        writer.backward(microbatch);
    }
    writer.finish_reductions(0);
    for last in [Instruction::ClipGrad, Instruction::WaitStaged, Instruction::OptimizerStep] {
        writer.put(last);
    }
    writer.program()
}

/// The program that computes the loss of a batch and changes nothing. Of the plan, how units are gathered and the number of
/// microbatches count.
pub fn build_evaluation(plan: &Plan) -> Program {
    let mut writer = Writer::new(plan, Purpose::Evaluate);
    for microbatch in (0..plan.microbatches).map(Microbatch) {
        writer.forward(microbatch);
        writer.put(Instruction::Loss(microbatch));
    }
    for unit in 0..writer.units {
        writer.free(unit);
    }
    writer.program()
}

struct Writer<'a> {
    plan: &'a Plan,
    purpose: Purpose,
    units: u32,
    /// Of every unit, whether it is gathered, or about to be.
    is_whole: Vec<bool>,
    /// Reductions, the oldest first.
    under_way: Vec<Unit>,
    instructions: Vec<Instruction>,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan, purpose: Purpose) -> Self {
        Writer {
            plan,
            purpose,
            units: plan.units.len() as u32,
            is_whole: vec![false; plan.units.len()],
            under_way: Vec::new(),
            instructions: vec![Instruction::LoadBatch],
        }
    }

    fn program(self) -> Program {
        Program {
            purpose: self.purpose,
            units: self.units,
            microbatches: self.plan.microbatches,
            instructions: self.instructions,
        }
    }

    fn put(&mut self, instruction: Instruction) {
        self.instructions.push(instruction);
    }

    fn forward(&mut self, microbatch: Microbatch) {
        for unit in 0..self.units {
            self.gather(unit..=unit.saturating_add(self.plan.prefetch_units).min(self.units - 1));
            let keep = match (self.purpose, self.plan.units[unit as usize].recompute) {
                (Purpose::Evaluate, _) => Keep::Nothing,
                (Purpose::Train, Recompute::Nothing) => Keep::Graph,
                (Purpose::Train, Recompute::Operations) => Keep::Operations,
                (Purpose::Train, Recompute::Everything) => Keep::Input,
            };
            self.put(Instruction::Forward { unit: Unit(unit), microbatch, keep });
            let is_last = unit + 1 == self.units;
            match self.plan.reshard {
                Reshard::Always => self.free(unit),
                Reshard::Default if !is_last => self.free(unit),
                Reshard::Default | Reshard::Never => {}
            }
        }
    }

    fn backward(&mut self, microbatch: Microbatch) {
        let is_last = microbatch.0 + 1 == self.plan.microbatches;
        for unit in (0..self.units).rev() {
            self.gather((unit.saturating_sub(self.plan.prefetch_units)..=unit).rev());
            if self.plan.units[unit as usize].recompute != Recompute::Nothing {
                self.put(Instruction::Recompute(Unit(unit), microbatch));
            }
            if let Some(position) = self.under_way.iter().position(|&under_way| under_way == Unit(unit)) {
                self.finish_reductions(self.under_way.len() - position - 1);
            }
            self.put(Instruction::Backward(Unit(unit), microbatch));
            if self.plan.reshard != Reshard::Never || is_last {
                self.free(unit);
            }
            if is_last || self.plan.reduction == Reduction::EveryMicrobatch {
                self.finish_reductions(self.plan.reductions_max.max(1) as usize - 1);
                self.put(Instruction::Reduce(Unit(unit)));
                self.under_way.push(Unit(unit));
            }
        }
    }

    fn gather(&mut self, units: impl Iterator<Item = u32>) {
        for unit in units {
            if self.plan.gathered && !std::mem::replace(&mut self.is_whole[unit as usize], true) {
                self.put(Instruction::Gather(Unit(unit)));
            }
        }
    }

    fn free(&mut self, unit: u32) {
        if std::mem::take(&mut self.is_whole[unit as usize]) {
            self.put(Instruction::Free(Unit(unit)));
        }
    }

    fn finish_reductions(&mut self, left_max: usize) {
        let done = self.under_way.len().saturating_sub(left_max);
        for unit in self.under_way.drain(..done).collect::<Vec<_>>() {
            self.put(Instruction::FinishReduce(unit));
        }
    }
}
