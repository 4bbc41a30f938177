//! What instructions cost: integers and floats that somebody else has worked out, see [`estimate`](crate::estimate).

use crate::program::{Instruction, Unit};

/// Seconds of one pass through a unit.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct Pass {
    /// In which the device computes.
    pub compute: f64,
    /// In which it waits for collectives of tensor parallelism, which are part of the pass.
    pub tensor_parallel: f64,
    /// The same of context parallelism.
    pub context_parallel: f64,
    /// Bytes that those collectives bring to the rank.
    pub carried: f64,
}

impl Pass {
    /// One that computes and waits for nothing.
    pub fn computing(seconds: f64) -> Self {
        Pass { compute: seconds, ..Pass::default() }
    }

    /// All of it.
    pub fn seconds(&self) -> f64 {
        self.compute + self.tensor_parallel + self.context_parallel
    }

    /// One after the other.
    pub fn then(&self, other: &Pass) -> Pass {
        Pass {
            compute: self.compute + other.compute,
            tensor_parallel: self.tensor_parallel + other.tensor_parallel,
            context_parallel: self.context_parallel + other.context_parallel,
            carried: self.carried + other.carried,
        }
    }
}

/// Bytes of a unit on one rank.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct UnitBytes {
    /// Its shard of the parameters, as stored.
    pub shard: u64,
    /// What the optimizer keeps of it.
    pub moments: u64,
    /// The gradient of the shard.
    pub shard_gradient: u64,
    /// Its whole parameters, as computed with.
    pub whole: u64,
    /// Their gradients, from the first backward pass until they are reduced.
    pub whole_gradient: u64,
    /// The same while they are being reduced, in the type of the reduction.
    pub reducing: u64,
    /// What a microbatch leaves for the backward pass, with everything kept.
    pub graph: u64,
    /// With outputs of costly operations kept.
    pub operations: u64,
    /// With the input alone kept.
    pub input: u64,
    /// What a microbatch leaves between the two parts of its backward pass.
    pub put_off: u64,
    /// Beside all that, the most that a pass holds while it is under way.
    pub working: u64,
    /// What gathering it brings to the rank.
    pub gather_carried: u64,
    /// What summing its gradients brings to the rank.
    pub reduce_carried: u64,
}

/// What a unit costs.
#[derive(Clone, Copy, PartialEq, Default, Debug)]
pub struct UnitCosts {
    /// Seconds to gather its parameters.
    pub gather: f64,
    /// Seconds to sum its gradients.
    pub reduce: f64,
    /// Seconds to add the sum to the gradient of the shard.
    pub finish_reduce: f64,
    /// Its share of the seconds that [`Instruction::ClipGrad`] takes.
    pub clip: f64,
    /// Its share of the seconds that [`Instruction::OptimizerStep`] takes.
    pub update: f64,
    /// Its forward pass.
    pub forward: Pass,
    /// What of it is computed again.
    pub recompute: Pass,
    /// The first part of its backward pass.
    pub backward_input: Pass,
    /// The other part.
    pub backward_weight: Pass,
    /// What it takes of memory.
    pub bytes: UnitBytes,
}

/// What a step costs, on every rank of a pipeline.
#[derive(Clone, PartialEq, Debug)]
pub struct Costs {
    /// Of every unit of the model.
    pub units: Vec<UnitCosts>,
    /// Seconds to load the batch.
    pub load_batch: f64,
    /// The loss of a microbatch and its gradient.
    pub loss: Pass,
    /// Seconds for the norm of all gradients to go round, beside what the units have of it.
    pub clip: f64,
    /// Seconds that a message between two ranks takes.
    pub message: f64,
    /// Bytes of a message.
    pub message_bytes: u64,
    /// Bytes of the logits of a microbatch, or of their gradient.
    pub logits_bytes: u64,
    /// Bytes that the loss of a microbatch takes beside them while it is computed.
    pub loss_working_bytes: u64,
}

impl Costs {
    /// Units that cost nothing.
    pub fn free(units: u32) -> Self {
        Costs {
            units: vec![UnitCosts::default(); units as usize],
            load_batch: 0.0,
            loss: Pass::default(),
            clip: 0.0,
            message: 0.0,
            message_bytes: 0,
            logits_bytes: 0,
            loss_working_bytes: 0,
        }
    }

    /// A unit's.
    pub(super) fn of(&self, unit: Unit) -> &UnitCosts {
        &self.units[unit.0 as usize]
    }

    /// What an instruction takes of the device's time; nothing where it only begins communication. `units` are those of the
    /// rank.
    pub(super) fn pass(&self, instruction: Instruction, units: &[Unit]) -> Pass {
        let sum = |of: fn(&UnitCosts) -> f64| units.iter().map(|unit| of(self.of(*unit))).sum::<f64>();
        match instruction {
            Instruction::LoadBatch => Pass::computing(self.load_batch),
            Instruction::Forward { unit, .. } => self.of(unit).forward,
            Instruction::Recompute(unit, _) => self.of(unit).recompute,
            Instruction::Loss(_) => self.loss,
            Instruction::Backward(unit, _) => {
                let UnitCosts { backward_input, backward_weight, .. } = self.of(unit);
                backward_input.then(backward_weight)
            }
            Instruction::BackwardInput(unit, _) => self.of(unit).backward_input,
            Instruction::BackwardWeight(unit, _) => self.of(unit).backward_weight,
            Instruction::FinishReduce(unit) => Pass::computing(self.of(unit).finish_reduce),
            Instruction::ClipGrad => Pass::computing(self.clip + sum(|unit| unit.clip)),
            Instruction::OptimizerStep => Pass::computing(sum(|unit| unit.update)),
            Instruction::Gather(_)
            | Instruction::Free(_)
            | Instruction::Reduce(_)
            | Instruction::Send(_)
            | Instruction::Recv(_)
            | Instruction::WaitStaged => Pass::default(),
        }
    }
}
